"""Polars, lazy and streaming, for the work; delta-rs (`deltalake`) for the tables."""

from __future__ import annotations

from typing import Any

from tests.bench.contenders.work import CODES, CONTRADICTION, FILE_NAME, KEY, LOGICAL_DATE, RUN_ID, Work, hold

_ORIGIN = ("_file", "_row", "_landing_sha256", "_run_id", "_logical_date")
_SILVER = ("meter_code", "read_at", "energy_kwh", "status_code", "read_month", *_ORIGIN)


def start(work: Work) -> Any:  # noqa: ARG001 - all contenders start alike
    """Import both."""
    import deltalake  # noqa: F401 - imported to count its time
    import polars

    return polars


def run(engine: Any, work: Work) -> None:
    """Do the work."""
    pl = engine
    with work.step("bronze"):
        rows = pl.scan_csv(work.csv, infer_schema=False, row_index_name="_row", row_index_offset=2).with_columns(
            pl.col("_row").cast(pl.Int64),
            _file=pl.lit(FILE_NAME),
            _landing_sha256=pl.lit(work.sha256),
            _run_id=pl.lit(RUN_ID),
            _logical_date=pl.lit(LOGICAL_DATE).cast(pl.Datetime("us", "UTC")),
        )
        _write(rows, work, "bronze")
    with work.step("silver"):
        _silver(pl, work)
    with work.step("check silver"):
        _check(pl.scan_delta(str(work.table("silver"))), "silver", _broken_silver(pl), KEY)
    with work.step("gold"):
        product = (
            pl.scan_delta(str(work.table("silver")))
            .group_by("meter_code", "read_month")
            .agg(
                consumption_kwh=pl.col("energy_kwh").sum().cast(pl.Decimal(18, 3)),
                peak_kwh=pl.col("energy_kwh").max(),
                hours_read=pl.len().cast(pl.Int64),
                days_read=pl.col("read_at").dt.date().n_unique().cast(pl.Int64),
                estimated_hours=(pl.col("status_code") == "E").sum().cast(pl.Int64),
            )
        )
        _write(product, work, "gold", "read_month")
    with work.step("check gold"):
        _check(pl.scan_delta(str(work.table("gold"))), "gold", _broken_gold(pl), ("meter_code", "read_month"))


def stop(engine: Any) -> None:
    """Nothing to release."""


def _typed(pl: Any, work: Work) -> Any:
    rows = pl.scan_delta(str(work.table("bronze"))).select(
        meter_code="meter",
        read_at=pl.col("read_at").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", time_zone="UTC", strict=False),
        energy_kwh=pl.col("kwh").cast(pl.Decimal(9, 3), strict=False),
        status_code="status",
        raw_read_at="read_at",
        raw_kwh="kwh",
        **{name: name for name in _ORIGIN},
    )
    rows = rows.with_columns(read_month=pl.col("read_at").dt.strftime("%Y-%m"))
    reason = (
        pl.when(pl.col("raw_read_at").is_not_null() & pl.col("read_at").is_null())
        .then(pl.lit("read_at.type"))
        .when(pl.col("raw_kwh").is_not_null() & pl.col("energy_kwh").is_null())
        .then(pl.lit("energy_kwh.type"))
    )
    names = (
        "meter_code.required", "meter_code.pattern", "read_at.required", "read_at.range", "energy_kwh.required",
        "energy_kwh.range", "status_code.enum", "table.on_the_hour",
    )  # fmt: skip
    for name, broken in zip(names, _broken_silver(pl), strict=True):
        reason = reason.when(broken).then(pl.lit(name))
    return rows.with_columns(reason=reason.otherwise(None))


def _silver(pl: Any, work: Work) -> None:
    typed = _typed(pl, work)
    good = typed.filter(pl.col("reason").is_null())
    repeated = good.group_by(KEY).len().filter(pl.col("len") > 1).select(KEY).collect(engine="streaming")
    same = pl.col("energy_kwh").n_unique().over(KEY) + pl.col("status_code").n_unique().over(KEY)
    settled = (
        good.join(repeated.lazy(), on=KEY, how="semi")
        .collect(engine="streaming")
        .sort("_row")
        .with_columns(contradicts=same > 2, nth=pl.int_range(pl.len()).over(KEY))
    )
    kept = settled.filter(~pl.col("contradicts") & (pl.col("nth") == 0)).select(_SILVER)
    rows = pl.concat([good.join(repeated.lazy(), on=KEY, how="anti").select(_SILVER), kept.lazy()])
    _write(rows, work, "silver", "read_month")
    contradicting = settled.filter("contradicts").with_columns(reason=pl.lit(CONTRADICTION)).drop("contradicts", "nth")
    refused = pl.concat([typed.filter(pl.col("reason").is_not_null()), contradicting.lazy()])
    _write(_quarantine(pl, refused), work, "quarantine")
    duplicates = settled.filter(~pl.col("contradicts") & (pl.col("nth") > 0)).height
    written = {layer: _rows(work, layer) for layer in ("bronze", "silver", "quarantine")}
    accounted = written["silver"] + written["quarantine"] + duplicates
    hold("silver", {"rows.balance": int(written["bronze"] != accounted)})


def _quarantine(pl: Any, refused: Any) -> Any:
    column = pl.col("reason").str.split(".").list.first()
    value = (
        pl.when(column == "read_at").then("raw_read_at").when(column == "energy_kwh").then("raw_kwh")
        .when(column == "meter_code").then("meter_code").when(column == "status_code").then("status_code")
    )  # fmt: skip
    cells = pl.struct(meter="meter_code", read_at="raw_read_at", kwh="raw_kwh", status="status_code")
    origin = {name: name for name in _ORIGIN}
    return refused.select(rule="reason", column_name=column, value=value, record=cells.struct.json_encode(), **origin)


def _broken_silver(pl: Any) -> list[Any]:
    meter, at, energy = pl.col("meter_code"), pl.col("read_at"), pl.col("energy_kwh")
    first = pl.datetime(2000, 1, 1, time_zone="UTC")
    last = pl.datetime(2100, 1, 1, time_zone="UTC")
    return [
        meter.is_null(),
        ~meter.str.contains("^M[0-9]{5}$"),
        at.is_null(),
        (at < first) | (at > last),
        energy.is_null(),
        (energy < 0) | (energy > 1000),
        ~pl.col("status_code").is_in(CODES),
        (at.dt.minute() != 0) | (at.dt.second() != 0),
    ]


def _broken_gold(pl: Any) -> list[Any]:
    used, peak = pl.col("consumption_kwh"), pl.col("peak_kwh")
    return [
        pl.col("meter_code").is_null(),
        pl.col("read_month").is_null(),
        ~pl.col("read_month").str.contains("^[0-9]{4}-[0-9]{2}$"),
        used.is_null() | (used < 0),
        peak.is_null() | (peak < 0) | (peak > 1000),
        ~pl.col("hours_read").is_between(1, 744),
        ~pl.col("days_read").is_between(1, 31),
        ~pl.col("estimated_hours").is_between(0, 744),
        peak > used.cast(pl.Decimal(18, 3)),
    ]


def _check(rows: Any, layer: str, broken: list[Any], key: tuple[str, ...]) -> None:
    import polars as pl

    sums = [rule.sum().alias(f"rule {n}") for n, rule in enumerate(broken)]
    failed = rows.select(*sums, pl.len().alias("rows")).collect(engine="streaming").row(0, named=True)
    keys = rows.group_by(key).len().select(pl.len()).collect(engine="streaming").item()
    count = failed.pop("rows")
    hold(layer, failed | {"key.unique": count - keys, "empty": int(not count)})


def _write(rows: Any, work: Work, layer: str, partition: str | None = None) -> None:
    options = {"partition_by": partition} if partition else {}
    rows.sink_delta(str(work.table(layer)), delta_write_options=options, engine="streaming")


def _rows(work: Work, layer: str) -> int:
    import pyarrow as pa
    from deltalake import DeltaTable

    return sum(pa.table(DeltaTable(str(work.table(layer))).get_add_actions())["num_records"].to_pylist())
