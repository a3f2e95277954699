"""How a clean batch joins the rows that a silver table already has: appended, merged by key, or kept as revisions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from jobs import lake
from jobs.catalog import SilverMode
from jobs.contract import Contract
from jobs.deduplicate import refusals, same_key
from jobs.partitions import lying_together, touched
from jobs.rules import quote
from jobs.spark import connect
from jobs.split import ORIGIN

# From so many rows on it is worth a look how they lie before they are written.
_MANY_ROWS = 1_000_000


@dataclass(frozen=True)
class Change:
    """What a batch does to a table.

    Attributes:
        view: SELECT of the rows to write, in the table's columns; for `merge` with ``_gone``, true for rows to delete.
        how: `append` needs no look at the table; `merge` replaces and deletes rows by key.
        written: rows of the batch that the table gets.
        on: SQL over the table (alias t) and the view (alias s) by which a merge finds rows.
    """

    view: str
    how: str
    written: int
    unchanged: int = 0
    superseded: int = 0
    refused: int = 0
    refused_rows: str | None = None
    on: str = "true"


@dataclass(frozen=True)
class Incoming:
    """A clean batch.

    Attributes:
        good: SELECT of its rows, one per key (per key and instant for `revisions`), with ``_whole``.
        rows: their number.
        since: the earliest logical date in it.
        instants: how many logical dates it has.
        is_late: whether the table holds rows of that date or a later one; landings of those dates are then all in it.
    """

    good: str
    rows: int
    since: datetime
    instants: int
    is_late: bool = False


def changes(table: str, batch: Incoming, contract: Contract, mode: SilverMode) -> Change:
    """Compare a clean batch with the table's newest version, which stands at its checked one or is empty."""
    if not batch.rows:
        return Change("", "append", 0)
    if mode == "revisions":
        from jobs.revisions import revision_changes

        return revision_changes(table, batch, contract)
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    everything = f"SELECT {columns} FROM ({batch.good})"
    if lake.rows(table) == 0:
        return Change(everything, "append", batch.rows)
    connect().sql(batch.good).createOrReplaceTempView("batch")
    where = touched(table, contract, "batch")
    if where is None:
        return Change(everything, "append", batch.rows)
    lake.stage("compared", _compared(table, contract, where))
    return _joined(lake.counts("compared", "verdict"), contract, mode, where)


def write(table: str, change: Change, contract: Contract) -> int | None:
    """Commit a change; returns the version it made, or None if there is nothing to write."""
    if change.how == "append":
        if not change.written:
            return None
        apart = lying_together(contract, "good_rows") if change.written >= _MANY_ROWS else None
        return lake.append(table, connect().sql(change.view), apart=apart)
    connect().sql(change.view).createOrReplaceTempView("merged")
    columns = list(lake.columns_at(table))
    setting = ", ".join(f"{quote(c)} = s.{quote(c)}" for c in columns)
    names, values = ", ".join(map(quote, columns)), ", ".join(f"s.{quote(c)}" for c in columns)
    return lake.merge(
        table, "merged", change.on,
        f"WHEN MATCHED AND s._gone THEN DELETE WHEN MATCHED THEN UPDATE SET {setting}"
        f" WHEN NOT MATCHED AND NOT s._gone THEN INSERT ({names}) VALUES ({values})",
    )  # fmt: skip


def differs(contract: Contract, left: str, right: str) -> str:
    """SQL that is true where two rows with one key differ in any other column."""
    others = [c for c in contract.names if c not in contract.key]
    return "NOT (" + (" AND ".join(f"{left}.{quote(c)} <=> {right}.{quote(c)}" for c in others) or "true") + ")"


def _compared(table: str, contract: Contract, where: str) -> str:
    """SELECT of the batch's rows with a verdict on each.

    A row equal to the table's is unchanged, unless the table's row is itself of the batch, or the batch held another
    content in between: its origin then moves to the landing by which that content became known again.
    """
    columns = ", ".join(f"g.{quote(c)}" for c in (*contract.names, *ORIGIN))
    repeats = "t._landing_sha256 = g._landing_sha256 AND t._row = g._row OR g._whole AND l._landing_id IS NULL"
    verdict = (
        "CASE WHEN t._landing_sha256 IS NULL THEN 'new'"
        f" WHEN {differs(contract, 't', 'g')} THEN 'changed' WHEN {repeats} THEN 'unchanged' ELSE 'again' END"
    )
    present = f"(SELECT * FROM {lake.from_path(table)} t WHERE {where})"
    return (
        f"SELECT {columns}, {verdict} AS verdict FROM batch g LEFT JOIN {present} t ON {same_key(contract, 't', 'g')}"
        " LEFT JOIN landings l ON t._landing_sha256 = l._landing_sha256"
    )


def _joined(counts: dict[str, int], contract: Contract, mode: SilverMode, where: str) -> Change:
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    new, changed = counts.get("new", 0), counts.get("changed", 0)
    again, unchanged = counts.get("again", 0), counts.get("unchanged", 0)
    fresh = f"SELECT {columns} FROM compared WHERE verdict = 'new'"
    if mode == "append":
        return Change(
            fresh, "append", new, unchanged=unchanged + again, refused=changed,
            refused_rows=refusals("compared", contract, ("changed",)) if changed else None,
        )  # fmt: skip
    if not changed and not again:
        return Change(fresh, "append", new, unchanged=unchanged)
    return Change(
        f"SELECT {columns}, false AS _gone FROM compared WHERE verdict <> 'unchanged'", "merge", new + changed + again,
        unchanged=unchanged, on=f"({where}) AND {same_key(contract, 't', 's')}",
    )  # fmt: skip
