"""Keeps a list of which each delivery is the whole: what is gone is closed with its date, and can come back.

The table has versions, as `revisions` has them. A version ends when a later delivery changes the row or lacks its key.
A row that a delivery has, but that is refused, is not gone: its version stays open. A delivery that lacks more than a
declared share of the list before it is held back whole, and the next one is compared with the list before that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jobs import lake
from jobs.declared.catalog import Silver
from jobs.declared.contract import Contract
from jobs.declared.sql import literal, quote
from jobs.lake import ORIGIN, connect
from jobs.lake.partitions import partition_filter
from jobs.silver.change import PERIOD, Change, Delivery, Incoming, instant
from jobs.silver.deduplicate import content, refusals, same_key
from jobs.silver.revisions import rebuilt

_TOLD = 3


@dataclass(frozen=True)
class _Held:
    """A delivery that is held back: how many rows of the list before it are gone in it."""

    delivery: Delivery
    gone: int
    of: int

    def message(self, silver: Silver) -> str:
        """What was found, and what to do."""
        share = f"{self.gone:,} of {self.of:,} rows of the list before ({self.gone / self.of:.1%})"
        return (
            f"{self.delivery.file_name} is held back, because {share} are gone in it, more than largest_loss"
            f" ({silver.largest_loss:.1%}): if the list is right, declare `accepted: [{self.delivery.tag[:12]}]` under"
            f" silver in source.yaml; if not, `exchange landing drop {self.delivery.tag[:12]} --reason \"…\"`"
        )


def snapshot_changes(
    work: lake.Workspace, table: str, batch: Incoming, contract: Contract, silver: Silver
) -> Change:  # fmt: skip
    """Compare deliveries with the list that a table holds, one after the other.

    If the table holds anything as late as the batch, its versions since then are rebuilt from the batch, so that the
    order of arrival does not matter.
    """
    if not batch.deliveries:
        return Change("", "append", 0)
    work.show("batch", connect().sql(batch.good))
    existing = lake.from_path(table) if lake.rows(table) else None
    _stage_listed(work, existing, batch, contract)
    taken, held = _taken(work, batch.deliveries, contract, silver)
    last = _last_of_each_instant(taken)
    _stage_chains(work, last, contract)
    counted = _counted(work, taken, last, [h.delivery for h in held])
    change = _change(work, table, existing, contract, counted.get("last", 0))
    told = [_told(work, last), *(h.message(silver) for h in held)]
    return replace(
        change,
        superseded=counted.get("superseded", 0),
        refused=counted.get("held", 0),
        refused_rows=_held_rows(work, contract) if counted.get("held") else None,
        message="; ".join(part for part in told if part) or None,
        held_back=held[-1].message(silver) if held and held[-1].delivery is batch.deliveries[-1] else None,
    )


def _stage_listed(work: lake.Workspace, existing: str | None, batch: Incoming, contract: Contract) -> None:
    """Stage which delivery lists which key, as view `listed`, and what of the table may change, as view `replaced`.

    The rows that were open before the batch's first delivery are those of delivery 0, whose tag is empty.
    """
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    since = instant(batch.deliveries[0].at)
    unknown = "CAST(NULL AS TIMESTAMP)"
    parts = [
        f"SELECT {columns}, {unknown} AS _known_at, _landing_sha256 AS _tag, true AS _good FROM {work.view('batch')}"
    ]
    if existing:
        open_since = f"(_superseded_at IS NULL OR _superseded_at >= {since})"
        replaced = work.stage("replaced", f"SELECT * FROM {existing} t WHERE {open_since}")
        parts.append(f"SELECT {columns}, _known_at, '', true FROM {replaced} WHERE _known_at < {since}")
    kept = {*contract.key, *ORIGIN}
    types = {c.name: c.type for c in contract.columns}
    keyed = ", ".join(
        f"f.{quote(c)}" if c in kept else f"CAST(NULL AS {types[c]}) AS {quote(c)}" for c in (*contract.names, *ORIGIN)
    )
    for refused in batch.refused_keys:
        present = " AND ".join(f"f.{quote(k)} IS NOT NULL" for k in contract.key)
        is_good = same_key(contract, "f", "g", "_landing_sha256")
        parts.append(
            f"SELECT {keyed}, {unknown}, f._landing_sha256, false FROM ({refused}) f"
            f" LEFT ANTI JOIN {work.view('batch')} g ON {is_good} WHERE {present}"
        )
    key = ", ".join(map(quote, contract.key))
    numbered = f"SELECT *, row_number() OVER (PARTITION BY _tag, {key} ORDER BY _file, _row) AS _nth"
    with_content = f"{content(contract, but=contract.key)} AS _content"
    work.stage(
        "listed", f"SELECT *, {with_content} FROM ({numbered} FROM ({' UNION ALL '.join(parts)})) WHERE _nth = 1"
    )


def _taken(
    work: lake.Workspace, deliveries: Sequence[Delivery], contract: Contract, silver: Silver
) -> tuple[list[Delivery], list[_Held]]:
    """The deliveries that are taken, and those that are held back, in order."""
    taken, held = list(deliveries), []
    while (found := _first_loss(work, taken, contract, silver)) is not None:
        taken.remove(found.delivery)
        held.append(found)
    return taken, held


def _first_loss(
    work: lake.Workspace, deliveries: Sequence[Delivery], contract: Contract, silver: Silver
) -> _Held | None:  # fmt: skip
    is_gone = "_next IS NULL OR _next > _ord + 1"
    rows = connect().sql(
        f"SELECT _ord, count(*), count_if({is_gone}) FROM ({_open(work, deliveries, contract)}) GROUP BY _ord"
    )
    lost = {row[0]: (row[1], row[2]) for row in rows.collect()}
    for number, delivery in enumerate(deliveries):
        of, gone = lost.get(number, (0, 0))
        is_accepted = any(delivery.tag.startswith(prefix) for prefix in silver.accepted)
        if of and gone > silver.largest_loss * of and not is_accepted:
            return _Held(delivery, gone, of)
    return None


def _open(work: lake.Workspace, deliveries: Sequence[Delivery], contract: Contract) -> str:
    """SELECT of the open rows after each of these deliveries, numbered from 1; those of the table before have 0.

    ``_run`` numbers the stretches of deliveries without a gap that list a key, and ``_next`` is the number of the next
    delivery that does. A row that was only refused so far in its stretch is not open.
    """
    listed = [("", 0, None), *((d.tag, number, d.at) for number, d in enumerate(deliveries, 1))]
    order = work.show("order", connect().createDataFrame(listed, "_of string, _ord int, _at timestamp"))
    key = ", ".join(map(quote, contract.key))
    numbered = f"SELECT l.*, o._ord, o._at FROM {work.view('listed')} l JOIN {order} o ON l._tag = o._of"
    runs = (
        f"SELECT *, _ord - row_number() OVER (PARTITION BY {key} ORDER BY _ord) AS _run,"
        f" lead(_ord) OVER (PARTITION BY {key} ORDER BY _ord) AS _next FROM ({numbered})"
    )
    so_far = f"PARTITION BY {key}, _run ORDER BY _ord ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    opened = f"SELECT *, max(CASE WHEN _good THEN 1 ELSE 0 END) OVER ({so_far}) AS _is_open FROM ({runs})"
    return f"SELECT * FROM ({opened}) WHERE _is_open = 1"


def _last_of_each_instant(taken: Sequence[Delivery]) -> list[Delivery]:
    return list({delivery.at: delivery for delivery in taken}.values())


def _stage_chains(work: lake.Workspace, deliveries: Sequence[Delivery], contract: Contract) -> None:
    """Stage all versions that are open before the batch or begin in it, as view `chains`."""
    key = ", ".join(map(quote, contract.key))
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    run = f"PARTITION BY {key}, _run"
    ended = f"SELECT *, max(_ord) OVER ({run}) AS _end FROM ({_open(work, deliveries, contract)})"
    before = f"SELECT *, lag(_content) OVER ({run} ORDER BY _ord) AS _before FROM ({ended}) WHERE _good"
    starts = f"SELECT * FROM ({before}) WHERE _before IS NULL OR _before <> _content"
    known = "CASE WHEN _ord = 0 THEN _known_at ELSE _at END"
    versions = (
        f"SELECT {columns}, {known} AS _known_at, _before IS NOT NULL AS _is_change, _end, _ord,"
        f" lead(_at) OVER ({run} ORDER BY _ord) AS _changed_at FROM ({starts})"
    )
    work.stage(
        "chains",
        f"SELECT {columns}, v._known_at, coalesce(v._changed_at, o._at) AS _superseded_at,"
        " CASE WHEN v._ord > 0 THEN 1 ELSE 0 END AS _arrives, v._is_change,"
        " v._changed_at IS NULL AND o._at IS NOT NULL AS _is_gone"
        f" FROM ({versions}) v LEFT JOIN {work.view('order')} o ON o._ord = v._end + 1",
    )


def _counted(
    work: lake.Workspace, taken: Sequence[Delivery], last: Sequence[Delivery], held: Sequence[Delivery]
) -> dict[str, int]:
    """Rows of the deliveries whose versions count, of those replaced within their instant, and of those held back."""
    tags = {d.tag: "superseded" for d in taken} | {d.tag: "last" for d in last} | {d.tag: "held" for d in held}
    counts: dict[str, int] = {}
    for tag, rows in work.counts("batch", "_landing_sha256").items():
        counts[tags[tag]] = counts.get(tags[tag], 0) + rows
    listed = ", ".join(literal(d.tag) for d in held) or "''"
    work.show("held", connect().sql(f"SELECT * FROM {work.view('batch')} WHERE _landing_sha256 IN ({listed})"))
    return counts


def _held_rows(work: lake.Workspace, contract: Contract) -> str:
    with_verdict = work.show("held_back", connect().sql(f"SELECT *, 'loss' AS verdict FROM {work.view('held')}"))
    return refusals(with_verdict, contract, ("loss",), of="snapshot")


def _change(
    work: lake.Workspace, table: str, existing: str | None, contract: Contract, rows: int
) -> Change:  # fmt: skip
    if existing:
        return rebuilt(work, contract, rows, lambda view: partition_filter(table, contract, view) or "false")
    written = work.counts("chains", "_arrives").get(1, 0)
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN, *PERIOD)))
    return Change(f"SELECT {columns} FROM {work.view('chains')}", "append", written, unchanged=rows - written)


def _told(work: lake.Workspace, deliveries: Sequence[Delivery]) -> str | None:
    """What the newest deliveries added, removed and changed; those that did nothing are left out."""
    chains = work.view("chains")
    began = f"SELECT _known_at AS _day, NOT _is_change AS _adds, false AS _ends FROM {chains} WHERE _arrives = 1"
    ended = f"SELECT _superseded_at, false, true FROM {chains} WHERE _is_gone"
    summed = connect().sql(
        "SELECT _ord, count_if(_adds), count_if(_ends), count_if(NOT _adds AND NOT _ends)"
        f" FROM ({began} UNION ALL {ended}) JOIN {work.view('order')} ON _day = _at GROUP BY _ord ORDER BY _ord"
    )
    lines = [
        f"{deliveries[number - 1].at:%Y-%m-%d}: {added:,} added, {removed:,} removed, {changed:,} changed"
        for number, added, removed, changed in summed.collect()
    ]
    earlier = f"{len(lines) - _TOLD} earlier deliveries; " if len(lines) > _TOLD else ""
    return earlier + "; ".join(lines[-_TOLD:]) if lines else None
