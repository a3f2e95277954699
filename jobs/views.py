"""Gives a session its names: checked tables, releases and the record of runs, for Spark SQL users and for products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from jobs import lake
from jobs.catalog import load_sources
from jobs.pointers import pointers
from jobs.registry import reading
from jobs.registry.models import Release, Run
from jobs.revisions import CURRENT
from jobs.rules import quote

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def current_rows(table: str, version: int) -> DataFrame:
    """A version of a table as readers see it: of a table that keeps revisions, the newest of each row."""
    frame = lake.read(table, version)
    return frame.where(CURRENT) if keeps_revisions(table, version) else frame


def keeps_revisions(table: str, version: int) -> bool:
    """Whether a version of a table also holds rows that later ones superseded."""
    return "_superseded_at" in lake.columns_at(table, version)


def register(spark: SparkSession) -> None:
    """Create the views silver.x, silver.x_revisions, gold.x, release.x, release.x_v1_2_0, quarantine.x and ops.runs."""
    for database in ("silver", "gold", "release", "quarantine", "ops"):
        spark.sql(f"CREATE DATABASE IF NOT EXISTS {database}").collect()
    for stands in pointers():
        _view(spark, stands.table_name, stands.table_name, stands.delta_version)
    for name in load_sources().sources:
        if lake.exists(f"quarantine.{name}"):
            _view(spark, f"quarantine.{name}", f"quarantine.{name}", lake.version(f"quarantine.{name}") or 0)
    _releases(spark)
    _runs(spark)


def _view(spark: SparkSession, name: str, table: str, version: int) -> None:
    layer, own = name.split(".", 1)
    attached = lake.attach(table)
    revisions = keeps_revisions(table, version)
    where = f" WHERE {CURRENT}" if revisions else ""
    spark.sql(
        f"CREATE OR REPLACE VIEW {layer}.{quote(own)} AS SELECT * FROM {attached} VERSION AS OF {version}{where}"
    ).collect()
    if revisions:
        every = f"{layer}.{quote(own + '_revisions')}"
        spark.sql(f"CREATE OR REPLACE VIEW {every} AS SELECT * FROM {attached} VERSION AS OF {version}").collect()


def _releases(spark: SparkSession) -> None:
    with reading() as db:
        found = list(
            db.scalars(
                select(Release)
                .where(Release.status == "published")
                .order_by(Release.product, Release.major, Release.minor, Release.patch)
            )
        )
    for release in found:
        numbered = f"{release.product}_v{release.major}_{release.minor}_{release.patch}"
        _view(spark, f"release.{numbered}", f"gold.{release.product}", release.delta_version)
    for release in {r.product: r for r in found}.values():
        _view(spark, f"release.{release.product}", f"gold.{release.product}", release.delta_version)


def _runs(spark: SparkSession) -> None:
    columns = [c.name for c in Run.__table__.columns if c.name != "input"]
    with reading() as db:
        rows = [tuple(row) for row in db.execute(select(*(getattr(Run, c) for c in columns)).order_by(Run.id))]
    kinds = {"BIGINT": "bigint", "DATETIME": "timestamp", "INTEGER": "bigint"}
    schema = ", ".join(
        f"{c} {kinds.get(str(Run.__table__.c[c].type).split('(')[0].upper(), 'string')}" for c in columns
    )
    spark.createDataFrame(rows, schema).createOrReplaceTempView("ops_runs")
    spark.sql("CREATE OR REPLACE VIEW ops.runs AS SELECT * FROM ops_runs").collect()
