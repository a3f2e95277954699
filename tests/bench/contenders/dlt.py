"""dlt with its filesystem destination and Delta tables; its resources do typing, rules and the product in Arrow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from tests.bench.contenders.work import CODES, CONTRADICTION, FILE_NAME, KEY, LOGICAL_DATE, RUN_ID, Work, hold

_ORIGIN = ("_file", "_row", "_landing_sha256", "_run_id", "_logical_date")
_SILVER = ("meter_code", "read_at", "energy_kwh", "status_code", "read_month", *_ORIGIN)
_RAW = ("meter", "read_at", "kwh", "status")
_BLOCK = 16 << 20


def start(work: Work) -> Any:
    """Import dlt and make a pipeline whose tables lie under the work's folder."""
    os.environ.update(RUNTIME__DLTHUB_TELEMETRY="false", RUNTIME__LOG_LEVEL="ERROR")
    import deltalake  # noqa: F401 - imported to count its time
    import dlt
    import pyarrow.compute
    import pyarrow.csv
    import pyarrow.dataset  # noqa: F401 - as above

    return dlt.pipeline(
        "bench",
        pipelines_dir=str(work.folder / "pipelines"),
        destination=dlt.destinations.filesystem(bucket_url=work.folder.as_uri()),
        dataset_name="lake",
    )


def run(engine: Any, work: Work) -> None:
    """Do the work, each table by a run of the pipeline."""
    with work.step("bronze"):
        _load(engine, _bronze(work), "bronze")
    with work.step("silver"):
        _silver(engine, work)
    with work.step("check silver"):
        _check(work, "silver", _broken_silver, KEY)
    with work.step("gold"):
        _load(engine, _product(work), "gold", "read_month")
    with work.step("check gold"):
        _check(work, "gold", _broken_gold, ("meter_code", "read_month"))


def stop(engine: Any) -> None:
    """Nothing to release."""


def _load(pipeline: Any, rows: Iterator[Any], layer: str, partition: str | None = None) -> None:
    import dlt

    columns = {partition: {"partition": True}} if partition else None
    pipeline.run(dlt.resource(rows, name=layer, table_format="delta", write_disposition="append", columns=columns))


def _bronze(work: Work) -> Iterator[Any]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv

    reader = pyarrow.csv.open_csv(
        work.csv,
        read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(_RAW, pa.string()), strings_can_be_null=True, null_values=[""]
        ),
    )
    row = 2
    for batch in reader:
        count = batch.num_rows
        origin = {
            "_file": pa.repeat(FILE_NAME, count),
            "_row": pa.array(np.arange(row, row + count)),
            "_landing_sha256": pa.repeat(work.sha256, count),
            "_run_id": pa.repeat(RUN_ID, count),
            "_logical_date": pa.repeat(pa.scalar(LOGICAL_DATE, pa.timestamp("us", "UTC")), count),
        }
        row += count
        yield pa.table({name: batch[name] for name in _RAW} | origin)


def _dataset(work: Work, layer: str) -> Any:
    from deltalake import DeltaTable

    return DeltaTable(str(work.table(layer))).to_pyarrow_dataset()


def _typed(batch: Any) -> Any:
    """A batch of text rows with typed columns and the reason why a row is refused, if any."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # Times repeat for every meter: parse each once.
    times = batch["read_at"].dictionary_encode()
    parsed = _instants(times.dictionary)
    read_at = parsed.take(times.indices)
    kwh = pa.decimal128(9, 3)
    numeric = pc.fill_null(pc.match_substring_regex(batch["kwh"], r"^-?[0-9]+(\.[0-9]+)?$"), False)
    typed = {
        "meter_code": batch["meter"],
        "read_at": read_at,
        "energy_kwh": pc.if_else(numeric, pc.if_else(numeric, batch["kwh"], "0").cast(kwh), pa.scalar(None, kwh)),
        "status_code": batch["status"],
        "read_month": pc.strftime(parsed, format="%Y-%m").take(times.indices),
    }
    typing = {
        "read_at.type": pc.and_(pc.is_valid(batch["read_at"]), pc.is_null(read_at)),
        "energy_kwh.type": pc.and_(pc.is_valid(batch["kwh"]), pc.is_null(typed["energy_kwh"])),
    }
    rules = typing | _broken_silver(typed)
    certain = [pc.fill_null(broken, False) for broken in rules.values()]
    reason = pc.case_when(pa.StructArray.from_arrays(certain, names=list(rules)), *rules)
    raw = {"raw_read_at": batch["read_at"], "raw_kwh": batch["kwh"]}
    origin = {name: batch[name] for name in _ORIGIN if name in batch.schema.names}
    return pa.table(typed | raw | origin | {"reason": reason})


def _instants(texts: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    form = "%Y-%m-%d %H:%M:%S"
    parsed = pc.strptime(texts, format=form, unit="us", error_is_null=True)
    # A day that its month does not have is parsed as one of the next month.
    same = pc.equal(pc.utf8_slice_codeunits(pc.strftime(parsed, format=form), 0, len("2025-01-01 00:00:00")), texts)
    return pc.if_else(same, parsed, pa.scalar(None, parsed.type)).cast(pa.timestamp("us", "UTC"))


def _silver(pipeline: Any, work: Work) -> None:
    import dlt
    import pyarrow.compute as pc

    bronze = _dataset(work, "bronze")
    suspects = _suspects(_typed(batch) for batch in bronze.to_batches(columns=list(_RAW)))
    held: list[Any] = []

    @dlt.resource(name="split")
    def split() -> Iterator[Any]:
        for batch in bronze.to_batches():
            rows = _typed(batch)
            good = rows.filter(pc.is_null(rows["reason"]))
            held.append(good.join(suspects, list(KEY), join_type="left semi"))
            if held[-1].num_rows:
                good = good.join(suspects, list(KEY), join_type="left anti")
            yield _as(good.select(_SILVER), "silver", "read_month")
            refused = rows.filter(pc.is_valid(rows["reason"]))
            if refused.num_rows:
                yield _as(_quarantine(refused), "quarantine")
        kept, contradicting = _settled(held)
        yield _as(kept, "silver", "read_month")
        yield _as(_quarantine(contradicting), "quarantine")

    pipeline.run(split)
    together = sum(part.num_rows for part in held)
    kept, contradicting = _settled(held)
    duplicates = together - kept.num_rows - contradicting.num_rows
    written = {layer: _dataset(work, layer).count_rows() for layer in ("bronze", "silver", "quarantine")}
    accounted = written["silver"] + written["quarantine"] + duplicates
    hold("silver", {"rows.balance": int(written["bronze"] != accounted)})


def _as(rows: Any, table: str, partition: str | None = None) -> Any:
    import dlt

    columns = {partition: {"partition": True}} if partition else None
    hints = dlt.mark.make_hints(table_name=table, table_format="delta", write_disposition="append", columns=columns)
    return dlt.mark.with_hints(rows, hints, create_table_variant=True)


def _suspects(batches: Iterator[Any]) -> Any:
    """The keys of more than one good row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    good = pa.concat_tables(rows.filter(pc.is_null(rows["reason"])).select(KEY) for rows in batches)
    counted = good.group_by(list(KEY)).aggregate([([], "count_all")])
    return counted.filter(pc.greater(counted["count_all"], 1)).select(KEY)


def _settled(held: list[Any]) -> tuple[Any, Any]:
    """Splits rows that share a key: one row for each key whose rows agree, and all rows of the others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = pa.concat_tables(held)
    output = rows.group_by(list(KEY)).aggregate(
        [("energy_kwh", "count_distinct"), ("status_code", "count_distinct"), ("_row", "min")]
    )
    agree = pc.and_(pc.equal(output["energy_kwh_count_distinct"], 1), pc.equal(output["status_code_count_distinct"], 1))
    first = output.filter(agree).select(["_row_min"])
    against = output.filter(pc.invert(agree)).select(KEY)
    kept = rows.join(first, "_row", "_row_min", join_type="left semi").select(_SILVER)
    contradicting = rows.join(against, list(KEY), join_type="left semi")
    reason = pa.repeat(CONTRADICTION, contradicting.num_rows)
    place = contradicting.schema.get_field_index("reason")
    return kept, contradicting.set_column(place, "reason", reason)


def _quarantine(refused: Any) -> Any:
    import json

    import pyarrow as pa

    raw = ("meter_code", "raw_read_at", "raw_kwh", "status_code")
    cells = refused.select(raw).to_pylist()
    named = [dict(zip(_RAW, row.values(), strict=True)) for row in cells]
    columns = [reason.split(".")[0] for reason in refused["reason"].to_pylist()]
    shown = {"read_at": "raw_read_at", "energy_kwh": "raw_kwh"}
    return pa.table(
        {
            "rule": refused["reason"],
            "column_name": pa.array(columns, pa.string()),
            "value": pa.array([row.get(shown.get(c, c)) for row, c in zip(cells, columns, strict=True)], pa.string()),
            "record": pa.array([json.dumps(row) for row in named], pa.string()),
        }
        | {name: refused[name] for name in _ORIGIN}
    )


def _broken_silver(rows: Any) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    at, energy = rows["read_at"], rows["energy_kwh"]
    first, last = (pa.scalar(f"{year}-01-01T00:00:00Z").cast(pa.timestamp("us", "UTC")) for year in (2000, 2100))
    low, high = (pa.scalar(limit).cast(pa.decimal128(9, 3)) for limit in ("0", "1000"))
    return {
        "meter_code.required": pc.is_null(rows["meter_code"]),
        "meter_code.pattern": pc.invert(pc.match_substring_regex(rows["meter_code"], "^M[0-9]{5}$")),
        "read_at.required": pc.is_null(at),
        "read_at.range": pc.or_(pc.less(at, first), pc.greater(at, last)),
        "energy_kwh.required": pc.is_null(energy),
        "energy_kwh.range": pc.or_(pc.less(energy, low), pc.greater(energy, high)),
        "status_code.enum": pc.invert(pc.is_in(rows["status_code"], value_set=pa.array(CODES))),
        "table.on_the_hour": pc.or_(pc.not_equal(pc.minute(at), 0), pc.not_equal(pc.second(at), 0)),
    }


def _broken_gold(rows: Any) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    def outside(name: str, low: int, high: int) -> Any:
        return pc.or_(pc.less(rows[name], low), pc.greater(rows[name], high))

    zero = pa.scalar("0").cast(pa.decimal128(9, 3))
    return {
        "meter_code.required": pc.is_null(rows["meter_code"]),
        "read_month.required": pc.is_null(rows["read_month"]),
        "read_month.pattern": pc.invert(pc.match_substring_regex(rows["read_month"], "^[0-9]{4}-[0-9]{2}$")),
        "consumption_kwh.range": pc.less(rows["consumption_kwh"], zero),
        "peak_kwh.range": pc.less(rows["peak_kwh"], zero),
        "hours_read.range": outside("hours_read", 1, 744),
        "days_read.range": outside("days_read", 1, 31),
        "estimated_hours.range": outside("estimated_hours", 0, 744),
        "peak_within": pc.greater(rows["peak_kwh"], rows["consumption_kwh"]),
    }


def _product(work: Work) -> Iterator[Any]:
    """The product, month by month: no group spans two partitions."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for rows, month in _months(work, "silver", ["meter_code", "read_at", "energy_kwh", "status_code"]):
        # Timestamps are in UTC, and so is the date.
        table = rows.append_column("day", rows["read_at"].cast(pa.timestamp("us")).cast(pa.date32()))
        table = table.append_column("estimated", pc.equal(rows["status_code"], "E").cast(pa.int64()))
        sums = [("energy_kwh", "sum"), ("energy_kwh", "max"), ("estimated", "sum")]
        groups = table.group_by("meter_code").aggregate([*sums, ([], "count_all"), ("day", "count_distinct")])
        yield pa.table(
            {
                "meter_code": groups["meter_code"],
                "read_month": pa.repeat(month, groups.num_rows),
                "consumption_kwh": groups["energy_kwh_sum"].cast(pa.decimal128(18, 3)),
                "peak_kwh": groups["energy_kwh_max"],
                "hours_read": groups["count_all"],
                "days_read": groups["day_count_distinct"],
                "estimated_hours": groups["estimated_sum"],
            }
        )


def _months(work: Work, layer: str, columns: list[str] | None = None) -> Iterator[tuple[Any, str]]:
    import pyarrow.compute as pc
    from deltalake import DeltaTable

    months = sorted({partition["read_month"] for partition in DeltaTable(str(work.table(layer))).partitions()})
    dataset = _dataset(work, layer)
    for month in months:
        yield dataset.to_table(columns=columns, filter=pc.field("read_month") == month), month


def _check(work: Work, layer: str, rules: Any, key: tuple[str, ...]) -> None:
    import pyarrow.compute as pc

    broken: dict[str, int] = {"key.unique": 0}
    count = 0
    for rows, _month in _months(work, layer):
        count += rows.num_rows
        for rule, breaks in rules({name: rows[name] for name in rows.column_names}).items():
            broken[rule] = broken.get(rule, 0) + (pc.sum(breaks).as_py() or 0)
        keys = rows.select(key).group_by(list(key)).aggregate([]).num_rows
        broken["key.unique"] += rows.num_rows - keys
    hold(layer, broken | {"empty": int(not count)})
