"""Keeps tables quick and small: brings small files together, and takes away files that no version in use needs.

What a live release is made of, what readers see through a checked pointer, and what was in use within the last days is
never taken away. Landed bytes never are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from jobs import lake
from jobs.declared.catalog import load_catalog
from jobs.errors import ExchangeError, Locked
from jobs.lake import guard
from jobs.lake.pointers import begin, pointer, rebase
from jobs.land import landed
from jobs.registry.landings import paths_by_digest
from jobs.registry.releases import pinned_versions
from jobs.registry.runs import count_old_runs, delete_old_runs
from jobs.settings import settings

# A partition with so many files below this size is worth being written again.
SMALL_BYTES = 16 << 20
_SMALL_FILES = 8


@dataclass(frozen=True)
class Plan:
    """What upkeep would do to a table.

    Attributes:
        partitions: those whose small files are to be brought together; an empty one stands for an unpartitioned table.
        rewritten: files that are in them and will be written again.
        made: how many files will be made of those, as near as can be foretold where they fill more than one.
        removable: data files that no version in use needs, with their sizes.
        removable_log: parts of the log that nobody needs who reads a version in use.
        kept: versions that stay readable whatever their age.
    """

    table: str
    partitions: tuple[lake.Partition, ...]
    rewritten: tuple[lake.DataFile, ...]
    made: int
    removable: tuple[tuple[str, int], ...]
    removable_log: tuple[tuple[str, int], ...]
    kept: tuple[int, ...]

    @property
    def removable_bytes(self) -> int:
        """Size of what would be taken away."""
        return sum(size for _, size in (*self.removable, *self.removable_log))


@dataclass(frozen=True)
class Kept:
    """What upkeep did to a table, or would do; `message` says why it did nothing."""

    table: str
    status: Literal["done", "planned", "nothing to do", "skipped"]
    files_before: int = 0
    files_after: int = 0
    compacted_bytes: int = 0
    removed_files: int = 0
    removed_log_files: int = 0
    removed_bytes: int = 0
    message: str = ""


@dataclass(frozen=True)
class Report:
    """What upkeep found and did; leftovers are files of the lake that no table has, from work that ended long ago."""

    tables: tuple[Kept, ...]
    runs_forgotten: int = 0
    leftover_files: int = 0
    leftover_bytes: int = 0
    orphans: tuple[str, ...] = field(default=())


def upkeep(tables: Sequence[str] = (), *, dry_run: bool = False) -> Report:
    """Do the upkeep of some tables, or of all; a table that somebody works on is left for the next time.

    Args:
        tables: their names; all that exist if empty.
        dry_run: only say what would be done, in files and bytes.

    Raises:
        ExchangeError: there is no such table.
        Locked: another engine writes this lake.
    """
    known = tuple(_tables())
    unknown = sorted(set(tables) - set(known))
    if unknown:
        raise ExchangeError(
            f"there is no table {', '.join(unknown)}", expected=f"one of: {', '.join(known) or 'none has been made'}"
        )
    # Taken around all of them too, so that upkeep as a whole is refused where another engine writes this lake.
    with guard.leased():
        done = tuple(_keep(table, dry_run) for table in tables or known)
    if tables:
        return Report(done)
    forgotten = _drop_old_runs(dry_run=dry_run)
    leftovers = dict(lake.leftovers(_untouched_since()))
    if not dry_run:
        lake.remove(settings().lake, leftovers)
    return Report(done, forgotten, len(leftovers), sum(leftovers.values()), tuple(orphans()))


def plan(table: str) -> Plan:
    """Look at a table, and change nothing."""
    files = lake.files(table)
    small = Counter(f.partition for f in files if f.size < SMALL_BYTES)
    partitions = tuple(sorted((p for p, count in small.items() if count >= _SMALL_FILES), key=str))
    work = [lake.rewritten(f for f in files if f.partition == partition) for partition in partitions]
    kept = _versions_in_use(table)
    since = _untouched_since()
    return Plan(
        table=table,
        partitions=partitions,
        rewritten=tuple(file for again, _ in work for file in again),
        made=sum(made for _, made in work),
        removable=tuple(lake.unneeded(table, kept, since)),
        removable_log=tuple(lake.unneeded_log(table, kept, since)),
        kept=kept,
    )


def orphans() -> Iterator[str]:
    """Landed files that are not in the registry, and those that are but whose bytes are gone; they are only named."""
    recorded = paths_by_digest()
    for source in sorted({*load_catalog().sources, *recorded}):
        kept, paths = landed.names(source), recorded.get(source, {})
        yield from (f"{path}: not in the registry" for path, sha256 in sorted(kept.items()) if sha256 not in paths)
        yield from (f"{path}: in the registry, but gone" for path in sorted({*paths.values()} - kept.keys()))


def _untouched_since() -> datetime:
    """What was written or in use later than that stays."""
    return datetime.now(UTC) - timedelta(days=settings().keep_days)


def _tables() -> Iterable[str]:
    catalog = load_catalog()
    names = [f"{layer}.{name}" for name in sorted(catalog.sources) for layer in ("bronze", "quarantine", "silver")]
    names += [f"gold.{name}" for name in sorted(catalog.products)]
    return (name for name in names if lake.exists(name))


def _keep(table: str, dry_run: bool) -> Kept:
    layer, name = table.split(".", 1)
    try:
        with guard.writing(f"{'product' if layer == 'gold' else 'source'}.{name}"):
            return _kept(table, dry_run)
    except Locked as error:
        return Kept(table, "skipped", message=error.what)


def _kept(table: str, dry_run: bool) -> Kept:
    planned = plan(table)
    before = {f.path: f.size for f in lake.files(table)}
    if not planned.partitions and not planned.removable_bytes:
        return Kept(table, "nothing to do", len(before), len(before))
    if dry_run:
        after = len(before) - len(planned.rewritten) + planned.made
        return _report(planned, "planned", (len(before), after), sum(f.size for f in planned.rewritten))
    if planned.partitions:
        _compact(table, planned.partitions)
    lake.remove(lake.location(table), [path for path, _ in (*planned.removable, *planned.removable_log)])
    there = {f.path for f in lake.files(table)}
    compacted = sum(size for path, size in before.items() if path not in there)
    return _report(planned, "done", (len(before), len(there)), compacted)


def _report(planned: Plan, status: Literal["done", "planned"], files: tuple[int, int], compacted: int) -> Kept:
    return Kept(
        planned.table, status, *files, compacted, len(planned.removable), len(planned.removable_log),
        planned.removable_bytes,
    )  # fmt: skip


def _compact(table: str, partitions: Sequence[lake.Partition]) -> None:
    """Write the small files of some partitions as few; who reads through a pointer sees the same rows all the time."""
    if table.startswith(("silver.", "gold.")):
        # What a build left that did not end is no version to build upon.
        begin(table)
    made = lake.compact(table, partitions)
    if pointer(table) is not None:
        rebase(table, made)


def _versions_in_use(table: str) -> tuple[int, ...]:
    layer, name = table.split(".", 1)
    kept = set(pinned_versions(name)) if layer == "gold" else set()
    stands = pointer(table)
    if stands is not None:
        kept.add(stands.delta_version)
    head = lake.version(table)
    if head is not None:
        kept.add(head)
    return tuple(sorted(kept))


def _drop_old_runs(*, dry_run: bool) -> int:
    """Drop records of runs that are older than they are kept, but for the newest of each step."""
    oldest = datetime.now(UTC) - timedelta(days=settings().keep_runs_days)
    return count_old_runs(oldest) if dry_run else delete_old_runs(oldest)
