"""Silver: a source's rows, typed and keyed; untypable rows go to quarantine, and every row is accounted for."""

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
from jobs.declared.sql import normalized
from jobs.errors import ExchangeError, RefusedFile
from jobs.lake import REVISION_FIELDS, connect, guard
from jobs.lake.engine_errors import translate_engine_errors
from jobs.lake.partitions import check_partitions, whole_table_read
from jobs.lake.pointers import advance, begin
from jobs.lake.pointers import pointer as pointer_of
from jobs.registry.landings import dropped_landings, loaded_landings, newest_landing
from jobs.registry.models import Landing, Pointer
from jobs.registry.refusals import BatchRefusal, refused_until
from jobs.registry.runs import Counts, StepOutcome, leaving
from jobs.silver.change import Change, Delivery, Incoming
from jobs.silver.deduplicate import deduplicate
from jobs.silver.join import changes, write
from jobs.silver.leaving import require_acceptance, rows_leaving
from jobs.silver.split import Split
from jobs.silver.typed import type_rows

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

QUARANTINE_FIELDS = (
    lake.Field("rule", "STRING", "the rule that refused the row"),
    lake.Field("column_name", "STRING", "the columns that the rule concerns"),
    lake.Field("value", "STRING", "the refused value, as published; for an unreadable record, the reason"),
    lake.Field("record", "STRING", "the row's cells as JSON, or the record as received"),
    *lake.bookkeeping_fields(),
)


# Which earlier landings to read again with a late one, by logical date: revisions of one instant are decided together,
# and of two landings with the same date the later to arrive is merged last.
_REREAD: dict[SilverMode, Literal["later", "same or later"] | None] = {
    "append": None, "merge": "later", "revisions": "same or later", "snapshot": "same or later",
}  # fmt: skip


@dataclass(frozen=True)
class _Batch:
    """The landings that one build reads, oldest first.

    Attributes:
        landings: those that no build has read yet, and those read again.
        reread: number of earlier landings read again, because a late one precedes or shares their logical date.
    """

    landings: tuple[Landing, ...]
    reread: int = 0

    @property
    def watermark(self) -> int:
        """Number of the newest landing."""
        return max(x.id for x in self.landings)

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """Its landings that could be read, without rows as well."""
        return tuple(
            Delivery(x.tag, x.file_name, x.logical_date)
            for x in self.landings
            if not x.fault and (not x.rows or x.rows != x.rows_refused)
        )

    @property
    def since(self) -> datetime:
        """The earliest logical date of its readable landings: those read again are as late or later."""
        return min((x.at for x in self.deliveries), default=self.landings[0].logical_date)

    @property
    def instants(self) -> int:
        """Number of its logical dates."""
        return len({x.logical_date for x in self.landings})

    @property
    def origin(self) -> dict[str, Column]:
        """The origin columns that are the same for all its rows, as literals."""
        return origin_of(self.landings[0]) if len(self.landings) == 1 else {}

    @property
    def slices(self) -> str:
        """SQL that is true for the rows of these landings in bronze and quarantine."""
        return slice_of(self.landings)


@dataclass(frozen=True)
class _Earlier:
    """The checked version that a rebuild replaces, and why a person accepts that rows leave.

    Attributes:
        full: the rebuild was asked for, and not caused by changed declarations.
    """

    version: int
    accept: str | None
    full: bool


def run(source: Source, _logical_date: datetime, run_id: str, *, accept: str | None = None) -> StepOutcome:
    """The step, as `jobs.flow` calls it: `silver`, with remarks that users should see in its message.

    Args:
        accept: why a person accepts that rows of the checked version leave.
    """
    outcome = silver(source, run_id, accept=accept)
    return outcome if outcome.output_version is None else replace(outcome, message=_remarks(source, outcome))


def silver(source: Source, run_id: str, *, full: bool = False, accept: str | None = None) -> StepOutcome:
    """Build the next version of the source's silver table from what landed since the checked version.

    Landings of an earlier run that failed its expectations are read again. A table built with other declarations is
    rebuilt from everything that landed, and so is any table with `full`. The version is not readable through the
    pointer until `check` has passed it.

    Args:
        source: the source.
        run_id: the current run.
        full: rebuild from everything that landed.
        accept: why a person accepts that rows of the checked version leave with a rebuild.

    Raises:
        DeclarationError: the contract, source.yaml or silver.sql is unusable.
        AcceptanceNeeded: rows of the checked version would leave.
        RefusedFile: no landed row is usable; all are in quarantine and will not be read again.
        ExchangeError: rows in and rows accounted for differ; nothing is published.
    """
    with lake.workspace(run_id, "silver", source.name) as work:
        return _silver(work, source, full=full, accept=accept)


def _silver(work: lake.Workspace, source: Source, *, full: bool, accept: str | None) -> StepOutcome:
    contract = load_contract(source.table)
    check_partitions(contract)
    split = Split(source, contract, work)
    # Compile first, so that mistakes surface before anything is written.
    _ = split.typed, split.refused
    pointer = begin(source.table)
    # No pointer says which commits of quarantine were relied on, so one that a power cut took is made again with all.
    rebuild = lake.put_torn_aside(f"quarantine.{source.name}") or full or _is_outdated(source, contract)
    batch = _pending(source, 0 if rebuild else _last_processed(source, contract, pointer))
    if not batch.landings:
        return StepOutcome("succeeded" if needs_recheck(source, contract, pointer) else "unchanged")
    _prepare_tables(source, contract, rebuild)
    _show(work, source, batch)
    refusal = BatchRefusal(
        batch.watermark, pointer.delta_version if pointer else None, declarations_digest(source, contract)
    )
    started = StepOutcome(
        input={"landing_id": refusal.landing_id, "base": refusal.base_version, "made_by": refusal.made_by}
    )
    earlier = _Earlier(pointer.delta_version, accept, full=full) if rebuild and pointer else None
    with leaving(started), translate_engine_errors(contract.file):
        counts, version, change = _build(source, split, batch, earlier)
    if version is None and rebuild:
        version = lake.version(source.table)
    outcome = replace(started, counts=counts, output_version=version, message=_message(batch, change))
    if change.held_back and version is None:
        with leaving(replace(outcome, refused=refusal)):
            raise RefusedFile(change.held_back, where=source.table, next_step="until then readers keep the list before")
    if counts.rows_quarantined == counts.rows_in and counts.rows_in:
        _refuse_all(source, contract, batch, outcome, refusal)
    outcome = replace(outcome, is_warning=change.held_back is not None)
    return _unchanged(source, pointer, outcome, refusal) if version is None else outcome


def _remarks(source: Source, outcome: StepOutcome) -> str | None:
    """A silver build's message, with remarks on rows in quarantine and on work that grows with the table."""
    refused = outcome.counts.rows_quarantined
    parts = [
        outcome.message,
        f"{refused:,} row{'s' if refused != 1 else ''} refused, see `exchange quarantine {source.name}`"
        if refused
        else None,
        whole_table_read(load_contract(source.table)),
    ]
    return "; ".join(p for p in parts if p) or None


def has_pending_work(source: Source) -> bool:
    """Whether the checked version lacks a landing or was built or checked with other declarations."""
    contract = load_contract(source.table)
    pointer = pointer_of(source.table)
    newest = newest_landing(source.name)
    if newest is None:
        return False
    if newest > _last_processed(source, contract, pointer):
        return True
    if pointer is not None and (not lake.exists(source.table) or _is_outdated(source, contract)):
        return True
    return needs_recheck(source, contract, pointer)


def needs_recheck(source: Source, contract: Contract, pointer: Pointer | None) -> bool:
    """Whether the checked version has the rows that the current contract requires, but passed another contract."""
    return pointer is not None and pointer.contract_digest != contract.digest and not _is_outdated(source, contract)


def declarations_digest(source: Source, contract: Contract) -> str:
    """sha256 of everything that decides which bronze rows become silver rows, and how."""
    declared = source.declared.model_dump(mode="json", include={"format", "reshape", "drop"})
    # Without defaults, which other modes cannot change.
    if source.declared.zones:
        declared["zones"] = {name: zone.model_dump(mode="json") for name, zone in source.declared.zones.items()}
    declared["silver"] = source.declared.silver.model_dump(mode="json", exclude_defaults=True)
    sql = normalized(source.silver_sql) if source.silver_sql else None
    dropped = [x.tag for x in dropped_landings(source.name)]
    text = json.dumps([rows_digest(contract), declared, sql, *([dropped] if dropped else [])], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def fields_of(source: Source, contract: Contract) -> tuple[lake.Field, ...]:
    """All columns of the source's silver table."""
    revisions = REVISION_FIELDS if source.declared.silver.keeps_versions else ()
    return (*lake.fields_of(contract.columns), *lake.bookkeeping_fields(), *revisions)


def _show(work: lake.Workspace, source: Source, batch: _Batch) -> None:
    """Show the batch's bronze rows as the workspace's view `bronze`, and the order of its landings as `landings`."""
    work.show("bronze", published_rows(source, batch.slices))
    order = [(x.tag, x.id) for x in batch.landings]
    work.show("landings", connect().createDataFrame(order, "_landing_sha256 string, _landing_id bigint"))


def _is_outdated(source: Source, contract: Contract) -> bool:
    """Whether the table's newest version was built with other than the current declarations."""
    return lake.exists(source.table) and lake.made_by(source.table) != declarations_digest(source, contract)


def _prepare_tables(source: Source, contract: Contract, rebuild: bool) -> None:
    """Create missing tables; one to rebuild is emptied and gets its new columns."""
    prepare = lake.replace if rebuild else lake.create
    prepare(
        source.table, fields_of(source, contract), contract.partitions, contract.description,
        declarations_digest(source, contract),
    )  # fmt: skip
    lake.create(
        f"quarantine.{source.name}", QUARANTINE_FIELDS, ("_landing_sha256",), f"{source.declared.title}: refused rows"
    )


def _last_processed(source: Source, contract: Contract, pointer: Pointer | None) -> int:
    """Number of the newest landing in the checked version, or of the newest one refused as a whole since."""
    base = pointer.delta_version if pointer else None
    refused = refused_until(source.name, base, declarations_digest(source, contract))
    return max(refused, (pointer.landing_id or 0) if pointer else 0)


def _pending(source: Source, since: int) -> _Batch:
    mode = source.declared.silver.mode
    landings = loaded_landings(source.name, since, _REREAD[mode], empty_counts=mode == "snapshot")
    return _Batch(landings, sum(x.id <= since for x in landings))


def _build(
    source: Source, split: Split, batch: _Batch, earlier: _Earlier | None
) -> tuple[Counts, int | None, Change]:
    """Write the batch; returns its counts, the new version if there is one, and what it did to the table."""
    mode, contract, work = source.declared.silver.mode, split.contract, split.work
    typed = type_rows(split, batch.landings, batch.origin)
    unreadable = sum(x.rows_refused or 0 for x in batch.landings)
    clean = deduplicate(work, source.table, typed.good, contract, mode)
    incoming = Incoming(
        clean.good, typed.rows - clean.removed, batch.since, batch.instants, batch.reread > 0, batch.deliveries,
        tuple(filter(None, (typed.refused_keys, clean.contradictions))),
    )  # fmt: skip
    change = changes(work, source.table, incoming, contract, source.declared.silver)
    counts = Counts(
        rows_in=typed.rows + typed.refused + typed.dropped + unreadable,
        rows_out=change.written,
        rows_dropped=typed.dropped,
        rows_duplicate=clean.duplicate,
        rows_unchanged=change.unchanged,
        rows_superseded=clean.superseded + change.superseded,
        rows_quarantined=typed.refused + unreadable + clean.refused + change.refused,
    )
    try:
        counts.balanced(source.table)
    except ExchangeError:
        # A concurrent write to the table would explain the difference.
        guard.require_expected_version(source.table)
        raise
    refused = " UNION ALL ".join(
        f"SELECT * FROM ({part})" for part in (typed.refused_rows, clean.refused_rows, change.refused_rows) if part
    )
    accepted = _leaving(source, split, change, refused, earlier) if earlier else None
    change = replace(change, message="; ".join(filter(None, (accepted, *typed.remarks, change.message))) or None)
    _quarantine(source, batch, refused, counts.rows_quarantined or 0)
    return counts, write(work, source.table, change, contract), change


def _leaving(source: Source, split: Split, change: Change, refused: str, earlier: _Earlier) -> str | None:
    """Which rows leave with a rebuild, if a person accepted it; None if none does."""
    dropped = tuple(x.tag for x in dropped_landings(source.name))
    rebuilt = change.view or f"SELECT * FROM {lake.from_path(source.table)}"
    found = rows_leaving(split.work, source.table, earlier.version, rebuilt, refused, split.contract, dropped)
    command = f"exchange rebuild {source.table}" if earlier.full else f"exchange silver {source.name}"
    return require_acceptance(source.table, found, lake.rows(source.table, earlier.version), earlier.accept, command)


def _quarantine(source: Source, batch: _Batch, refused: str, count: int) -> None:
    """Replace the batch's slices of quarantine with the rows that this build refuses."""
    table = f"quarantine.{source.name}"
    if not count and not _has_slices(table, batch):
        return
    frame: DataFrame = connect().sql(refused)
    lake.overwrite(table, frame, slice_of=batch.slices)


def _has_slices(table: str, batch: _Batch) -> bool:
    slices = {dict(f.partition).get("_landing_sha256") for f in lake.files(table)}
    return any(x.tag in slices for x in batch.landings)


def _message(batch: _Batch, change: Change) -> str | None:
    parts = [x.fault for x in batch.landings if x.fault]
    if change.message:
        parts.append(change.message)
    if batch.reread:
        parts.append(f"late for its logical date: {batch.reread} landings of that date or later were read again")
    return "; ".join(parts) or None


def _refuse_all(source: Source, contract: Contract, batch: _Batch, outcome: StepOutcome, refusal: BatchRefusal) -> None:
    """Fail the step because no row of the batch is usable; all of them are in quarantine already.

    Raises:
        RefusedFile: always.
    """
    with leaving(replace(outcome, refused=refusal)):
        raise _all_refused(source, contract, batch, outcome.counts.rows_in or 0)


def _all_refused(source: Source, contract: Contract, batch: _Batch, rows: int) -> RefusedFile:
    faults = [x.fault for x in batch.landings if x.fault]
    if faults:
        return RefusedFile("; ".join(faults))
    table = f"quarantine.{source.name}"
    by_rule = lake.read_table(table).where(batch.slices).groupBy("rule", "column_name")
    counted = by_rule.agg({"*": "count", "value": "min"}).select("rule", "column_name", "count(1)", "min(value)")
    worst = sorted((tuple(r) for r in counted.collect()), key=lambda r: -r[2])
    # Quarantine has the values of all columns; a message is read by more people.
    general = {c.name for c in contract.columns if c.classification == "general"}
    shown = "; ".join(
        f"{rule}: {count}" + (f", for example '{value}'" if value and _names(columns) <= general else "")
        for rule, columns, count, value in worst[:3]
    )
    return RefusedFile(
        f"none of the {rows} rows that arrived is usable ({shown})",
        where=", ".join(x.file_name for x in batch.landings[:3]),
        next_step=f"see `exchange quarantine {source.table}`; correct {source.file} or the contract",
    )


def _names(columns: str | None) -> set[str]:
    """The columns that a row of quarantine concerns; none for an unreadable record, whose value is the reason."""
    return set(columns.split(", ")) if columns else set()


def _unchanged(source: Source, pointer: Pointer | None, outcome: StepOutcome, refusal: BatchRefusal) -> StepOutcome:
    """Record in the pointer that the batch brought nothing new; no version is built."""
    if pointer:
        advance(source.table, landing_id=refusal.landing_id)
        return replace(outcome, status="unchanged")
    # A first file without rows leaves no version to show that it was read; the refusal keeps later runs from it.
    return replace(outcome, status="unchanged", refused=refusal)
