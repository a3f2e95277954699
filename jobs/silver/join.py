"""Joins a clean batch to the rows of a silver table: appended, merged by key, or kept as revisions or snapshots."""

from __future__ import annotations

from jobs import lake
from jobs.declared.catalog import Silver, SilverMode
from jobs.declared.contract import Contract
from jobs.declared.sql import quote
from jobs.lake import ORIGIN, connect
from jobs.lake.partitions import APART_FROM_ROWS, lying_together, partition_filter
from jobs.silver.change import Change, Incoming, differs
from jobs.silver.deduplicate import refusals, same_key


def changes(work: lake.Workspace, table: str, batch: Incoming, contract: Contract, silver: Silver) -> Change:
    """Compare a clean batch with the table's newest version, which is the checked one or empty."""
    mode = silver.mode
    if mode == "snapshot":
        from jobs.silver.snapshot import snapshot_changes

        return snapshot_changes(work, table, batch, contract, silver)
    if not batch.rows:
        return Change("", "append", 0)
    if mode == "revisions":
        from jobs.silver.revisions import revision_changes

        return revision_changes(work, table, batch, contract)
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    all_rows = f"SELECT {columns} FROM ({batch.good})"
    if lake.rows(table) == 0:
        return Change(all_rows, "append", batch.rows)
    where = partition_filter(table, contract, work.show("batch", connect().sql(batch.good)))
    if where is None:
        return Change(all_rows, "append", batch.rows)
    compared = work.stage("compared", _compared(work, table, contract, where))
    return _joined(compared, work.counts("compared", "verdict"), contract, mode, where)


def write(work: lake.Workspace, table: str, change: Change, contract: Contract) -> int | None:
    """Commit a change; returns the new version, or None if there is nothing to write."""
    if change.how == "append":
        if not change.written:
            return None
        apart = lying_together(contract, work.view("good_rows")) if change.written >= APART_FROM_ROWS else None
        return lake.append(table, connect().sql(change.view), apart=apart)
    merged = work.show("merged", connect().sql(change.view))
    columns = list(lake.columns_at(table))
    assignments = ", ".join(f"{quote(c)} = s.{quote(c)}" for c in columns)
    names, values = ", ".join(map(quote, columns)), ", ".join(f"s.{quote(c)}" for c in columns)
    return lake.merge(
        table, merged, change.on,
        f"WHEN MATCHED AND s._gone THEN DELETE WHEN MATCHED THEN UPDATE SET {assignments}"
        f" WHEN NOT MATCHED AND NOT s._gone THEN INSERT ({names}) VALUES ({values})",
    )  # fmt: skip


def _compared(work: lake.Workspace, table: str, contract: Contract, where: str) -> str:
    """SELECT of the batch's rows with a verdict on each.

    A row equal to the table's is unchanged, unless the table's row came from the batch itself or the batch had other
    content in between: its origin then moves to the landing that brought that content again.
    """
    columns = ", ".join(f"g.{quote(c)}" for c in (*contract.names, *ORIGIN))
    repeats = "t._landing_sha256 = g._landing_sha256 AND t._row = g._row OR g._whole AND l._landing_id IS NULL"
    verdict = (
        "CASE WHEN t._landing_sha256 IS NULL THEN 'new'"
        f" WHEN {differs(contract, 't', 'g')} THEN 'changed' WHEN {repeats} THEN 'unchanged' ELSE 'again' END"
    )
    existing = f"(SELECT * FROM {lake.from_path(table)} t WHERE {where})"
    return (
        f"SELECT {columns}, {verdict} AS verdict FROM {work.view('batch')} g LEFT JOIN {existing} t"
        f" ON {same_key(contract, 't', 'g')}"
        f" LEFT JOIN {work.view('landings')} l ON t._landing_sha256 = l._landing_sha256"
    )


def _joined(compared: str, counts: dict[str, int], contract: Contract, mode: SilverMode, where: str) -> Change:
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    new, changed = counts.get("new", 0), counts.get("changed", 0)
    again, unchanged = counts.get("again", 0), counts.get("unchanged", 0)
    new_rows = f"SELECT {columns} FROM {compared} WHERE verdict = 'new'"
    if mode == "append":
        return Change(
            new_rows, "append", new, unchanged=unchanged + again, refused=changed,
            refused_rows=refusals(compared, contract, ("changed",)) if changed else None,
        )  # fmt: skip
    if not changed and not again:
        return Change(new_rows, "append", new, unchanged=unchanged)
    return Change(
        f"SELECT {columns}, false AS _gone FROM {compared} WHERE verdict <> 'unchanged'", "merge",
        new + changed + again, unchanged=unchanged, on=f"({where}) AND {same_key(contract, 't', 's')}",
    )  # fmt: skip
