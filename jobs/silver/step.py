"""Silver: typed, keyed rows of a source; what cannot be typed goes to quarantine, and every row is accounted for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from jobs import lake
from jobs.bronze.step import origin_of, published_rows, slice_of
from jobs.declared.catalog import SilverMode, Source
from jobs.declared.compile import rows_digest
from jobs.declared.contract import Contract, load_contract
from jobs.declared.sql import read_select
from jobs.errors import ExchangeError, RefusedFile
from jobs.lake import REVISION_FIELDS, connect, guard
from jobs.lake.engine_errors import translate_engine_errors
from jobs.lake.partitions import check_partitions, whole_table_read
from jobs.lake.pointers import advance, begin
from jobs.lake.pointers import pointer as pointer_of
from jobs.registry.landings import loaded_landings, newest_landing
from jobs.registry.models import Landing, Pointer
from jobs.registry.refusals import BatchRefusal, refused_until
from jobs.registry.runs import Counts, StepOutcome, leaving
from jobs.silver.change import Incoming
from jobs.silver.deduplicate import deduplicate
from jobs.silver.join import changes, write
from jobs.silver.split import Split

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

QUARANTINE_FIELDS = (
    lake.Field("rule", "STRING", "the rule that refused the row"),
    lake.Field("column_name", "STRING", "the columns that the rule speaks of"),
    lake.Field("value", "STRING", "what was found there, as published; for a record that could not be read, why"),
    lake.Field("record", "STRING", "the row's cells as JSON, or the record as received"),
    *lake.bookkeeping_fields(),
)


# Which earlier landings a late one may change the meaning of: revisions that became known at one instant are decided
# together, and of two landings with one date the later to arrive is merged last.
_AGAIN: dict[SilverMode, Literal["later", "same or later"] | None] = {
    "append": None, "merge": "later", "revisions": "same or later",
}  # fmt: skip


@dataclass(frozen=True)
class _Batch:
    """The landings one build takes in, oldest first.

    Attributes:
        landings: those that no build took in yet, and `again`.
        again: earlier ones of the same or a later logical date, which a late one may change the meaning of.
    """

    landings: tuple[Landing, ...]
    again: int = 0

    @property
    def watermark(self) -> int:
        """The newest landing's number."""
        return max(x.id for x in self.landings)

    @property
    def instants(self) -> int:
        """How many logical dates it has."""
        return len({x.logical_date for x in self.landings})

    @property
    def origin(self) -> dict[str, Column]:
        """What all its rows say of where they came from."""
        return origin_of(self.landings[0]) if len(self.landings) == 1 else {}

    @property
    def slices(self) -> str:
        """SQL for the rows of these landings in bronze and quarantine."""
        return slice_of([x.sha256 for x in self.landings])


def run(source: Source, _logical_date: datetime, run_id: str) -> StepOutcome:
    """The step, as `jobs.flow` calls it: `silver`, with a message of what nobody would look for."""
    outcome = silver(source, run_id)
    return outcome if outcome.output_version is None else replace(outcome, message=_remarks(source, outcome))


def silver(source: Source, run_id: str, *, anew: bool = False) -> StepOutcome:
    """Build the next version of the source's silver table from what landed since the checked one.

    What an earlier run landed and its expectations held back is taken in again. A table made by other declarations is
    made anew from all that landed, as any table is with `anew`. The version is not readable through the pointer until
    `check` has passed it.

    Raises:
        DeclarationError: contract, source.yaml or silver.sql cannot be used.
        RefusedFile: nothing that landed can be used; it is in quarantine, and is not taken in again.
        ExchangeError: rows in and rows accounted for differ; nothing is published.
    """
    with lake.workspace(run_id, "silver", source.name) as work:
        return _silver(work, source, anew=anew)


def _silver(work: lake.Workspace, source: Source, *, anew: bool) -> StepOutcome:
    contract = load_contract(source.table)
    check_partitions(contract)
    split = Split(source, contract, work)
    # Whatever cannot be compiled is told before anything is written.
    _ = split.typed, split.refused
    pointer = begin(source.table)
    rebuild = anew or _is_outdated(source, contract)
    batch = _pending(source, 0 if rebuild else _taken_in(source, contract, pointer))
    if not batch.landings:
        return StepOutcome("succeeded" if is_to_be_checked_again(source, contract, pointer) else "unchanged")
    _lay(source, contract, rebuild)
    _show(work, source, batch)
    refusal = BatchRefusal(
        batch.watermark, pointer.delta_version if pointer else None, declarations_digest(source, contract)
    )
    begun = StepOutcome(
        input={"landing_id": refusal.landing_id, "base": refusal.base_version, "made_by": refusal.made_by}
    )
    with leaving(begun), translate_engine_errors(contract.file):
        counts, made = _build(source, split, batch)
    if made is None and rebuild:
        made = lake.version(source.table)
    done = replace(begun, counts=counts, output_version=made, message=_told(batch))
    if counts.rows_quarantined == counts.rows_in and counts.rows_in:
        _refuse_all(source, batch, done, refusal)
    return _nothing_changed(source, pointer, done, refusal) if made is None else done


def _remarks(source: Source, outcome: StepOutcome) -> str | None:
    """A silver build's message with what nobody would look for: rows in quarantine, and work that grows with the table.
    """
    refused = outcome.counts.rows_quarantined
    parts = [
        outcome.message,
        f"{refused:,} row{'s' if refused != 1 else ''} refused, see `exchange quarantine {source.name}`"
        if refused
        else None,
        whole_table_read(load_contract(source.table)),
    ]
    return "; ".join(p for p in parts if p) or None


def held_back(source: Source) -> bool:
    """Whether anything landed, or was declared otherwise, that the checked version was not built from."""
    contract = load_contract(source.table)
    stands = pointer_of(source.table)
    newest = newest_landing(source.name)
    if newest is None:
        return False
    if newest > _taken_in(source, contract, stands):
        return True
    if stands is not None and (not lake.exists(source.table) or _is_outdated(source, contract)):
        return True
    return is_to_be_checked_again(source, contract, stands)


def is_to_be_checked_again(source: Source, contract: Contract, stands: Pointer | None) -> bool:
    """Whether the checked version has the rows that the contract of now asks for, but was checked by another one."""
    return stands is not None and stands.contract_digest != contract.digest and not _is_outdated(source, contract)


def declarations_digest(source: Source, contract: Contract) -> str:
    """sha256 of all that decides how bronze rows become silver rows."""
    declared = source.declared.model_dump(mode="json", include={"format", "reshape", "drop", "silver"})
    sql = read_select(source.silver_sql).sql(dialect="spark", comments=False) if source.silver_sql else None
    text = json.dumps([rows_digest(contract), declared, sql], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def fields_of(source: Source, contract: Contract) -> tuple[lake.Field, ...]:
    """All columns of the source's silver table."""
    revisions = REVISION_FIELDS if source.declared.silver.mode == "revisions" else ()
    return (*lake.fields_of(contract.columns), *lake.bookkeeping_fields(), *revisions)


def _show(work: lake.Workspace, source: Source, batch: _Batch) -> None:
    """Show the batch's bronze rows as the workspace's `bronze`, and the order of its landings as `landings`."""
    work.show("bronze", published_rows(source, batch.slices))
    order = [(x.sha256, x.id) for x in batch.landings]
    work.show("landings", connect().createDataFrame(order, "_landing_sha256 string, _landing_id bigint"))


def _is_outdated(source: Source, contract: Contract) -> bool:
    """Whether the table's newest version was made by other declarations than those of now."""
    return lake.exists(source.table) and lake.made_by(source.table) != declarations_digest(source, contract)


def _lay(source: Source, contract: Contract, rebuild: bool) -> None:
    """See that the tables are there; one to be made anew is emptied, with the columns it is to have."""
    lay = lake.replace if rebuild else lake.create
    lay(
        source.table, fields_of(source, contract), contract.partitions, contract.description,
        declarations_digest(source, contract),
    )  # fmt: skip
    lake.create(
        f"quarantine.{source.name}", QUARANTINE_FIELDS, ("_landing_sha256",), f"{source.declared.title}: refused rows"
    )


def _taken_in(source: Source, contract: Contract, pointer: Pointer | None) -> int:
    """Number of the newest landing that the checked version was built from, or that was refused as a whole since."""
    base = pointer.delta_version if pointer else None
    refused = refused_until(source.name, base, declarations_digest(source, contract))
    return max(refused, (pointer.landing_id or 0) if pointer else 0)


def _pending(source: Source, since: int) -> _Batch:
    landings = loaded_landings(source.name, since, _AGAIN[source.declared.silver.mode])
    return _Batch(landings, sum(x.id <= since for x in landings))


def _build(source: Source, split: Split, batch: _Batch) -> tuple[Counts, int | None]:
    mode, contract, work = source.declared.silver.mode, split.contract, split.work
    work.stage("typed", split.typed, constants=batch.origin)
    totals = _totals(split, batch)
    clean = deduplicate(work, source.table, split.good, contract, mode)
    incoming = Incoming(
        clean.good, totals.good - clean.taken_out, batch.landings[0].logical_date, batch.instants, batch.again > 0
    )
    change = changes(work, source.table, incoming, contract, mode)
    counts = Counts(
        rows_in=totals.reshaped + totals.unreadable,
        rows_out=change.written,
        rows_dropped=totals.dropped,
        rows_duplicate=clean.duplicate,
        rows_unchanged=change.unchanged,
        rows_superseded=clean.superseded + change.superseded,
        rows_quarantined=totals.refused + totals.unreadable + clean.refused + change.refused,
    )
    try:
        counts.balanced(source.table)
    except ExchangeError:
        # What somebody else did to the table meanwhile was counted, too.
        guard.require_expected_version(source.table)
        raise
    _quarantine(source, split, batch, [clean.refused_rows, change.refused_rows], counts.rows_quarantined or 0)
    return counts, write(work, source.table, change, contract)


@dataclass(frozen=True)
class _Totals:
    reshaped: int
    dropped: int
    refused: int
    good: int
    unreadable: int


def _totals(split: Split, batch: _Batch) -> _Totals:
    """Count a batch's rows; records that the source's own query leaves out count as dropped.

    Those that could not be read were counted when they were loaded.
    """
    spark = connect()
    cells, bad = spark.sql(f"SELECT count(*), count(_rule) FROM {split.work.view('typed')}").collect()[0]
    dropped = left_out = 0
    if split.source.silver_sql:
        left_out = spark.sql(
            f"SELECT count(*) FROM {split.work.view('bronze')} b LEFT ANTI JOIN ({split.reshaped}) r"
            " ON b._row = r._row AND b._file = r._file"
            " AND b._landing_sha256 = r._landing_sha256 WHERE b._refused IS NULL"
        ).collect()[0][0]
    if split.dropped:
        dropped = spark.sql(f"SELECT count(*) AS n FROM ({split.reshaped}) WHERE {split.dropped}").collect()[0]["n"]
    unreadable = sum(x.rows_refused or 0 for x in batch.landings)
    none = dropped + left_out
    return _Totals(cells + none, none, bad, cells - bad, unreadable)


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


def _told(batch: _Batch) -> str | None:
    parts = [x.fault for x in batch.landings if x.fault]
    if batch.again:
        parts.append(f"late for its logical date: {batch.again} landings of that date or later were taken in again")
    return "; ".join(parts) or None


def _refuse_all(source: Source, batch: _Batch, done: StepOutcome, refusal: BatchRefusal) -> None:
    """Tell the user that no row of a batch can be used; all of it is in quarantine by now.

    Raises:
        RefusedFile: always.
    """
    with leaving(replace(done, refused=refusal)):
        raise _all_refused(source, batch, done.counts.rows_in or 0)


def _all_refused(source: Source, batch: _Batch, rows: int) -> RefusedFile:
    faults = [x.fault for x in batch.landings if x.fault]
    if faults:
        return RefusedFile("; ".join(faults))
    table = f"quarantine.{source.name}"
    found = lake.read_table(table).where(batch.slices).groupBy("rule").agg({"*": "count", "value": "min"})
    worst = sorted((tuple(r) for r in found.select("rule", "count(1)", "min(value)").collect()), key=lambda r: -r[1])
    shown = "; ".join(
        f"{rule}: {count}" + (f", such as '{value}'" if value else "") for rule, count, value in worst[:3]
    )
    return RefusedFile(
        f"none of the {rows} rows that arrived can be used ({shown})",
        where=", ".join(x.file_name for x in batch.landings[:3]),
        next_step=f"see `exchange quarantine {source.table}`; correct {source.file} or the contract",
    )


def _nothing_changed(source: Source, pointer: Pointer | None, done: StepOutcome, refusal: BatchRefusal) -> StepOutcome:
    """Everything that landed was already there: the pointer takes note, and no version is made."""
    if pointer:
        advance(source.table, landing_id=refusal.landing_id)
        return replace(done, status="unchanged")
    # A first file without rows: no version can tell that it was taken in, and no run needs to look at it again.
    return replace(done, status="unchanged", refused=refusal)
