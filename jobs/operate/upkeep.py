"""Keeps tables fast and small: compacts small files and vacuums unreferenced ones.

It never removes what a release pins, what readers see through a checked pointer, what was in use within the last
`keep_days` days, or landed bytes.
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
from jobs.registry.backup import backup
from jobs.registry.landings import paths_by_digest
from jobs.registry.releases import Published, ReleasedVersion, published_releases, released_versions
from jobs.registry.runs import count_old_runs, delete_old_runs
from jobs.registry.usage import count_old_usage, fold_old_usage
from jobs.release.verify import verify
from jobs.settings import settings

# A partition is compacted once it has `_SMALL_FILES` files smaller than `SMALL_BYTES`.
SMALL_BYTES = 16 << 20
_SMALL_FILES = 8
# In which every live release is verified once.
_NIGHTS = 30


@dataclass(frozen=True)
class Plan:
    """What upkeep would do to a table.

    Attributes:
        partitions: those to compact; an empty one means an unpartitioned table.
        rewritten: the files of these partitions that compaction replaces.
        new_files: number of files that replace them, an estimate if they fill more than one.
        removable: data files that no version in use references, with their sizes.
        removable_log: log files that no version in use needs, with their sizes.
        kept: versions that stay readable whatever their age.
    """

    table: str
    partitions: tuple[lake.Partition, ...]
    rewritten: tuple[lake.DataFile, ...]
    new_files: int
    removable: tuple[tuple[str, int], ...]
    removable_log: tuple[tuple[str, int], ...]
    kept: tuple[int, ...]

    @property
    def removable_bytes(self) -> int:
        """Total size of the files to remove."""
        return sum(size for _, size in (*self.removable, *self.removable_log))


@dataclass(frozen=True)
class TableReport:
    """What upkeep did to a table, or would do; `message` says why a table was skipped."""

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
    """What upkeep did.

    Leftovers are files of the lake that belong to no table, from work that ended long ago; `backup` is the new copy of
    the registry; `damaged` names what differs from the releases that were verified this time.
    """

    tables: tuple[TableReport, ...]
    runs_forgotten: int = 0
    usage_folded: int = 0
    leftover_files: int = 0
    leftover_bytes: int = 0
    orphans: tuple[str, ...] = field(default=())
    backup: str = ""
    verified: int = 0
    damaged: tuple[str, ...] = ()


def upkeep(tables: Sequence[str] = (), *, dry_run: bool = False) -> Report:
    """Compact small files and vacuum unreferenced ones, of some tables or of all; locked tables are skipped.

    Without `tables`, it first copies the registry, and also drops old run records, folds old usage into sums per day,
    removes leftovers, lists orphaned landed files, and verifies a thirtieth of the live releases: each once in thirty
    nights.

    Args:
        tables: their names; every existing table if empty.
        dry_run: only report what would be done, in files and bytes.

    Raises:
        ExchangeError: there is no such table.
        Locked: another engine writes this lake.
    """
    existing = tuple(_tables())
    unknown = sorted(set(tables) - set(existing))
    if unknown:
        raise ExchangeError(
            f"there is no table {', '.join(unknown)}",
            expected=f"one of: {', '.join(existing) or 'none (nothing has been built yet)'}",
        )
    # First, so that a copy is there whatever happens to the rest; a damaged registry ends upkeep here.
    copy = "" if tables or dry_run else str(backup())
    # Each table takes the lease too; taken here, it refuses upkeep as a whole if another engine writes this lake.
    with guard.leased():
        reports = tuple(_maintain_unless_locked(table, dry_run) for table in tables or existing)
    if tables:
        return Report(reports)
    forgotten, folded = _drop_old_runs(dry_run=dry_run), _fold_old_usage(dry_run=dry_run)
    leftovers = dict(lake.leftovers(_untouched_since()))
    if not dry_run:
        lake.remove(settings().lake, leftovers)
    verified = [] if dry_run else [verify(release.product, release.number) for release in _due(datetime.now(UTC))]
    damaged = tuple(f"{v.product}@{v.number}: {finding}" for v in verified for finding in v.findings)
    return Report(
        reports, forgotten, folded, len(leftovers), sum(leftovers.values()), tuple(orphans()), copy, len(verified),
        damaged,
    )  # fmt: skip


def plan(table: str) -> Plan:
    """Plan the upkeep of a table, without changing anything."""
    files = lake.files(table)
    small = Counter(f.partition for f in files if f.size < SMALL_BYTES)
    partitions = tuple(sorted((p for p, count in small.items() if count >= _SMALL_FILES), key=str))
    rewrites = [lake.rewritten(f for f in files if f.partition == partition) for partition in partitions]
    current, released = _current_versions(table), _released(table)
    kept = tuple(sorted({*current, *(release.delta_version for release in released)}))
    since = _untouched_since()
    return Plan(
        table=table,
        partitions=partitions,
        rewritten=tuple(file for old, _ in rewrites for file in old),
        new_files=sum(new for _, new in rewrites),
        # Manifests list the files of releases: to read each of their versions from the log would cost all history.
        removable=tuple(lake.unneeded(table, current, since, {path for r in released for path in r.files})),
        removable_log=tuple(lake.unneeded_log(table, kept, since)),
        kept=kept,
    )


def orphans() -> Iterator[str]:
    """Landed files that the registry lacks, and recorded ones that are gone; upkeep only reports them."""
    recorded = paths_by_digest()
    for source in sorted({*load_catalog().sources, *recorded}):
        stored, paths = landed.names(source), recorded.get(source, {})
        yield from (f"{path}: not in the registry" for path, sha256 in sorted(stored.items()) if sha256 not in paths)
        yield from (f"{path}: in the registry, but gone" for path in sorted({*paths.values()} - stored.keys()))


def _due(today: datetime) -> list[Published]:
    """The live releases to verify on a day: those that follow each other go to different days."""
    releases = sorted(published_releases(), key=lambda release: release.id)
    return [release for release in releases if release.id % _NIGHTS == today.toordinal() % _NIGHTS]


def _untouched_since() -> datetime:
    """The instant since which nothing may have written or used a file that upkeep removes."""
    return datetime.now(UTC) - timedelta(days=settings().keep_days)


def _tables() -> Iterable[str]:
    catalog = load_catalog()
    names = [f"{layer}.{name}" for name in sorted(catalog.sources) for layer in ("bronze", "quarantine", "silver")]
    names += [f"gold.{name}" for name in sorted(catalog.products)]
    return (name for name in names if lake.exists(name))


def _maintain_unless_locked(table: str, dry_run: bool) -> TableReport:
    layer, name = table.split(".", 1)
    try:
        with guard.writing(f"{'product' if layer == 'gold' else 'source'}.{name}"):
            return _maintain(table, dry_run)
    except Locked as error:
        return TableReport(table, "skipped", message=error.what)


def _maintain(table: str, dry_run: bool) -> TableReport:
    planned = plan(table)
    before = {f.path: f.size for f in lake.files(table)}
    if not planned.partitions and not planned.removable_bytes:
        return TableReport(table, "nothing to do", len(before), len(before))
    if dry_run:
        after = len(before) - len(planned.rewritten) + planned.new_files
        return _report(planned, "planned", (len(before), after), sum(f.size for f in planned.rewritten))
    if planned.partitions:
        _compact(table, planned.partitions)
    lake.remove(lake.location(table), [path for path, _ in (*planned.removable, *planned.removable_log)])
    now = {f.path for f in lake.files(table)}
    compacted = sum(size for path, size in before.items() if path not in now)
    return _report(planned, "done", (len(before), len(now)), compacted)


def _report(planned: Plan, status: Literal["done", "planned"], files: tuple[int, int], compacted: int) -> TableReport:
    return TableReport(
        planned.table, status, *files, compacted, len(planned.removable), len(planned.removable_log),
        planned.removable_bytes,
    )  # fmt: skip


def _compact(table: str, partitions: Sequence[lake.Partition]) -> None:
    """Compact some partitions, and move the pointer along; readers see the same rows throughout."""
    if table.startswith(("silver.", "gold.")):
        # A version from an unfinished build must not be compacted.
        begin(table)
    compacted = lake.compact(table, partitions)
    if pointer(table) is not None:
        rebase(table, compacted)


def _current_versions(table: str) -> set[int]:
    """The table's checked and newest versions."""
    current = pointer(table)
    versions = {current.delta_version if current else None, lake.version(table)}
    return {version for version in versions if version is not None}


def _released(table: str) -> list[ReleasedVersion]:
    layer, name = table.split(".", 1)
    return released_versions(name) if layer == "gold" else []


def _drop_old_runs(*, dry_run: bool) -> int:
    """Drop run records past their retention, except the newest of each step."""
    oldest = datetime.now(UTC) - timedelta(days=settings().keep_runs_days)
    return count_old_runs(oldest) if dry_run else delete_old_runs(oldest)


def _fold_old_usage(*, dry_run: bool) -> int:
    """Replace each request past its retention by its day's sums."""
    oldest = datetime.now(UTC) - timedelta(days=settings().keep_usage_days)
    return count_old_usage(oldest) if dry_run else fold_old_usage(oldest)
