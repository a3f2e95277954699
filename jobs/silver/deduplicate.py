"""Decides between rows of a batch that share a key: copies are counted, contradictions refused, later rows win."""

from __future__ import annotations

from dataclasses import dataclass

from jobs import lake
from jobs.declared.catalog import SilverMode
from jobs.declared.contract import Contract
from jobs.declared.sql import literal, quote
from jobs.lake import ORIGIN, connect
from jobs.lake.partitions import partition_filter

# Cheaper to group by than the key itself: few rows share a hash, and only those are compared.
_HASH = "xxhash64"
# What tells rows of the same key apart where each landing is a list by itself.
_APART = ("_landing_sha256",)


@dataclass(frozen=True)
class Clean:
    """A batch with one row per key (with `revisions`: one row per key and instant at which it became known).

    Attributes:
        good: SELECT of the remaining rows, with ``_whole``: whether all of the batch's rows of that key agree.
        refused_rows: SELECT of the contradicting rows in quarantine's columns, or None.
        contradictions: SELECT of the contradicting rows, or None.
    """

    good: str
    duplicate: int = 0
    superseded: int = 0
    refused: int = 0
    refused_rows: str | None = None
    contradictions: str | None = None

    @property
    def removed(self) -> int:
        """Number of the batch's rows that do not remain."""
        return self.duplicate + self.superseded + self.refused


def deduplicate(work: lake.Workspace, table: str, good: str, contract: Contract, mode: SilverMode) -> Clean:
    """Leave one row per key.

    Rows of one landing that agree in every column are duplicates of the first. Rows of one landing that share a key
    but disagree are all refused (``key.contradiction``), because it is unknown which of them is right. Between landings
    the latest logical date wins (`merge`, and `revisions` within one logical date), or the first to arrive (`append`,
    where a later row that differs is refused as ``key.changed``); with `snapshot` each landing is by itself. The row
    that is kept is the one that introduced its content: later rows that only repeat it are duplicates.

    Args:
        work: where the batch's rows are staged; its view `landings` orders their landings.
        table: the table that the batch will join; with `append`, its rows precede the batch's.
        good: SELECT of the contract's columns and the origin columns.
        contract: the table's contract.
        mode: how later landings join earlier ones.
    """
    apart = _APART if mode == "snapshot" else ()
    hashed = f"{_HASH}({', '.join(map(quote, (*contract.key, *apart)))})"
    rows = work.show("good_rows", connect().sql(good))
    shared = work.stage("shared", f"SELECT {hashed} AS _hash FROM {rows} GROUP BY 1 HAVING count(*) > 1")
    if connect().table(shared).isEmpty():
        return Clean(f"SELECT *, true AS _whole FROM ({good})")
    suspects = work.stage("suspects", f"SELECT g.* FROM {rows} g LEFT SEMI JOIN {shared} s ON {hashed} = s._hash")
    where = partition_filter(table, contract, suspects) if mode == "append" and lake.rows(table) else None
    existing = f"(SELECT * FROM {lake.from_path(table)} t WHERE {where})" if where else None
    verdicts = work.stage("verdicts", _verdicts(work, contract, mode, existing))
    counts = work.counts("verdicts", "verdict")
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    refused = counts.get("contradiction", 0) + counts.get("changed", 0)
    return Clean(
        good=(
            f"SELECT {columns}, true AS _whole FROM {rows} g LEFT ANTI JOIN {verdicts} k"
            f" ON {same_key(contract, 'g', 'k', *apart)}"
            f" UNION ALL SELECT {columns}, _whole FROM {verdicts} WHERE verdict = 'keep'"
        ),
        duplicate=counts.get("duplicate", 0),
        superseded=counts.get("superseded", 0),
        refused=refused,
        refused_rows=refusals(verdicts, contract, ("contradiction", "changed")) if refused else None,
        contradictions=f"SELECT * FROM {verdicts} WHERE verdict = 'contradiction'" if refused else None,
    )


def same_key(contract: Contract, left: str, right: str, *more: str) -> str:
    """SQL that is true where two rows have the same key; key columns are never null."""
    return " AND ".join(f"{left}.{quote(k)} = {right}.{quote(k)}" for k in (*contract.key, *more))


def content(contract: Contract, alias: str = "", *, but: tuple[str, ...] = ()) -> str:
    """SQL of a string that is equal for two rows if and only if all their columns are; exact for every type."""
    prefix = f"{alias}." if alias else ""
    cells = ", ".join(f"{literal(c)}, CAST({prefix}{quote(c)} AS STRING)" for c in contract.names if c not in but)
    return f"to_json(named_struct({cells}))" if cells else "''"


def refusals(view: str, contract: Contract, verdicts: tuple[str, ...], *, of: str = "key") -> str:
    """SELECT of the rows of a view with one of these verdicts, in quarantine's columns; the rule is ``of.verdict``."""
    columns = literal(", ".join(contract.key))
    value = "concat_ws(', ', " + ", ".join(f"CAST({quote(k)} AS STRING)" for k in contract.key) + ")"
    origin = ", ".join(map(quote, ORIGIN))
    listed = ", ".join(map(literal, verdicts))
    return (
        f"SELECT concat({literal(f'{of}.')}, verdict) AS rule, {columns} AS column_name, {value} AS value,"
        f" {content(contract)} AS record, {origin} FROM {view} WHERE verdict IN ({listed})"
    )


def _verdicts(work: lake.Workspace, contract: Contract, mode: SilverMode, existing: str | None) -> str:
    """SELECT of every row with a repeated key, with a verdict on it.

    The rows of a key that do not contradict each other form a sequence, in the order of their landings. Each row whose
    content differs from the row before it is a change; the row of the last change is kept.
    """
    columns = ", ".join(f"g.{quote(c)}" for c in (*contract.names, *ORIGIN))
    key = ", ".join(map(quote, contract.key))
    of_list = ", _landing_id" if mode == "snapshot" else ""
    sequence = f"PARTITION BY {key}{', _logical_date' if mode == 'revisions' else of_list}, _is_candidate"
    order = "_landing_id" if mode == "append" else "_logical_date, _landing_id"
    rows = (
        f"SELECT {columns}, l._landing_id, {content(contract, 'g')} AS _content FROM {work.view('suspects')} g"
        f" JOIN {work.view('landings')} l ON g._landing_sha256 = l._landing_sha256"
    )
    if existing:
        earlier = ", ".join(f"t.{quote(c)}" for c in (*contract.names, *ORIGIN))
        rows += (
            f" UNION ALL SELECT {earlier}, 0 AS _landing_id, {content(contract, 't')} AS _content FROM {existing} t"
            f" LEFT SEMI JOIN {work.view('suspects')} g ON {same_key(contract, 't', 'g')}"
        )
    landing = f"PARTITION BY {key}, _landing_id"
    within = (
        f"SELECT *, min(_content) OVER ({landing}) <> max(_content) OVER ({landing}) AS _contradicts,"
        f" row_number() OVER ({landing} ORDER BY _file, _row) AS _nth,"
        # Two keys may share a hash, so a suspect may turn out to be the only row of its key.
        f" sum(CASE WHEN _landing_id > 0 THEN 1 ELSE 0 END) OVER (PARTITION BY {key}{of_list}) AS _copies FROM ({rows})"
    )
    candidates = f"SELECT *, NOT _contradicts AND _nth = 1 AS _is_candidate FROM ({within})"
    before = (
        f"SELECT *, lag(_content) OVER ({sequence} ORDER BY {order}) AS _before,"
        f" first_value(_content) OVER ({sequence} ORDER BY {order}) AS _first FROM ({candidates})"
    )
    is_change = "CASE WHEN _before IS NULL OR _before <> _content THEN 1 ELSE 0 END"
    changing = f"SELECT *, {is_change} AS _changes FROM ({before})"
    so_far = f"{sequence} ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    numbered = (
        f"SELECT *, sum(_changes) OVER ({so_far}) AS _change, sum(_changes) OVER ({sequence}) AS _last_change"
        f" FROM ({changing})"
    )
    if mode == "append":
        ranking = "WHEN _before IS NULL THEN 'keep' WHEN _content = _first THEN 'duplicate' ELSE 'changed'"
    else:
        ranking = "WHEN _changes = 0 THEN 'duplicate' WHEN _change = _last_change THEN 'keep' ELSE 'superseded'"
    return (
        "SELECT *, _last_change = 1 AS _whole,"
        " CASE WHEN _contradicts THEN 'contradiction' WHEN _nth > 1 THEN 'duplicate'"
        f" {ranking} END AS verdict FROM ({numbered})"
        " WHERE _landing_id > 0 AND _copies > 1"
    )
