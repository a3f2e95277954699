"""Decides between rows of one batch that share a key: copies are counted, contradictions refused, later ones win."""

from __future__ import annotations

from dataclasses import dataclass

from jobs import lake
from jobs.declared.catalog import SilverMode
from jobs.declared.contract import Contract
from jobs.declared.sql import literal, quote
from jobs.lake import ORIGIN, connect
from jobs.lake.partitions import partition_filter

# Cheaper to group by than a key itself: few rows share one, and only those are compared.
_HASH = "xxhash64"


@dataclass(frozen=True)
class Clean:
    """A batch in which each key names one row (with `revisions`: one row per instant at which it became known).

    Attributes:
        good: SELECT of the rows that remain, with ``_whole``: whether all of the batch's rows of that key agree.
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


def deduplicate(work: lake.Workspace, table: str, good: str, contract: Contract, mode: SilverMode) -> Clean:
    """Leave one row per key.

    Rows of one landing that agree in every column are duplicates of the first. Rows of one landing that share a key
    and disagree are all refused (``key.contradiction``): nothing says which of them is right. Between landings the one
    of the latest logical date wins (`merge`, and `revisions` within one logical date), or the first to arrive
    (`append`, where a later row that differs is refused as ``key.changed``). The row that remains is the one by which
    its content became known: later ones that only repeat it are duplicates.

    Args:
        work: where the batch's rows are staged; its view `landings` orders their landings.
        table: the table that the batch is to join; with `append`, what it holds came first.
        good: SELECT of the contract's columns and the origin columns.
        contract: the table's contract.
        mode: how later landings join earlier ones.
    """
    hashed = f"{_HASH}({', '.join(map(quote, contract.key))})"
    rows = work.show("good_rows", connect().sql(good))
    shared = work.stage("shared", f"SELECT {hashed} AS _hash FROM {rows} GROUP BY 1 HAVING count(*) > 1")
    if connect().table(shared).isEmpty():
        return Clean(f"SELECT *, true AS _whole FROM ({good})")
    suspects = work.stage("suspects", f"SELECT g.* FROM {rows} g LEFT SEMI JOIN {shared} s ON {hashed} = s._hash")
    where = partition_filter(table, contract, suspects) if mode == "append" and lake.rows(table) else None
    standing = f"(SELECT * FROM {lake.from_path(table)} t WHERE {where})" if where else None
    verdicts = work.stage("verdicts", _verdicts(work, contract, mode, standing))
    counts = work.counts("verdicts", "verdict")
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    refused = counts.get("contradiction", 0) + counts.get("changed", 0)
    return Clean(
        good=(
            f"SELECT {columns}, true AS _whole FROM {rows} g LEFT ANTI JOIN {verdicts} k"
            f" ON {same_key(contract, 'g', 'k')}"
            f" UNION ALL SELECT {columns}, _whole FROM {verdicts} WHERE verdict = 'keep'"
        ),
        duplicate=counts.get("duplicate", 0),
        superseded=counts.get("superseded", 0),
        refused=refused,
        refused_rows=refusals(verdicts, contract, ("contradiction", "changed")) if refused else None,
    )


def same_key(contract: Contract, left: str, right: str, *more: str) -> str:
    """SQL that is true where two rows have one key; no column of a key is null."""
    return " AND ".join(f"{left}.{quote(k)} = {right}.{quote(k)}" for k in (*contract.key, *more))


def content(contract: Contract, alias: str = "", *, but: tuple[str, ...] = ()) -> str:
    """SQL of a text that two rows share if all their columns are equal; exact for every type."""
    prefix = f"{alias}." if alias else ""
    cells = ", ".join(f"{literal(c)}, CAST({prefix}{quote(c)} AS STRING)" for c in contract.names if c not in but)
    return f"to_json(named_struct({cells}))" if cells else "''"


def refusals(view: str, contract: Contract, verdicts: tuple[str, ...]) -> str:
    """SELECT of the rows of a view with one of these verdicts, in quarantine's columns."""
    columns = literal(", ".join(contract.key))
    value = "concat_ws(', ', " + ", ".join(f"CAST({quote(k)} AS STRING)" for k in contract.key) + ")"
    origin = ", ".join(map(quote, ORIGIN))
    listed = ", ".join(map(literal, verdicts))
    return (
        f"SELECT concat('key.', verdict) AS rule, {columns} AS column_name, {value} AS value,"
        f" {content(contract)} AS record, {origin} FROM {view} WHERE verdict IN ({listed})"
    )


def _verdicts(work: lake.Workspace, contract: Contract, mode: SilverMode, standing: str | None) -> str:
    """SELECT of every row whose key is repeated, with a verdict on it.

    Rows that do not contradict each other stand in a line, in the order in which landings count. Where its content
    changes, a line has a turn; the row at the last turn is the one that remains.
    """
    columns = ", ".join(f"g.{quote(c)}" for c in (*contract.names, *ORIGIN))
    key = ", ".join(map(quote, contract.key))
    line = f"PARTITION BY {key}{', _logical_date' if mode == 'revisions' else ''}, _stands"
    order = "_landing_id" if mode == "append" else "_logical_date, _landing_id"
    rows = (
        f"SELECT {columns}, l._landing_id, {content(contract, 'g')} AS _content FROM {work.view('suspects')} g"
        f" JOIN {work.view('landings')} l ON g._landing_sha256 = l._landing_sha256"
    )
    if standing:
        known = ", ".join(f"t.{quote(c)}" for c in (*contract.names, *ORIGIN))
        rows += (
            f" UNION ALL SELECT {known}, 0 AS _landing_id, {content(contract, 't')} AS _content FROM {standing} t"
            f" LEFT SEMI JOIN {work.view('suspects')} g ON {same_key(contract, 't', 'g')}"
        )
    landing = f"PARTITION BY {key}, _landing_id"
    within = (
        f"SELECT *, min(_content) OVER ({landing}) <> max(_content) OVER ({landing}) AS _contradicts,"
        f" row_number() OVER ({landing} ORDER BY _file, _row) AS _nth,"
        # Two keys may share a hash: a suspect need not be there twice.
        f" sum(CASE WHEN _landing_id > 0 THEN 1 ELSE 0 END) OVER (PARTITION BY {key}) AS _copies FROM ({rows})"
    )
    stood = f"SELECT *, NOT _contradicts AND _nth = 1 AS _stands FROM ({within})"
    before = (
        f"SELECT *, lag(_content) OVER ({line} ORDER BY {order}) AS _before,"
        f" first_value(_content) OVER ({line} ORDER BY {order}) AS _first FROM ({stood})"
    )
    turning = f"SELECT *, CASE WHEN _before IS NULL OR _before <> _content THEN 1 ELSE 0 END AS _turns FROM ({before})"
    so_far = f"{line} ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    turns = f"SELECT *, sum(_turns) OVER ({so_far}) AS _turn, sum(_turns) OVER ({line}) AS _last FROM ({turning})"
    if mode == "append":
        places = "WHEN _before IS NULL THEN 'keep' WHEN _content = _first THEN 'duplicate' ELSE 'changed'"
    else:
        places = "WHEN _turns = 0 THEN 'duplicate' WHEN _turn = _last THEN 'keep' ELSE 'superseded'"
    return (
        "SELECT *, _last = 1 AS _whole, CASE WHEN _contradicts THEN 'contradiction' WHEN _nth > 1 THEN 'duplicate'"
        f" {places} END AS verdict FROM ({turns})"
        " WHERE _landing_id > 0 AND _copies > 1"
    )
