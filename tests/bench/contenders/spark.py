"""Plain PySpark with Delta on all local cores; Spark's defaults except where one machine needs others."""

from __future__ import annotations

import os
from typing import Any

from jobs.lake import delta_coordinates
from tests.bench.contenders.work import CODES, CONTRADICTION, FILE_NAME, KEY, LOGICAL_DATE, RUN_ID, Work, hold

_ORIGIN = ("_file", "_row", "_landing_sha256", "_run_id", "_logical_date")
_SILVER = ("meter_code", "read_at", "energy_kwh", "status_code", "read_month", *_ORIGIN)

_BROKEN_SILVER = {
    "meter_code.required": "meter_code IS NULL",
    "meter_code.pattern": "NOT meter_code RLIKE '^M[0-9]{5}$'",
    "read_at.required": "read_at IS NULL",
    "read_at.range": "read_at < TIMESTAMP '2000-01-01' OR read_at > TIMESTAMP '2100-01-01'",
    "energy_kwh.required": "energy_kwh IS NULL",
    "energy_kwh.range": "energy_kwh < 0 OR energy_kwh > 1000",
    "status_code.enum": f"status_code NOT IN {CODES}",
    "table.on_the_hour": "minute(read_at) <> 0 OR second(read_at) <> 0",
}
_TYPED = (
    "meter AS meter_code", "try_cast(read_at AS TIMESTAMP) AS read_at", "try_cast(kwh AS DECIMAL(9,3)) AS energy_kwh",
    "status AS status_code", "date_format(try_cast(read_at AS TIMESTAMP), 'yyyy-MM') AS read_month",
    "read_at AS raw_read_at", "kwh AS raw_kwh",
)  # fmt: skip
_TYPING = {
    "read_at.type": "raw_read_at IS NOT NULL AND read_at IS NULL",
    "energy_kwh.type": "raw_kwh IS NOT NULL AND energy_kwh IS NULL",
}
_BROKEN_GOLD = {
    "meter_code.required": "meter_code IS NULL",
    "read_month.required": "read_month IS NULL",
    "read_month.pattern": "NOT read_month RLIKE '^[0-9]{4}-[0-9]{2}$'",
    "consumption_kwh": "consumption_kwh IS NULL OR consumption_kwh < 0",
    "peak_kwh": "peak_kwh IS NULL OR peak_kwh < 0 OR peak_kwh > 1000",
    "hours_read": "hours_read IS NULL OR hours_read NOT BETWEEN 1 AND 744",
    "days_read": "days_read IS NULL OR days_read NOT BETWEEN 1 AND 31",
    "estimated_hours": "estimated_hours IS NULL OR estimated_hours NOT BETWEEN 0 AND 744",
    "peak_within": "peak_kwh > consumption_kwh",
}

_PRODUCT = """
SELECT meter_code, read_month, CAST(sum(energy_kwh) AS DECIMAL(18,3)) AS consumption_kwh,
    max(energy_kwh) AS peak_kwh, count(*) AS hours_read, count(DISTINCT to_date(read_at)) AS days_read,
    count_if(status_code = 'E') AS estimated_hours
FROM silver GROUP BY meter_code, read_month
"""


def start(work: Work) -> Any:
    """Import PySpark and start its engine."""
    from pyspark.sql import SparkSession

    return (
        SparkSession.builder.master("local[*]")
        .config("spark.jars.packages", delta_coordinates())
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        # The default of 1 GiB is too little for this much data; 200 shuffle and 50 log partitions suit clusters.
        .config("spark.driver.memory", "8g")
        .config("spark.sql.shuffle.partitions", str(2 * (os.cpu_count() or 1)))
        .config("spark.databricks.delta.snapshotPartitions", "2")
        .config("spark.local.dir", str(work.folder / "spark"))
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )


def run(engine: Any, work: Work) -> None:
    """Do the work."""
    from pyspark.sql import functions as F

    with work.step("bronze"):
        rows = (
            engine.read.option("header", "true")
            .schema("meter string, read_at string, kwh string, status string")
            .csv(str(work.csv))
            .withColumns(
                {
                    "_file": F.lit(FILE_NAME),
                    # Unique, but no line number: Spark has none without another pass.
                    "_row": F.monotonically_increasing_id(),
                    "_landing_sha256": F.lit(work.sha256),
                    "_run_id": F.lit(RUN_ID),
                    "_logical_date": F.lit(LOGICAL_DATE),
                }
            )
        )
        _write(rows, work, "bronze")
    with work.step("silver"):
        _silver(engine, work)
    with work.step("check silver"):
        _check(engine, work, "silver", _BROKEN_SILVER, KEY)
    with work.step("gold"):
        _read(engine, work, "silver").createOrReplaceTempView("silver")
        _write(engine.sql(_PRODUCT), work, "gold", "read_month")
    with work.step("check gold"):
        _check(engine, work, "gold", _BROKEN_GOLD, ("meter_code", "read_month"))


def stop(engine: Any) -> None:
    """End the engine."""
    engine.stop()


def _silver(engine: Any, work: Work) -> None:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    reason = " ".join(f"WHEN {broken} THEN '{rule}'" for rule, broken in (_TYPING | _BROKEN_SILVER).items())
    typed = (
        _read(engine, work, "bronze").selectExpr(*_TYPED, *_ORIGIN).withColumn("reason", F.expr(f"CASE {reason} END"))
    )
    good = typed.where("reason IS NULL")
    repeated = good.groupBy(*KEY).count().where("count > 1").select(*KEY).cache()
    same = Window.partitionBy(*KEY)
    settled = (
        good.join(F.broadcast(repeated), list(KEY), "left_semi")
        .withColumn(
            "contradicts",
            (F.min("energy_kwh").over(same) != F.max("energy_kwh").over(same))
            | (F.min("status_code").over(same) != F.max("status_code").over(same)),
        )
        .withColumn("nth", F.row_number().over(same.orderBy("_row")))
        .cache()
    )
    kept = settled.where("NOT contradicts AND nth = 1").select(*_SILVER)
    rows = good.join(F.broadcast(repeated), list(KEY), "left_anti").select(*_SILVER).union(kept)
    _write(rows, work, "silver", "read_month")
    contradicting = settled.where("contradicts").withColumn("reason", F.lit(CONTRADICTION)).drop("contradicts", "nth")
    _write(_quarantine(typed.where("reason IS NOT NULL").unionByName(contradicting)), work, "quarantine")
    duplicates = settled.where("NOT contradicts AND nth > 1").count()
    written = {layer: _read(engine, work, layer).count() for layer in ("bronze", "silver", "quarantine")}
    accounted = written["silver"] + written["quarantine"] + duplicates
    hold("silver", {"rows.balance": int(written["bronze"] != accounted)})


def _quarantine(refused: Any) -> Any:
    cells = "'meter', meter_code, 'read_at', raw_read_at, 'kwh', raw_kwh, 'status', status_code"
    return refused.selectExpr(
        "reason AS rule",
        "split_part(reason, '.', 1) AS column_name",
        "CASE split_part(reason, '.', 1) WHEN 'read_at' THEN raw_read_at WHEN 'energy_kwh' THEN raw_kwh"
        " WHEN 'meter_code' THEN meter_code WHEN 'status_code' THEN status_code END AS value",
        f"to_json(named_struct({cells})) AS record",
        *_ORIGIN,
    )


def _check(engine: Any, work: Work, layer: str, rules: dict[str, str], key: tuple[str, ...]) -> None:
    rows = _read(engine, work, layer)
    row = rows.selectExpr(
        *[f"count_if({broken}) AS `{rule}`" for rule, broken in rules.items()], "count(*) AS rows"
    ).first()
    keys = rows.groupBy(*key).count().count()
    broken = row.asDict()
    count = broken.pop("rows")
    hold(layer, broken | {"key.unique": count - keys, "empty": int(not count)})


def _read(engine: Any, work: Work, layer: str) -> Any:
    return engine.read.format("delta").load(str(work.table(layer)))


def _write(rows: Any, work: Work, layer: str, partition: str | None = None) -> None:
    writer = rows.write.format("delta")
    if partition:
        writer = writer.partitionBy(partition)
    writer.save(str(work.table(layer)))
