"""Silver: typed, keyed rows of a source; what cannot be typed goes to quarantine, and every row is accounted for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from jobs import lake
from jobs.bronze import slice_of, table_of
from jobs.catalog import Source
from jobs.contract import Contract, load_contract
from jobs.deduplicate import deduplicate
from jobs.join_silver import changes, write
from jobs.pointers import advance, begin
from jobs.registry import reading
from jobs.registry.models import Landing, Pointer
from jobs.runs import Counts, Recorded
from jobs.spark import connect
from jobs.split import Split

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

QUARANTINE_FIELDS = (
    lake.Field("rule", "STRING", "the rule that refused the row"),
    lake.Field("column_name", "STRING", "the columns that the rule speaks of"),
    lake.Field("value", "STRING", "what was found there, as published; for a record that could not be read, why"),
    lake.Field("record", "STRING", "the row's cells as JSON, or the record as received"),
    *lake.bookkeeping_fields(),
)
REVISION_FIELDS = (
    lake.Field("_known_at", "TIMESTAMP", "when this version of the row became known"),
    lake.Field("_superseded_at", "TIMESTAMP", "when a later version replaced it; null for the current one"),
)


@dataclass(frozen=True)
class _Batch:
    """The landings one build takes in, oldest first."""

    landings: tuple[Landing, ...]

    @property
    def watermark(self) -> int:
        """The newest landing's number."""
        return max(x.id for x in self.landings)

    @property
    def slices(self) -> str:
        """SQL for the rows of these landings in bronze and quarantine."""
        return slice_of([x.sha256 for x in self.landings])


def silver(source: Source, record: Recorded) -> None:
    """Build the next version of the source's silver table from what landed since the checked one.

    What an earlier run landed and its expectations held back is taken in again. The version is not readable through the
    pointer until `check` has passed it.

    Raises:
        DeclarationError: contract, source.yaml or silver.sql cannot be used.
        ExchangeError: rows in and rows accounted for differ; nothing is published.
    """
    contract = load_contract(source.table)
    split = Split(source, contract)
    fields = fields_of(source, contract)
    pointer = begin(source.table)
    rebuild = _shape_changed(source, fields)
    batch = _pending(source, None if rebuild else pointer)
    if not batch.landings:
        record.status = "unchanged"
        return
    lake.create(source.table, fields, contract.partitions, contract.description)
    lake.create(f"quarantine.{source.name}", QUARANTINE_FIELDS, ("_landing_sha256",), f"{source.declared.title}: refused rows")
    connect_views(source, batch)
    try:
        record.counts, made = _build(source, split, batch, rebuild)
    finally:
        lake.clear_stages()
    record.counts.balanced(source.table)
    record.input = {"landing_id": batch.watermark, "base": pointer.delta_version if pointer else None}
    record.output_version = made
    record.message = _faults(batch)
    if made is None:
        _nothing_changed(source, pointer, batch, record)


def fields_of(source: Source, contract: Contract) -> tuple[lake.Field, ...]:
    """All columns of the source's silver table."""
    revisions = REVISION_FIELDS if source.declared.silver.mode == "revisions" else ()
    return (*lake.fields_of(contract.columns), *lake.bookkeeping_fields(), *revisions)


def connect_views(source: Source, batch: _Batch) -> None:
    """Let SQL see the batch's bronze rows as `bronze`, and its landings' order of arrival as `landings`."""
    spark = connect()
    lake.read(table_of(source)).where(batch.slices).createOrReplaceTempView("bronze")
    order = [(x.sha256, x.id) for x in batch.landings]
    spark.createDataFrame(order, "_landing_sha256 string, _landing_id bigint").createOrReplaceTempView("landings")


def _shape_changed(source: Source, fields: tuple[lake.Field, ...]) -> bool:
    return lake.exists(source.table) and set(lake.columns_at(source.table)) != {f.name for f in fields}


def _pending(source: Source, pointer: Pointer | None) -> _Batch:
    since = (pointer.landing_id or 0) if pointer else 0
    with reading() as db:
        found = db.scalars(
            select(Landing)
            .where(Landing.source == source.name, Landing.id > since, Landing.loaded_at.is_not(None))
            .order_by(Landing.logical_date, Landing.id)
        )
        return _Batch(tuple(found))


def _build(source: Source, split: Split, batch: _Batch, rebuild: bool) -> tuple[Counts, int | None]:
    mode, contract = source.declared.silver.mode, split.contract
    totals = _totals(split)
    clean = deduplicate(split.good, contract, mode, duplicates=totals.repeated_keys > 0)
    change = changes(source.table, clean.good, contract, mode, rebuild=rebuild, rows=totals.good - clean.taken_out)
    counts = Counts(
        rows_in=totals.reshaped + totals.unreadable,
        rows_out=change.written,
        rows_dropped=totals.dropped,
        rows_duplicate=clean.duplicate,
        rows_unchanged=change.unchanged,
        rows_superseded=clean.superseded + change.superseded,
        rows_quarantined=totals.refused + totals.unreadable + clean.refused + change.refused,
    )
    _quarantine(source, split, batch, [clean.refused_rows, change.refused_rows], counts.rows_quarantined or 0)
    return counts, write(source.table, change, contract, mode)


@dataclass(frozen=True)
class _Totals:
    reshaped: int
    dropped: int
    refused: int
    good: int
    unreadable: int
    repeated_keys: int


def _totals(split: Split) -> _Totals:
    """Count a batch in one scan: rows, refused rows, and keys that name more than one good row."""
    spark = connect()
    key = ", ".join(f"`{k}`" for k in split.contract.key)
    row = spark.sql(
        "SELECT coalesce(sum(n), 0) AS cells, coalesce(sum(bad), 0) AS bad, count_if(n - bad > 1) AS repeated FROM"
        f" (SELECT count(*) AS n, count(_rule) AS bad FROM ({split.typed}) GROUP BY {key})"
    ).collect()[0]
    dropped = 0
    if split.dropped:
        dropped = spark.sql(f"SELECT count(*) AS n FROM ({split.reshaped}) WHERE {split.dropped}").collect()[0]["n"]
    unreadable = spark.sql("SELECT count(*) AS n FROM bronze WHERE _refused IS NOT NULL").collect()[0]["n"]
    cells, bad = int(row["cells"]), int(row["bad"])
    return _Totals(cells + dropped, dropped, bad, cells - bad, unreadable, int(row["repeated"]))


def _quarantine(source: Source, split: Split, batch: _Batch, found: list[str | None], expected: int) -> None:
    """Replace the batch's slices of quarantine by what this build refuses."""
    table = f"quarantine.{source.name}"
    if not expected and not _held(table, batch):
        return
    parts = [split.refused, *(f for f in found if f)]
    frame: DataFrame = connect().sql(" UNION ALL ".join(f"SELECT * FROM ({p})" for p in parts))
    lake.overwrite(table, frame, slice_of=batch.slices)


def _held(table: str, batch: _Batch) -> bool:
    held = {dict(f.partition).get("_landing_sha256") for f in lake.files(table)}
    return any(x.sha256 in held for x in batch.landings)


def _faults(batch: _Batch) -> str | None:
    return "; ".join(f"{x.file_name}: {x.fault}" for x in batch.landings if x.fault) or None


def _nothing_changed(source: Source, pointer: Pointer | None, batch: _Batch, record: Recorded) -> None:
    """Everything that landed was already there: the pointer takes note, and no version is made."""
    record.status = "unchanged"
    if pointer:
        advance(source.table, landing_id=batch.watermark)
