"""Names the checked tables, the releases and the record of runs in a session, for users of Spark SQL and products."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.declared.catalog import load_sources
from jobs.declared.contract import load_contract
from jobs.declared.sql import literal, quote
from jobs.errors import ExchangeError
from jobs.lake import log, stages, tables
from jobs.lake.engine import connect
from jobs.lake.pointers import pointers
from jobs.lake.tables import CURRENT
from jobs.registry.releases import published_releases
from jobs.registry.runs import list_runs

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Distinguishes the error that a view of ours raises from the engine's own.
UNREADABLE = "exchange: "


def session() -> SparkSession:
    """A session with every checked table as ``silver.x`` and ``gold.x``, every release as ``release.<product>``
    (the newest) and ``release.<product>_v1_2_0``, and the counts of all runs as ``ops.runs``.

    Raises:
        ExchangeError: as `connect`.
    """
    spark = connect()
    register(spark)
    return spark


def current_rows(table: str, version: int) -> DataFrame:
    """A version of a table as readers see it: of a table that keeps revisions, the newest of each row."""
    frame = tables.read_table(table, version)
    return frame.where(CURRENT) if keeps_revisions(table, version) else frame


def keeps_revisions(table: str, version: int) -> bool:
    """Whether a version of a table also has rows that later ones superseded."""
    return "_superseded_at" in log.columns_at(table, version)


def register(spark: SparkSession) -> None:
    """Create the views silver.x, silver.x_revisions, gold.x, release.x, release.x_v1_2_0, quarantine.x and ops.runs.

    A table with missing files does not prevent reading the others: reading its view gives an error that says so,
    and how to restore it.
    """
    for database in ("silver", "gold", "release", "quarantine", "ops"):
        spark.sql(f"CREATE DATABASE IF NOT EXISTS {database}").collect()
    for checked in pointers():
        _view(spark, checked.table_name, checked.table_name, checked.delta_version)
    for name in load_sources().sources:
        if log.exists(f"quarantine.{name}"):
            _view(spark, f"quarantine.{name}", f"quarantine.{name}", None)
    _releases(spark)
    _runs(spark)


def _view(spark: SparkSession, name: str, table: str, version: int | None) -> None:
    try:
        query = _select(table, version)
    except ExchangeError as missing:
        _explain(spark, name, table, missing)
        return
    layer, own = name.split(".", 1)
    revisions = "_superseded_at" in query.columns
    where = f" WHERE {CURRENT}" if revisions else ""
    spark.sql(f"CREATE OR REPLACE VIEW {layer}.{quote(own)} AS {query.sql}{where}").collect()
    if revisions:
        every = f"{layer}.{quote(own + '_revisions')}"
        spark.sql(f"CREATE OR REPLACE VIEW {every} AS {query.sql}").collect()


@dataclass(frozen=True)
class _Select:
    sql: str
    columns: dict[str, str]


def _select(table: str, version: int | None) -> _Select:
    at = log.version(table) if version is None else version
    columns = log.columns_at(table, at)
    return _Select(f"SELECT * FROM {tables.attach(table)} VERSION AS OF {at}", columns)


def _explain(spark: SparkSession, name: str, table: str, missing: ExchangeError) -> None:
    """Create a view with the columns that the contract promises, which raises what happened when it is read."""
    try:
        columns = [(c.name, c.type) for c in load_contract(table).columns]
    except ExchangeError:
        columns = [("nothing", "STRING")]
    raised = f"raise_error({literal(f'{UNREADABLE}{name} cannot be read: {missing}')})"
    # Each value raises it: Spark would see that a null meets no condition, and never evaluate one. The filter raises it
    # too, for queries that only count rows.
    values = ", ".join(f"CAST({raised} AS {kind}) AS {quote(column)}" for column, kind in columns)
    layer, own = name.split(".", 1)
    for view in (own, f"{own}_revisions") if _declares_revisions(table) else (own,):
        query = f"SELECT {values} WHERE {raised} IS NOT NULL"
        spark.sql(f"CREATE OR REPLACE VIEW {layer}.{quote(view)} AS {query}").collect()


def _declares_revisions(table: str) -> bool:
    layer, own = table.split(".", 1)
    source = load_sources().sources.get(own) if layer == "silver" else None
    return source is not None and source.declared.silver.mode == "revisions"


def _releases(spark: SparkSession) -> None:
    published = published_releases()
    for release in published:
        name = f"release.{release.product}_v{release.major}_{release.minor}_{release.patch}"
        _view(spark, name, f"gold.{release.product}", release.delta_version)
    # Later releases replace earlier ones.
    for product, version in {release.product: release.delta_version for release in published}.items():
        _view(spark, f"release.{product}", f"gold.{product}", version)


def _runs(spark: SparkSession) -> None:
    runs = list_runs()
    schema = ", ".join(f"{name} {kind}" for name, kind in runs.columns)
    digest = hashlib.sha256(repr(runs.rows).encode()).hexdigest()
    stages.show("ops.runs", spark.createDataFrame(list(runs.rows), schema), key=digest)

