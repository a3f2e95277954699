"""Rebuilds any table from the landed files, and says whether the result is equal to the table before."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from jobs import lake
from jobs.declared.catalog import Product, Source, load_products, load_sources
from jobs.declared.sql import quote
from jobs.errors import ExchangeError, NotFound
from jobs.lake import guard
from jobs.lake.pointers import drop_pointer, pointer
from jobs.land.landed import LandedFile, manifests, verify
from jobs.operate.salvage import salvage
from jobs.registry import transaction
from jobs.registry.landings import add_arrival, forget_loaded, landings_in
from jobs.registry.models import Landing
from jobs.registry.releases import pinned_versions, release_of_version
from jobs.registry.runs import Kind, StepOutcome, recorded

# The run that wrote a row is the one thing that must differ.
_NEVER_EQUAL = "_run_id"
_MANIFEST = (
    "sha256", "path", "file_name", "url", "size", "etag", "published_at", "fetched_at", "logical_date",
)  # fmt: skip
_HISTORY = ("_known_at", "_superseded_at")


@dataclass(frozen=True)
class Rebuilt:
    """One table that was rebuilt.

    Attributes:
        rows: rows of the new version.
        rows_before: rows of the version that readers had; None if it cannot be read.
        equal: whether columns and rows are as before, in any order; None if there was nothing to compare with.
        version: the new Delta version.
    """

    table: str
    rows: int
    rows_before: int | None
    equal: bool | None
    version: int
    seconds: float
    message: str

    def __str__(self) -> str:
        return f"{self.table}: {self.message}; {self.rows:,} rows, version {self.version} in {self.seconds:.1f} s"


@dataclass(frozen=True)
class _Content:
    """What a version holds, regardless of files and row order: each pair has two sums over the hashes of all rows."""

    columns: tuple[tuple[str, str], ...]
    rows: int
    business: tuple[int, int]
    everything: tuple[int, int]


def rebuild(table: str, run_id: str, *, accept: str | None = None) -> tuple[Rebuilt, ...]:
    """Rebuild a table from the landed files, and every table it is built from.

    ``bronze.x`` is loaded again from all landed bytes, after their digests are verified. ``silver.x`` and
    ``quarantine.x`` are rebuilt from that; ``gold.x`` from the checked versions of its inputs, which are rebuilt first
    if they are missing. Readers keep their version until the new one passes its expectations, and every earlier version
    stays readable, so releases are not affected. Landed files that the registry lacks are recorded from their
    manifests.

    Args:
        table: ``bronze.x``, ``silver.x``, ``quarantine.x`` or ``gold.x``.
        accept: why a person accepts that rows of a source's checked version leave.
        run_id: the run under which its steps are recorded.

    Returns:
        The rebuilt tables, in order.

    Raises:
        NotFound: no such table is declared, or no file of its source has landed.
        Tampered: landed bytes have changed; nothing was rebuilt.
        AcceptanceNeeded: rows of a source's checked version would leave; readers keep it.
        ExpectationsFailed: the new version broke a rule; readers keep the previous one.
    """
    layer, dot, name = table.lower().partition(".")
    if layer in ("bronze", "silver", "quarantine") and dot:
        source = load_sources().source(name)
        with guard.writing(f"source.{name}"):
            return _source(source, run_id, accept, only_bronze=layer == "bronze")
    if layer == "gold" and dot:
        return _with_inputs(load_products().product(name), run_id)
    raise NotFound(
        f"'{table}' cannot be rebuilt",
        expected="bronze.x, silver.x, quarantine.x or gold.x",
        next_step="`exchange verify` checks a release" if layer == "release" else None,
    )


def _source(source: Source, run_id: str, accept: str | None, *, only_bronze: bool) -> tuple[Rebuilt, ...]:
    from jobs.bronze.step import bronze, table_of

    record_landed(source.name, run_id, verified=True)
    bronze_table = table_of(source)
    quarantine = f"quarantine.{source.name}"
    current = pointer(source.table)
    before = {t: _content(t, lake.version(t)) for t in (bronze_table, quarantine) if _is_readable(t)}
    _set_aside(bronze_table)
    started = time.monotonic()
    forget_loaded(source.name)
    _record("bronze", "source", source.name, bronze_table, run_id, lambda _date: bronze(source))
    rebuilt = [_compared(bronze_table, before.get(bronze_table), lake.version(bronze_table) or 0, started)]
    if only_bronze:
        return tuple(rebuilt)
    readable = current.delta_version if current and _is_readable(source.table) else None
    silver_before = _content(source.table, readable) if readable is not None else None
    rebuilt.append(_silver(source, silver_before, run_id, accept))
    if lake.exists(quarantine):
        rebuilt.append(_compared(quarantine, before.get(quarantine), lake.version(quarantine) or 0, time.monotonic()))
    return tuple(rebuilt)


def _silver(source: Source, before: _Content | None, run_id: str, accept: str | None) -> Rebuilt:
    from jobs.silver.step import silver

    _set_aside(source.table)
    _set_aside(f"quarantine.{source.name}")
    started = time.monotonic()

    def rebuilt() -> StepOutcome:
        return silver(source, run_id, full=True, accept=accept)

    _record("silver", "source", source.name, source.table, run_id, lambda _date: rebuilt())
    version = _check(source.table, "source", source.name, run_id)
    return _compared(source.table, before, version, started)


def _with_inputs(product: Product, run_id: str) -> tuple[Rebuilt, ...]:
    inputs: list[Rebuilt] = []
    for table in product.inputs:
        if not _is_readable(table) or pointer(table) is None:
            inputs += rebuild(table, run_id)
    with guard.writing(f"product.{product.name}"):
        return (*inputs, _gold(product, run_id))


def _gold(product: Product, run_id: str) -> Rebuilt:
    from jobs.gold.step import gold

    current = pointer(product.table)
    readable = current.delta_version if current and _is_readable(product.table) else None
    before = _content(product.table, readable) if readable is not None else None
    released = _released(product, current.delta_version) if current and before is None else None
    lost = _set_aside(product.table)
    started = time.monotonic()
    _record("gold", "product", product.name, product.table, run_id, lambda _date: gold(product, run_id, full=True))
    version = _check(product.table, "product", product.name, run_id)
    rebuilt = _compared(product.table, before, version, started)
    return _compared_with_release(rebuilt, released, lost)


def _check(table: str, kind: Kind, name: str, run_id: str) -> int:
    """Check the new version, which moves the pointer to it if it passes; returns the checked version."""
    from jobs.check.step import check

    _record("check", kind, name, table, run_id, lambda date: check(table, date, run_id))
    current = pointer(table)
    if current is None:
        raise ExchangeError(
            f"{table} was rebuilt, but has no version that passed its check", next_step=f"exchange check {table}"
        )
    return current.delta_version


def _record(
    step: str, kind: Kind, name: str, table: str, run_id: str, verb: Callable[[datetime], StepOutcome]
) -> None:  # fmt: skip
    date = datetime.now(UTC).replace(microsecond=0)
    recorded(run_id, step, kind, name, date, table, lambda: verb(date))


def record_landed(source: str, run_id: str, *, verified: bool = False) -> int:
    """Record the arrivals that the registry lacks from their manifests, in their order.

    Args:
        source: the source's name.
        run_id: the run under which they are recorded.
        verified: verify the bytes of all landed files first.

    Returns:
        How many were recorded.

    Raises:
        NotFound: nothing of the source has landed.
        Tampered: a manifest cannot be read, or landed bytes have changed.
    """
    arrived = sorted(manifests(source), key=lambda landed: (landed.fetched_at, landed.sha256))
    kept: dict[str, LandedFile] = {}
    for landed in arrived:
        # Lost bytes that landed again lie where a later manifest says.
        if landed.sha256 not in kept or landed.file.exists():
            kept[landed.sha256] = landed
    for landed in kept.values() if verified else ():
        verify(landed)
    with transaction() as db:
        recorded = {(x.sha256, x.url, x.fetched_at) for x in landings_in(db, source)}
        if not recorded and not arrived:
            raise NotFound(f"'{source}' has no landed files", next_step=f"exchange land {source}")
        lacking = _unrecorded(arrived, recorded)
        for landed in lacking:
            manifest = {f: getattr(landed, f) for f in _MANIFEST} | {"path": kept[landed.sha256].path}
            add_arrival(db, Landing(source=source, run_id=run_id, **manifest))
    return len(lacking)


def _unrecorded(arrived: list[LandedFile], recorded: Collection[tuple[str, str | None, datetime]]) -> list[LandedFile]:
    """The arrivals that are not recorded.

    Manifests of the same bytes that follow each other at one address are one arrival: a killed step leaves the first.
    """
    runs: dict[str, list[list[LandedFile]]] = {}
    for landed in arrived:
        at_address = runs.setdefault(landed.url, [[]])
        if at_address[-1] and at_address[-1][-1].sha256 != landed.sha256:
            at_address.append([])
        at_address[-1].append(landed)
    lacking = [
        run[0]
        for at_address in runs.values()
        for run in at_address
        if not any((x.sha256, x.url, x.fetched_at) in recorded for x in run)
    ]
    return sorted(lacking, key=lambda landed: (landed.fetched_at, landed.sha256))


def _is_readable(table: str) -> bool:
    """Whether the table exists, and its log can be read up to the version that is recorded."""
    if not lake.exists(table):
        return False
    current = pointer(table)
    try:
        newest = lake.version(table)
    except ExchangeError:
        return False
    return current is None or (newest is not None and newest >= current.head_version)


def _set_aside(table: str) -> tuple[str, ...]:
    """Rename the folder of an unreadable table and drop its pointer, so that the table starts anew.

    A product's released versions stay: they are brought into the new folder, with their numbers.

    Returns:
        Its releases that cannot be read any more, each with the reason.
    """
    layer, name = table.split(".", 1)
    released = pinned_versions(name) if layer == "gold" else set()
    if _is_readable(table) and all(_has_version(table, version) for version in released):
        return ()
    folder, damaged = lake.location(table), None
    if folder.exists():
        damaged = folder.with_name(f"{folder.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
        folder.rename(damaged)
    drop_pointer(table)
    lake.drop_cached_logs()
    return salvage(name, damaged) if layer == "gold" else ()


def _has_version(table: str, version: int) -> bool:
    try:
        lake.delta(table, version)
    except ExchangeError:
        return False
    return True


def _content(table: str, version: int | None) -> _Content | None:
    """The content of a version; None if its files can no longer be read."""
    from pyspark.errors import PySparkException

    try:
        types = {n: t for n, t in sorted(lake.columns_at(table, version).items()) if n != _NEVER_EQUAL}
        business = [n for n in types if not n.startswith("_") or n in _HISTORY]
        sums = [f"sum(CAST({h} AS DECIMAL(38,0)))" for names in (business, list(types)) for h in _hashes(names)]
        row = lake.read_table(table, version).selectExpr("count(*)", *sums).collect()[0]
    except (ExchangeError, PySparkException):
        return None
    numbers = [int(value or 0) for value in row]
    return _Content(tuple(types.items()), numbers[0], (numbers[1], numbers[2]), (numbers[3], numbers[4]))


def _hashes(names: list[str]) -> tuple[str, str]:
    """Two 64-bit hashes of a row; as the hash function skips nulls, whether a value is null is hashed too."""
    terms = [term for n in names for term in (f"CAST({quote(n)} AS STRING)", f"isnull({quote(n)})")]
    return f"xxhash64({', '.join(terms)})", f"xxhash64({', '.join(reversed(terms))})"


def _compared(table: str, before: _Content | None, version: int, started: float) -> Rebuilt:
    seconds = time.monotonic() - started
    now = _content(table, version)
    rows = now.rows if now else lake.rows(table, version)
    if before is None or now is None:
        return Rebuilt(table, rows, None, None, version, seconds, "rebuilt; there was nothing to compare it with")
    equal = (before.columns, before.rows, before.business) == (now.columns, now.rows, now.business)
    return Rebuilt(table, rows, before.rows, equal, version, seconds, _verdict(before, now, equal=equal))


def _verdict(before: _Content, now: _Content, *, equal: bool) -> str:
    if before == now:
        return "equal to the table before"
    if equal:
        return "equal to the table before, except that some rows name another landed file as their first"
    if before.columns != now.columns:
        return "DIFFERENT from the table before: its declaration has changed, and with it the columns"
    return f"DIFFERENT from the table before, which had {before.rows:,} rows"


def _released(product: Product, version: int) -> tuple[str, int, str] | None:
    """Number, rows and fingerprint of the release made of a version; its manifest keeps them if the table is lost."""
    release = release_of_version(product.name, version)
    return (release.number, release.rows, str(release.manifest["content"]["fingerprint"])) if release else None


def _compared_with_release(
    rebuilt: Rebuilt, released: tuple[str, int, str] | None, unreadable: tuple[str, ...]
) -> Rebuilt:  # fmt: skip
    """Compare a product whose table was lost with the rows and fingerprint in its release's manifest."""
    from dataclasses import replace

    from jobs.release.difference import fingerprint
    from jobs.release.snapshot import snapshot

    lost = ""
    if unreadable:
        lost = (
            f". Of its releases {len(unreadable)} cannot be read ({'; '.join(unreadable)}): restore these files from a"
            " backup, or recall them with `exchange recall` and release it again"
        )
    if released is None:
        return replace(rebuilt, message=rebuilt.message + lost)
    number, rows, released_fingerprint = released
    rebuilt_fingerprint = str(fingerprint(snapshot(rebuilt.table, rebuilt.version)))
    equal = (rows, released_fingerprint) == (rebuilt.rows, rebuilt_fingerprint)
    verdict = "equal to" if equal else "DIFFERENT from"
    return replace(rebuilt, rows_before=rows, equal=equal, message=f"{verdict} the rows of release {number}{lost}")
