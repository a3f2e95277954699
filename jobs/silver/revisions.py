"""Keeps every version of a row with the time it became known, so that a table can be read as known on a date."""

from __future__ import annotations

from collections.abc import Callable

from jobs import lake
from jobs.declared.contract import Contract
from jobs.declared.sql import quote
from jobs.lake import CURRENT, ORIGIN, connect
from jobs.lake.partitions import partition_filter
from jobs.silver.change import PERIOD, Change, Incoming, differs, instant
from jobs.silver.deduplicate import content, same_key


def revision_changes(work: lake.Workspace, table: str, batch: Incoming, contract: Contract) -> Change:
    """Compare a batch with the revisions that a table holds.

    A row equal to the version before it is unchanged; a differing row becomes a new version and closes the one before.
    If the table holds anything as late as the batch, the versions of the batch's keys since then are rebuilt from the
    batch, so that the order of arrival does not matter.
    """
    rows = work.show("batch", connect().sql(batch.good))
    where = partition_filter(table, contract, rows) if lake.rows(table) else None
    if where is None and batch.instants == 1:
        return Change(_first(contract, rows), "append", batch.rows)
    existing = f"(SELECT * FROM {lake.from_path(table)} t WHERE {where})" if where else None
    if existing and batch.instants == 1 and not batch.is_late:
        return _next(work, existing, contract, where or "true")
    return _chains(work, existing, batch, contract, where or "true")


def _first(contract: Contract, view: str) -> str:
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    return f"SELECT {columns}, _logical_date AS _known_at, CAST(NULL AS TIMESTAMP) AS _superseded_at FROM {view}"


def _next(work: lake.Workspace, existing: str, contract: Contract, where: str) -> Change:
    """The common case: the whole batch became known at one instant, later than everything in the table."""
    new = ", ".join(f"g.{quote(c)}" for c in (*contract.names, *ORIGIN))
    current = f"(SELECT * FROM {existing} WHERE {CURRENT})"
    compared = work.stage(
        "compared",
        f"SELECT {new}, CASE WHEN t._known_at IS NULL THEN 'new' WHEN {differs(contract, 't', 'g')} THEN 'changed'"
        f" ELSE 'unchanged' END AS verdict FROM {work.view('batch')} g LEFT JOIN {current} t"
        f" ON {same_key(contract, 't', 'g')}",
    )
    counts = work.counts("compared", "verdict")
    written, unchanged = counts.get("new", 0) + counts.get("changed", 0), counts.get("unchanged", 0)
    added = f"{_first(contract, compared)} WHERE verdict IN ('new', 'changed')"
    if not counts.get("changed"):
        return Change(added, "append", written, unchanged=unchanged)
    old = ", ".join(f"t.{quote(c)}" for c in (*contract.names, *ORIGIN))
    closed = (
        f"SELECT {old}, t._known_at, g._logical_date AS _superseded_at FROM {current} t"
        f" JOIN {compared} g ON {same_key(contract, 't', 'g')} WHERE g.verdict = 'changed'"
    )
    return _merge(f"SELECT *, false AS _gone FROM ({added} UNION ALL {closed})", contract, where, written, unchanged)


def _chains(work: lake.Workspace, existing: str | None, batch: Incoming, contract: Contract, where: str) -> Change:
    """Rebuild the versions of the batch's keys, starting with the version valid before the batch's first instant."""
    key = ", ".join(map(quote, contract.key))
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    rows = work.view("batch")
    links = f"SELECT {columns}, _logical_date AS _known_at, 1 AS _arrives FROM {rows}"
    if existing:
        since = instant(batch.since)
        open_since = f"(t._superseded_at IS NULL OR t._superseded_at >= {since})"
        replaced = work.stage(
            "replaced",
            f"SELECT t.* FROM {existing} t"
            f" LEFT SEMI JOIN {rows} g ON {same_key(contract, 't', 'g')} WHERE {open_since}",
        )
        links += f" UNION ALL SELECT {columns}, _known_at, 0 FROM {replaced} WHERE _known_at < {since}"
    versions = f"PARTITION BY {key} ORDER BY _known_at"
    with_content = f"SELECT *, {content(contract, but=contract.key)} AS _content FROM ({links})"
    compared = f"SELECT *, lag(_content) OVER ({versions}) AS _before FROM ({with_content})"
    changed = f"SELECT * FROM ({compared}) WHERE _arrives = 0 OR _before IS NULL OR _before <> _content"
    chains = work.stage(
        "chains",
        f"SELECT {columns}, _known_at, lead(_known_at) OVER ({versions}) AS _superseded_at, _arrives FROM ({changed})",
    )
    if not existing:
        written = work.counts("chains", "_arrives").get(1, 0)
        return Change(
            f"SELECT {columns}, {', '.join(PERIOD)} FROM {chains}", "append", written, unchanged=batch.rows - written
        )  # fmt: skip
    return rebuilt(work, contract, batch.rows, lambda _: where)


def rebuilt(work: lake.Workspace, contract: Contract, rows: int, where_of: Callable[[str], str]) -> Change:
    """Write only the versions that differ from the table's, and delete those that no longer exist.

    Args:
        work: its view `chains` has the new versions, and `replaced` those of the table in whose place they come.
        contract: the table's contract.
        rows: number of the batch's rows that the versions were made from.
        where_of: SQL over the table (alias t) for the partitions that a view of the written versions falls into.
    """
    names = (*contract.names, *ORIGIN, *PERIOD)
    columns = ", ".join(map(quote, names))
    new, old = (", ".join(f"{a}.{quote(c)}" for c in names) for a in ("n", "o"))
    same = same_key(contract, "n", "o", "_known_at")
    equal = " AND ".join(f"n.{quote(c)} <=> o.{quote(c)}" for c in names if c != "_run_id")
    chains, replaced = work.view("chains"), work.view("replaced")
    view = work.stage(
        "rebuilt",
        f"SELECT {new}, n._arrives = 1 AS _counts, false AS _gone FROM {chains} n LEFT JOIN {replaced} o ON {same}"
        f" WHERE o._known_at IS NULL OR NOT ({equal})"
        f" UNION ALL SELECT {old}, false, true FROM {replaced} o LEFT ANTI JOIN {chains} n ON {same}",
    )
    differing, written = connect().sql(f"SELECT count(*), count_if(_counts) FROM {view}").collect()[0]
    if not differing:
        return Change("", "append", 0, unchanged=rows)
    return _merge(f"SELECT {columns}, _gone FROM {view}", contract, where_of(view), written, rows - written)


def _merge(view: str, contract: Contract, where: str, written: int, unchanged: int) -> Change:
    on = f"({where}) AND {same_key(contract, 't', 's', '_known_at')}"
    return Change(view, "merge", written, unchanged=unchanged, on=on)

