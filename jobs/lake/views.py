"""Names the checked tables, the releases and the record of runs in a session, for users of Spark SQL and products."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from jobs.declared.catalog import Source, load_sources
from jobs.declared.contract import load_contract
from jobs.declared.grammar import READABLE
from jobs.declared.sql import literal, quote
from jobs.errors import ExchangeError
from jobs.lake import log, stages, tables
from jobs.lake.engine import connect
from jobs.lake.pointers import pointer, pointers
from jobs.lake.tables import CURRENT
from jobs.registry.models import Pointer
from jobs.registry.releases import Published, published_releases
from jobs.registry.runs import list_runs

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Distinguishes the error that a view of ours raises from the engine's own.
UNREADABLE = "exchange: "

_RUNS = "ops.runs"
_REVISIONS = "_revisions"
_NUMBERED = re.compile(r"^(?P<product>.+)_v[0-9]+_[0-9]+_[0-9]+$")
_NAMED = re.compile(rf"\b({'|'.join(READABLE)})`?\s*\.\s*`?(\w+)", re.I)
_LISTING = re.compile(r"\s*(SHOW|DESC)", re.I)


def session() -> SparkSession:
    """A session in which Spark SQL reads every checked table as ``silver.x`` and ``gold.x``, every release as
    ``release.<product>`` (the newest) and ``release.<product>_v1_2_0``, and the counts of all runs as ``ops.runs``.

    A name is registered when a query or `table` first names it, or `catalog` is first used; another `session()` reads
    what is checked and released then.

    Raises:
        ExchangeError: as `connect`.
    """
    return cast("SparkSession", _Reader(connect()))


class _Reader:
    """A session that registers the names of its queries first, as there is one for each release ever published."""

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark
        self._registered: set[str] = set()

    def sql(self, query: str, *args: Any, **kwargs: Any) -> DataFrame:
        """As the session's own."""
        is_listing = _LISTING.match(query)
        self._register(readable() if is_listing else [f"{s}.{n}".lower() for s, n in _NAMED.findall(query)])
        return self._spark.sql(query, *args, **kwargs)

    def table(self, name: str) -> DataFrame:
        """As the session's own."""
        self._register([name.replace("`", "").lower()])
        return self._spark.table(name)

    @property
    def catalog(self) -> Any:
        """As the session's own."""
        self._register(readable())
        return self._spark.catalog

    def _register(self, names: Iterable[str]) -> None:
        register(self._spark, [name for name in names if name not in self._registered])
        self._registered.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._spark, name)


def readable() -> list[str]:
    """Names of all that can be read now, in the order of `READABLE`."""
    sources = load_sources().sources
    checked = [pointer.table_name for pointer in pointers()]
    published = published_releases()
    names = {
        *checked,
        *(f"{s.table}{_REVISIONS}" for s in sources.values() if s.table in checked and _declares_revisions(s)),
        *(f"release.{release.product}" for release in published),
        *(_name_of(release) for release in published),
        *(f"quarantine.{name}" for name in sources if log.exists(f"quarantine.{name}")),
        _RUNS,
    }
    return sorted(names, key=lambda name: (READABLE.index(name.partition(".")[0]), name))


def columns_of(name: str) -> list[tuple[str, str, str]] | None:
    """Name, type and comment of each column of what a name reads; None if there is nothing of that name.

    A checked table's comments are the meanings in its contract as it is now, because the log has those of the day when
    the table was made; a release's are those in its log.

    Raises:
        ExchangeError: the table is gone.
    """
    if name == _RUNS:
        return [(column, kind, "") for column, kind in list_runs().columns]
    found = _find(name)
    if found is None:
        return None
    columns, meanings = log.described(found.table, found.version), _meanings(found.table)
    if name.startswith("release."):
        return [(column, kind, comment or meanings.get(column, "")) for column, kind, comment in columns]
    return [(column, kind, meanings.get(column, comment)) for column, kind, comment in columns]


def _meanings(table: str) -> dict[str, str]:
    """What the columns of a table mean by its contract; nothing if it has none that can be read."""
    try:
        return {field.name: field.comment for field in tables.fields_of(load_contract(table).columns)}
    except ExchangeError:
        return {}


def current_rows(table: str, version: int) -> DataFrame:
    """A version of a table as readers see it: of a table that keeps revisions, the newest of each row."""
    frame = tables.read_table(table, version)
    return frame.where(CURRENT) if keeps_revisions(table, version) else frame


def keeps_revisions(table: str, version: int | None) -> bool:
    """Whether a version of a table also has rows that later ones superseded."""
    return "_superseded_at" in log.columns_at(table, version)


def register(spark: SparkSession, names: Iterable[str]) -> list[str]:
    """Create views of these names, like ``silver.x`` and ``release.x_v1_2_0``; returns those that there is nothing for.

    A table with missing files does not prevent reading the others: reading its view gives an error that says so,
    and how to restore it.
    """
    unknown = []
    schemas = set()
    for name in names:
        found = None if name == _RUNS else _find(name)
        if found is None and name != _RUNS:
            unknown.append(name)
            continue
        schema = name.partition(".")[0]
        if schema not in schemas:
            spark.sql(f"CREATE DATABASE IF NOT EXISTS {schema}").collect()
            schemas.add(schema)
        if found is None:
            _runs(spark)
        else:
            _view(spark, name, found)
    return unknown


@dataclass(frozen=True)
class _Readable:
    """What a name reads: a version of a table (the newest if None), of which all revisions or the current ones."""

    table: str
    version: int | None
    all_revisions: bool = False


def _find(name: str) -> _Readable | None:
    schema, _, own = name.partition(".")
    if schema == "quarantine":
        return _Readable(name, None) if own in load_sources(only=own).sources and log.exists(name) else None
    if schema == "release":
        return _find_release(own)
    if schema not in ("silver", "gold"):
        return None
    if checked := pointer(name):
        return _Readable(name, checked.delta_version)
    of_revisions = name.removesuffix(_REVISIONS)
    checked = pointer(of_revisions) if of_revisions != name else None
    if checked is None or not _keeps_revisions(checked):
        return None
    return _Readable(of_revisions, checked.delta_version, all_revisions=True)


def _find_release(own: str) -> _Readable | None:
    numbered = _NUMBERED.match(own)
    product = numbered["product"] if numbered else own
    published = published_releases(product)
    if numbered:
        published = [release for release in published if _name_of(release) == f"release.{own}"]
    return _Readable(f"gold.{product}", published[-1].delta_version) if published else None


def _name_of(release: Published) -> str:
    return f"release.{release.product}_v{release.major}_{release.minor}_{release.patch}"


def _keeps_revisions(checked: Pointer) -> bool:
    try:
        return keeps_revisions(checked.table_name, checked.delta_version)
    except ExchangeError:
        # The table is gone; its view is to say so.
        own = checked.table_name.partition(".")[2]
        return any(map(_declares_revisions, load_sources(only=own).sources.values()))


def _declares_revisions(source: Source) -> bool:
    return source.declared.silver.keeps_versions


def _view(spark: SparkSession, name: str, found: _Readable) -> None:
    try:
        at = log.version(found.table) if found.version is None else found.version
        # Asked first: it raises if the table is gone.
        is_current = keeps_revisions(found.table, at) and not found.all_revisions
        query = f"SELECT * FROM {tables.attach(found.table)} VERSION AS OF {at}" + is_current * f" WHERE {CURRENT}"
    except ExchangeError as missing:
        query = _explanation(found.table, missing)
    schema, own = name.split(".", 1)
    spark.sql(f"CREATE OR REPLACE VIEW {schema}.{quote(own)} AS {query}").collect()


def _explanation(table: str, missing: ExchangeError) -> str:
    """SELECT of the columns that the contract promises, which raises what happened when it is read."""
    try:
        columns = [(c.name, c.type) for c in load_contract(table).columns]
    except ExchangeError:
        columns = [("nothing", "STRING")]
    raised = f"raise_error({literal(f'{UNREADABLE}{table} cannot be read: {missing}')})"
    # Each value raises it: Spark would see that a null meets no condition, and never evaluate one. The filter raises it
    # too, for queries that only count rows.
    values = ", ".join(f"CAST({raised} AS {kind}) AS {quote(column)}" for column, kind in columns)
    return f"SELECT {values} WHERE {raised} IS NOT NULL"


def _runs(spark: SparkSession) -> None:
    runs = list_runs()
    schema = ", ".join(f"{name} {kind}" for name, kind in runs.columns)
    digest = hashlib.sha256(repr(runs.rows).encode()).hexdigest()
    stages.show(_RUNS, spark.createDataFrame(list(runs.rows), schema), key=digest)

