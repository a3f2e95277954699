"""Decides between rows of one batch that share a key: exact copies are counted, contradictions are refused, later ones win."""

from __future__ import annotations

from dataclasses import dataclass

from jobs import lake
from jobs.catalog import SilverMode
from jobs.contract import Contract
from jobs.rules import literal, quote
from jobs.spark import connect
from jobs.split import ORIGIN


@dataclass(frozen=True)
class Clean:
    """A batch in which each key names one row (with `revisions`: one row per instant at which it became known).

    Attributes:
        good: SELECT of the rows that remain.
        refused_rows: SELECT of contradicting rows in quarantine's columns, or None.
    """

    good: str
    duplicate: int = 0
    superseded: int = 0
    refused: int = 0
    refused_rows: str | None = None

    @property
    def taken_out(self) -> int:
        """Rows of the batch that do not remain."""
        return self.duplicate + self.superseded + self.refused


def deduplicate(good: str, contract: Contract, mode: SilverMode, *, duplicates: bool) -> Clean:
    """Leave one row per key.

    Rows of one landing that agree in every column are duplicates of the first. Rows of one landing that share a key and
    disagree are all refused (``key.contradiction``): nothing says which of them is right. Between landings the later one
    wins (`merge`, and `revisions` within one logical date), or the first one (`append`, where a later row that differs
    is refused as ``key.changed``).

    Args:
        good: SELECT of the contract's columns and the origin columns; a view `landings` orders their landings.
        contract: the table's contract.
        mode: how later landings join earlier ones.
        duplicates: whether any key occurs twice; when not, nothing is looked at again.
    """
    if not duplicates:
        return Clean(good)
    spark = connect()
    spark.sql(good).createOrReplaceTempView("good_rows")
    lake.stage("repeated", _repeated(contract))
    lake.stage("verdicts", _verdicts(contract, mode))
    counts = {r["verdict"]: r["n"] for r in spark.sql("SELECT verdict, count(*) AS n FROM verdicts GROUP BY verdict").collect()}
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    same = " AND ".join(f"g.{quote(k)} <=> k.{quote(k)}" for k in contract.key)
    refused = counts.get("contradiction", 0) + counts.get("changed", 0)
    return Clean(
        good=(
            f"SELECT {columns} FROM good_rows g LEFT ANTI JOIN repeated k ON {same}"
            f" UNION ALL SELECT {columns} FROM verdicts WHERE verdict = 'keep'"
        ),
        duplicate=counts.get("duplicate", 0),
        superseded=counts.get("superseded", 0),
        refused=refused,
        refused_rows=_refused_rows(contract) if refused else None,
    )


def _repeated(contract: Contract) -> str:
    key = ", ".join(map(quote, contract.key))
    return f"SELECT {key} FROM good_rows GROUP BY {key} HAVING count(*) > 1"


def _verdicts(contract: Contract, mode: SilverMode) -> str:
    """SELECT of every row whose key is repeated, with a verdict on it."""
    columns = ", ".join(f"g.{quote(c)}" for c in (*contract.names, *ORIGIN))
    same = " AND ".join(f"g.{quote(k)} <=> k.{quote(k)}" for k in contract.key)
    shown = ", ".join(f"{literal(c)}, g.{quote(c)}" for c in contract.names)
    key = ", ".join(map(quote, contract.key))
    instant = f"{key}, _logical_date" if mode == "revisions" else key
    rows = (
        f"SELECT {columns}, l._landing_id, to_json(named_struct({shown})) AS _content FROM good_rows g"
        f" JOIN repeated k ON {same} JOIN landings l ON g._landing_sha256 = l._landing_sha256"
    )
    within = (
        f"SELECT *, min(_content) OVER (PARTITION BY {key}, _landing_id) <> max(_content) OVER (PARTITION BY {key}, _landing_id)"
        f" AS _contradicts, row_number() OVER (PARTITION BY {key}, _landing_id ORDER BY _file, _row) AS _nth FROM ({rows})"
    )
    candidate = "NOT _contradicts AND _nth = 1"
    order = "_logical_date, _landing_id" if mode == "append" else "_logical_date DESC, _landing_id DESC"
    across = (
        f"SELECT *, row_number() OVER (PARTITION BY {instant}, {candidate} ORDER BY {order}) AS _place,"
        f" first_value(_content) OVER (PARTITION BY {instant}, {candidate} ORDER BY {order}) AS _winner FROM ({within})"
    )
    beaten = (
        "CASE WHEN _content = _winner THEN 'duplicate' ELSE 'changed' END" if mode == "append"
        else "CASE WHEN _content = _winner THEN 'duplicate' ELSE 'superseded' END"
    )  # fmt: skip
    return (
        "SELECT *, CASE WHEN _contradicts THEN 'contradiction' WHEN _nth > 1 THEN 'duplicate'"
        f" WHEN _place = 1 THEN 'keep' ELSE {beaten} END AS verdict FROM ({across})"
    )


def _refused_rows(contract: Contract) -> str:
    columns = literal(", ".join(contract.key))
    value = "concat_ws(', ', " + ", ".join(f"CAST({quote(k)} AS STRING)" for k in contract.key) + ")"
    origin = ", ".join(map(quote, ORIGIN))
    return (
        f"SELECT concat('key.', verdict) AS rule, {columns} AS column_name, {value} AS value, _content AS record, {origin}"
        " FROM verdicts WHERE verdict IN ('contradiction', 'changed')"
    )
