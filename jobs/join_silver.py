"""How a clean batch joins the rows that a silver table already has: appended, merged by key, or kept as revisions."""

from __future__ import annotations

from dataclasses import dataclass

from jobs import lake
from jobs.catalog import SilverMode
from jobs.contract import Contract
from jobs.rules import literal, quote
from jobs.spark import connect
from jobs.split import ORIGIN

_REVISION = ("_known_at", "_superseded_at")


@dataclass(frozen=True)
class Change:
    """What a batch does to a table.

    Attributes:
        view: SELECT of the rows to write, in the table's columns.
        how: `append` needs no look at the table; `merge` replaces rows by key; `replace` makes the table anew.
        where: SQL over the table (alias t) that holds the partitions which a merge may touch.
    """

    view: str
    how: str
    written: int
    unchanged: int = 0
    superseded: int = 0
    refused: int = 0
    refused_rows: str | None = None
    where: str = "true"


def changes(table: str, good: str, contract: Contract, mode: SilverMode, *, rebuild: bool, rows: int) -> Change:
    """Compare a clean batch with the table's newest version.

    Args:
        table: the silver table, standing at its checked version.
        good: SELECT of the batch, one row per key (per key and instant for `revisions`).
        contract: the table's contract.
        mode: how later landings join earlier ones.
        rebuild: make the table anew from this batch alone.
        rows: number of rows of the batch.
    """
    spark = connect()
    if mode == "revisions":
        from jobs.revisions import revision_changes

        return revision_changes(table, good, contract, rebuild=rebuild, rows=rows)
    empty = rebuild or lake.rows(table) == 0
    if empty:
        return Change(good, "replace" if rebuild else "append", rows)
    spark.sql(good).createOrReplaceTempView("batch")
    where = touched(table, contract, "batch")
    if where is None:
        return Change(good, "append", rows)
    lake.stage("compared", _compared(table, contract, where))
    counts = {r["verdict"]: r["n"] for r in spark.sql("SELECT verdict, count(*) AS n FROM compared GROUP BY verdict").collect()}
    return _joined(counts, contract, mode, where)


def touched(table: str, contract: Contract, view: str) -> str | None:
    """SQL over alias t for the table's partitions that a batch falls into; None if it falls into none that exist."""
    if not contract.partitions:
        return "true"
    names = ", ".join(map(quote, contract.partitions))
    wanted = {
        tuple((n, None if row[n] is None else str(row[n])) for n in contract.partitions)
        for row in connect().sql(f"SELECT DISTINCT {names} FROM {view}").collect()
    }
    present = wanted & {f.partition for f in lake.files(table)}
    return lake.predicate(present, "t") if present else None


def write(table: str, change: Change, contract: Contract, mode: SilverMode) -> int | None:
    """Commit a change; returns the version it made, or None if there is nothing to write."""
    if change.how == "replace":
        return lake.overwrite(table, connect().sql(change.view), schema=True)
    if not change.written:
        return None
    if change.how == "append":
        return lake.append(table, connect().sql(change.view))
    connect().sql(change.view).createOrReplaceTempView("merged")
    key = (*contract.key, "_known_at") if mode == "revisions" else contract.key
    same = " AND ".join(f"t.{quote(k)} = s.{quote(k)}" for k in key)
    return lake.merge(
        table, "merged", f"({change.where}) AND {same}", "WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *"
    )


def differs(contract: Contract, left: str, right: str) -> str:
    """SQL that is true where two rows with one key differ in any other column."""
    others = [c for c in contract.names if c not in contract.key]
    return "NOT (" + (" AND ".join(f"{left}.{quote(c)} <=> {right}.{quote(c)}" for c in others) or "true") + ")"


def _compared(table: str, contract: Contract, where: str) -> str:
    columns = ", ".join(f"g.{quote(c)}" for c in (*contract.names, *ORIGIN))
    same = " AND ".join(f"t.{quote(k)} = g.{quote(k)}" for k in contract.key)
    verdict = (
        "CASE WHEN t._landing_sha256 IS NULL THEN 'new'"
        f" WHEN NOT ({differs(contract, 't', 'g')}) THEN 'unchanged'"
        " WHEN t._logical_date > g._logical_date THEN 'older' ELSE 'changed' END"
    )
    present = f"(SELECT * FROM delta.`{lake.location(table)}` t WHERE {where})"
    return f"SELECT {columns}, {verdict} AS verdict FROM batch g LEFT JOIN {present} t ON {same}"


def _joined(counts: dict[str, int], contract: Contract, mode: SilverMode, where: str) -> Change:
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    new, changed = counts.get("new", 0), counts.get("changed", 0)
    unchanged, older = counts.get("unchanged", 0), counts.get("older", 0)
    fresh = f"SELECT {columns} FROM compared WHERE verdict = 'new'"
    if mode == "append":
        refused = changed + older
        return Change(
            fresh, "append", new, unchanged=unchanged, refused=refused,
            refused_rows=_refused_rows(contract) if refused else None,
        )  # fmt: skip
    if not changed:
        return Change(fresh, "append", new, unchanged=unchanged, superseded=older)
    both = f"SELECT {columns} FROM compared WHERE verdict IN ('new', 'changed')"
    return Change(both, "merge", new + changed, unchanged=unchanged, superseded=older, where=where)


def _refused_rows(contract: Contract) -> str:
    value = "concat_ws(', ', " + ", ".join(f"CAST({quote(k)} AS STRING)" for k in contract.key) + ")"
    shown = ", ".join(f"{literal(c)}, {quote(c)}" for c in contract.names)
    origin = ", ".join(map(quote, ORIGIN))
    return (
        f"SELECT 'key.changed' AS rule, {literal(', '.join(contract.key))} AS column_name, {value} AS value,"
        f" to_json(named_struct({shown})) AS record, {origin} FROM compared WHERE verdict IN ('changed', 'older')"
    )
