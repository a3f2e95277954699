"""Makes any table again from what landed, and says whether the result is equal to what was there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from jobs import lake
from jobs.declared.catalog import Product, Source, load_products, load_sources
from jobs.declared.sql import quote
from jobs.errors import ExchangeError, NotFound
from jobs.lake import guard
from jobs.lake.pointers import drop_pointer, pointer
from jobs.land.landed import manifests, verify
from jobs.registry import transaction
from jobs.registry.landings import digests_in, forget_loaded
from jobs.registry.models import Landing
from jobs.registry.releases import recall_published, release_of_version
from jobs.registry.runs import Kind, StepOutcome, recorded

# Which run wrote a row is the one thing that must differ.
_NEVER_EQUAL = "_run_id"
_MANIFEST = (
    "sha256", "path", "file_name", "url", "size", "etag", "published_at", "fetched_at", "logical_date",
)  # fmt: skip
_HISTORY = ("_known_at", "_superseded_at")


@dataclass(frozen=True)
class Rebuilt:
    """One table that was made again.

    Attributes:
        rows, rows_before: now, and in the version that readers had; None if none can be read.
        equal: whether columns and rows are as before, in whatever order; None if there was nothing to compare.
        version: the Delta version that was made.
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
    """What a version holds, apart from its files and the order of its rows: two sums over the hashes of all rows."""

    columns: tuple[tuple[str, str], ...]
    rows: int
    business: tuple[int, int]
    everything: tuple[int, int]


def rebuild(table: str, run_id: str) -> tuple[Rebuilt, ...]:
    """Make a table again from landing, and every table on the way to it.

    ``bronze.x`` is loaded again from all landed bytes, whose digests are computed first. ``silver.x`` and
    ``quarantine.x`` are made anew from that; ``gold.x`` from the checked versions of its inputs, which are made first
    if they are gone. Readers keep the version they have until the new one has passed its expectations, and every
    earlier version stays readable, so that releases are not touched. What the registry forgot of landed files is read
    from their manifests.

    Args:
        table: ``bronze.x``, ``silver.x``, ``quarantine.x`` or ``gold.x``.
        run_id: the run under which its steps are recorded.

    Returns:
        The tables that were made, in order.

    Raises:
        NotFound: no such table is declared, or nothing of it ever landed.
        Tampered: landed bytes are not those that were landed; nothing was changed.
        ExpectationsFailed: the new version broke a rule; readers keep the one before.
    """
    layer, dot, name = table.lower().partition(".")
    if layer in ("bronze", "silver", "quarantine") and dot:
        source = load_sources().source(name)
        with guard.writing(f"source.{name}"):
            return _source(source, run_id, only_bronze=layer == "bronze")
    if layer == "gold" and dot:
        return _with_inputs(load_products().product(name), run_id)
    raise NotFound(
        f"'{table}' is not a table that can be made again",
        expected="bronze.x, silver.x, quarantine.x or gold.x",
        next_step="`exchange verify` tells whether a release is whole" if layer == "release" else None,
    )


def _source(source: Source, run_id: str, *, only_bronze: bool) -> tuple[Rebuilt, ...]:
    from jobs.bronze.step import bronze, table_of

    _register_landed(source, run_id)
    loose = table_of(source)
    quarantine = f"quarantine.{source.name}"
    stands = pointer(source.table)
    before = {t: _content(t, lake.version(t)) for t in (loose, quarantine) if _is_there(t)}
    _clear_the_way(loose)
    started = time.monotonic()
    forget_loaded(source.name)
    _record("bronze", "source", source.name, loose, run_id, lambda _date: bronze(source))
    made = [_rebuilt(loose, before.get(loose), lake.version(loose) or 0, started)]
    if only_bronze:
        return tuple(made)
    there = stands.delta_version if stands and _is_there(source.table) else None
    silver_before = _content(source.table, there) if there is not None else None
    made.append(_silver(source, silver_before, run_id))
    if lake.exists(quarantine):
        made.append(_rebuilt(quarantine, before.get(quarantine), lake.version(quarantine) or 0, time.monotonic()))
    return tuple(made)


def _silver(source: Source, before: _Content | None, run_id: str) -> Rebuilt:
    from jobs.silver.step import silver

    _clear_the_way(source.table)
    _clear_the_way(f"quarantine.{source.name}")
    started = time.monotonic()
    _record("silver", "source", source.name, source.table, run_id, lambda _date: silver(source, run_id, anew=True))
    version = _check(source.table, "source", source.name, run_id)
    return _rebuilt(source.table, before, version, started)


def _with_inputs(product: Product, run_id: str) -> tuple[Rebuilt, ...]:
    made: list[Rebuilt] = []
    for table in product.inputs:
        if not _is_there(table) or pointer(table) is None:
            made += rebuild(table, run_id)
    with guard.writing(f"product.{product.name}"):
        return (*made, _gold(product, run_id))


def _gold(product: Product, run_id: str) -> Rebuilt:
    from jobs.gold.step import gold

    stands = pointer(product.table)
    there = stands.delta_version if stands and _is_there(product.table) else None
    before = _content(product.table, there) if there is not None else None
    released = _released(product, stands.delta_version) if stands and before is None else None
    recalled = _clear_the_way(product.table)
    started = time.monotonic()
    _record("gold", "product", product.name, product.table, run_id, lambda _date: gold(product, run_id, anew=True))
    version = _check(product.table, "product", product.name, run_id)
    done = _rebuilt(product.table, before, version, started)
    return _as_released(done, released, recalled)


def _check(table: str, kind: Kind, name: str, run_id: str) -> int:
    """Let the pointer move to the new version, if it passes; returns that version."""
    from jobs.check.step import check

    _record("check", kind, name, table, run_id, lambda date: check(table, date, run_id))
    stands = pointer(table)
    if stands is None:
        raise ExchangeError(f"{table} was made again, but no version of it passed", next_step=f"exchange check {table}")
    return stands.delta_version


def _record(
    step: str, kind: Kind, name: str, table: str, run_id: str, verb: Callable[[datetime], StepOutcome]
) -> None:  # fmt: skip
    date = datetime.now(UTC).replace(microsecond=0)
    recorded(run_id, step, kind, name, date, table, lambda: verb(date))


def _register_landed(source: Source, run_id: str) -> None:
    """See that all landed bytes are as they were, and that the registry knows of each, in the order of arrival."""
    arrived = sorted(manifests(source.name), key=lambda landed: (landed.fetched_at, landed.sha256))
    for landed in arrived:
        verify(landed)
    with transaction() as db:
        recorded_digests = digests_in(db, source.name)
        if not recorded_digests and not arrived:
            raise NotFound(f"nothing of '{source.name}' ever landed", next_step=f"exchange land {source.name}")
        for landed in arrived:
            if landed.sha256 not in recorded_digests:
                recorded_digests.add(landed.sha256)
                manifest = {f: getattr(landed, f) for f in _MANIFEST}
                db.add(Landing(source=source.name, run_id=run_id, **manifest))
                db.flush()


def _is_there(table: str) -> bool:
    """Whether the table can be opened at all."""
    if not lake.exists(table):
        return False
    try:
        lake.version(table)
    except ExchangeError:
        return False
    return True


def _clear_the_way(table: str) -> int:
    """Let a table that is gone begin anew; what is left of a damaged one is kept beside it.

    Returns:
        How many releases pinned versions of it, and are recalled because no byte of them is left.
    """
    if _is_there(table):
        return 0
    folder = lake.location(table)
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}"))
    drop_pointer(table)
    layer, name = table.split(".", 1)
    return recall_published(name) if layer == "gold" else 0


def _content(table: str, version: int | None) -> _Content | None:
    """The content of a version; None if its files cannot be read any more."""
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
    """Two 64-bit hashes of a row; as a hash skips nulls, whether there is one is hashed too."""
    terms = [term for n in names for term in (f"CAST({quote(n)} AS STRING)", f"isnull({quote(n)})")]
    return f"xxhash64({', '.join(terms)})", f"xxhash64({', '.join(reversed(terms))})"


def _rebuilt(table: str, before: _Content | None, version: int, started: float) -> Rebuilt:
    seconds = time.monotonic() - started
    now = _content(table, version)
    rows = now.rows if now else lake.rows(table, version)
    if before is None or now is None:
        return Rebuilt(table, rows, None, None, version, seconds, "made again; there was nothing to compare it with")
    equal = (before.columns, before.rows, before.business) == (now.columns, now.rows, now.business)
    return Rebuilt(table, rows, before.rows, equal, version, seconds, _verdict(before, now, equal=equal))


def _verdict(before: _Content, now: _Content, *, equal: bool) -> str:
    if before == now:
        return "equal to what was there"
    if equal:
        return "equal to what was there, but some rows name another landed file as the one they first came in"
    if before.columns != now.columns:
        return "DIFFERENT from what was there: it has other columns, as it is declared otherwise now"
    return f"DIFFERENT from what was there, which had {before.rows:,} rows"


def _released(product: Product, version: int) -> tuple[str, int, str] | None:
    """Number, rows and fingerprint of the release made of a version, which outlive the table in its manifest."""
    release = release_of_version(product.name, version)
    return (release.number, release.rows, str(release.manifest["content"]["fingerprint"])) if release else None


def _as_released(done: Rebuilt, released: tuple[str, int, str] | None, recalled: int) -> Rebuilt:
    """Compare a product whose table was gone with what the manifest of its release says of the rows."""
    from dataclasses import replace

    from jobs.release.difference import fingerprint
    from jobs.release.snapshot import snapshot

    lost = f"; {recalled} releases were recalled, as their files are gone: release it again" if recalled else ""
    if released is None:
        return replace(done, message=done.message + lost)
    number, rows, known = released
    equal = (rows, known) == (done.rows, str(fingerprint(snapshot(done.table, done.version))))
    verdict = "equal to" if equal else "DIFFERENT from"
    return replace(done, rows_before=rows, equal=equal, message=f"{verdict} the rows of release {number}{lost}")
