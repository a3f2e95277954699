"""Records every step of every run, with counts that must balance (the registry's `runs`, shown as ops.runs)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from sqlalchemy import ColumnElement, CursorResult, delete, func, select

from jobs.errors import ExchangeError
from jobs.registry import reading, transaction
from jobs.registry.models import Run
from jobs.registry.refusals import BatchRefusal, note_refusal
from jobs.steps import BUILDING

Kind = Literal["source", "product"]
Status = Literal["succeeded", "unchanged"]
# The attribute in which an exception carries its step's outcome to the record.
_OUTCOME = "step_outcome"


@dataclass(frozen=True)
class Counts:
    """What one step did to rows; None where the step has nothing to count.

    For silver: ``rows_in`` (after reshaping) = ``rows_out`` + ``rows_quarantined`` + ``rows_duplicate``
    + ``rows_dropped`` + ``rows_unchanged`` + ``rows_superseded``.
    """

    rows_in: int | None = None
    rows_out: int | None = None
    rows_quarantined: int | None = None
    rows_duplicate: int | None = None
    rows_dropped: int | None = None
    rows_unchanged: int | None = None
    rows_superseded: int | None = None
    bytes_in: int | None = None

    def balanced(self, where: str) -> None:
        """Stop the step if rows were lost or invented.

        Raises:
            ExchangeError: the counts do not add up.
        """
        parts = {
            name: getattr(self, name) or 0
            for name in (
                "rows_out",
                "rows_quarantined",
                "rows_duplicate",
                "rows_dropped",
                "rows_unchanged",
                "rows_superseded",
            )
        }
        if self.rows_in != sum(parts.values()):
            shown = ", ".join(f"{name} {count}" for name, count in parts.items())
            raise ExchangeError(
                f"{self.rows_in} rows went in and {sum(parts.values())} are accounted for ({shown})",
                where=where,
                expected="equal counts",
                next_step="nothing was published; report this with the run's record",
            )


@dataclass(frozen=True)
class StepOutcome:
    """What a step did: all of its record apart from who ran it, when, and how it ended.

    Attributes:
        status: `unchanged` if there was nothing to do.
        input: what the step read, for example versions of tables.
        output_version: the Delta version that it wrote or checked.
        refused: the batch that it worked on, if none of its rows went into the table.
        release: number of the new or existing release; the record has it in the message only.
        is_warning: the message asks the user to do something although the step succeeded.
    """

    status: Status = "succeeded"
    counts: Counts = Counts()
    input: dict[str, Any] | None = None
    output_version: int | None = None
    message: str | None = None
    refused: BatchRefusal | None = None
    release: str | None = None
    is_warning: bool = False


@contextmanager
def leaving(outcome: StepOutcome) -> Iterator[None]:
    """Record this outcome for a step that fails within the block; the exception carries it."""
    try:
        yield
    except BaseException as error:
        vars(error)[_OUTCOME] = outcome
        raise


def recorded(
    run_id: str, step: str, kind: Kind, name: str, logical_date: datetime, table: str, work: Callable[[], StepOutcome]
) -> StepOutcome:
    """Run a step and record it from its start, so that a killed step shows as one that never ended.

    Args:
        run_id: groups the steps of one run.
        step: the step's name.
        kind: whether it works on a source or on a product.
        name: the source or product.
        logical_date: the date whose data the step works on, aware.
        table: the table that it writes or checks.
        work: the step itself; what it raises is recorded and raised again.
    """
    started = datetime.now(UTC)
    with transaction() as db:
        row = Run(
            run_id=run_id, step=step, kind=kind, name=name, table_name=table, logical_date=logical_date,
            started_at=started, status="running",
        )  # fmt: skip
        db.add(row)
        db.flush()
        key = row.id
    try:
        outcome = work()
    except BaseException as error:
        # The cause, a full disk for example, may keep the registry from being written too; the user needs the cause.
        with suppress(ExchangeError):
            _end(key, _left_by(error), "failed", _one_line(error))
        raise
    _end(key, outcome, outcome.status, outcome.message)
    return outcome


def _left_by(error: BaseException | None) -> StepOutcome:
    """The outcome that an exception, or the one that it explains, carries."""
    while error is not None:
        outcome = vars(error).get(_OUTCOME)
        if isinstance(outcome, StepOutcome):
            return outcome
        error = error.__cause__ or error.__context__
    return StepOutcome()


def _end(key: int, outcome: StepOutcome, status: str, message: str | None) -> None:
    with transaction() as db:
        row = db.get_one(Run, key)
        row.status, row.message, row.ended_at = status, message, datetime.now(UTC)
        row.input, row.output_version = outcome.input, outcome.output_version
        for name, value in vars(outcome.counts).items():
            setattr(row, name, value)
        if outcome.refused:
            note_refusal(db, row.name, outcome.refused)


def last_build(table: str, version: int) -> Run | None:
    """The record of the step that built a version of a silver or gold table, if it succeeded."""
    with reading() as db:
        return db.scalars(
            select(Run)
            .where(Run.table_name == table, Run.output_version == version, Run.step.in_(BUILDING))
            .where(Run.status == "succeeded")
            .order_by(Run.id.desc())
            .limit(1)
        ).first()


def latest_runs(
    *, name: str | None = None, step: str | None = None, status: str | None = None, limit: int
) -> list[Run]:
    """Records of steps, newest first, at most ``limit``.

    Args:
        name: only those of this source or product.
        step: only those of this step, for example ``silver``.
        status: only ``running``, ``succeeded``, ``unchanged`` or ``failed`` ones.
        limit: how many at most.
    """
    newest = select(Run).order_by(Run.id.desc()).limit(limit)
    for column, value in ((Run.name, name), (Run.step, step), (Run.status, status)):
        if value:
            newest = newest.where(column == value)
    with reading() as session:
        return list(session.scalars(newest))


def last_run_id() -> int:
    """The id of the newest record; 0 if no step has run."""
    with reading() as session:
        return session.scalar(select(func.max(Run.id))) or 0


def runs_after(run_id: int) -> list[Run]:
    """Records of steps that began after the one with this id, oldest first, as they are now."""
    with reading() as session:
        return list(session.scalars(select(Run).where(Run.id > run_id).order_by(Run.id)))


def last_released_version(product: str) -> int | None:
    """The checked version that `release` last worked on, whether or not it made a release."""
    done = select(Run.output_version).where(Run.step == "release", Run.name == product)
    done = done.where(Run.status.in_(("succeeded", "unchanged"))).order_by(Run.id.desc()).limit(1)
    with reading() as session:
        return session.scalars(done).first()


@dataclass(frozen=True)
class Listing:
    """Every record without its input, as rows under column names and their SQL types."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Any, ...], ...]


def list_runs() -> Listing:
    """Every record, oldest first; a column's type is ``bigint``, ``timestamp`` or ``string``."""
    columns = [column for column in Run.__table__.columns if column.name != "input"]
    with reading() as session:
        rows = tuple(tuple(row) for row in session.execute(select(*columns).order_by(Run.id)))
    return Listing(tuple((column.name, _sql_type(column)) for column in columns), rows)


def count_old_runs(before: datetime) -> int:
    """How many records `delete_old_runs` would delete."""
    with reading() as session:
        return session.scalars(select(func.count(Run.id)).where(*_old(before))).one()


def delete_old_runs(before: datetime) -> int:
    """Delete records of steps that began before an instant, but for the newest of each step; returns how many."""
    # The session holds no records to synchronize; if the rows were returned, SQLite would not count them.
    old = delete(Run).where(*_old(before)).execution_options(synchronize_session=False)
    with transaction() as session:
        return cast("CursorResult[Any]", session.execute(old)).rowcount


def _old(before: datetime) -> tuple[ColumnElement[bool], ...]:
    newest = select(func.max(Run.id)).group_by(Run.name, Run.step)
    return (Run.started_at < before, Run.id.not_in(newest))


def _sql_type(column: ColumnElement[Any]) -> str:
    kind = str(column.type).split("(")[0].upper()
    return {"BIGINT": "bigint", "DATETIME": "timestamp", "INTEGER": "bigint"}.get(kind, "string")


def was_built_since(table: str, since: datetime) -> bool:
    """Whether a build of a silver or gold table began after an instant and ended without an error."""
    built = select(Run.id).where(Run.table_name == table, Run.step.in_(BUILDING), Run.started_at > since)
    with reading() as db:
        return db.scalars(built.where(Run.status.in_(("succeeded", "unchanged"))).limit(1)).first() is not None


def check_before(table: str) -> Run | None:
    """The record of a table's check before the newest one, which is the caller's own."""
    checks = select(Run).where(Run.step == "check", Run.table_name == table)
    with reading() as db:
        return db.scalars(checks.order_by(Run.id.desc()).offset(1).limit(1)).first()


def has_succeeded(run_id: str, step: str, name: str) -> bool:
    """Whether a step of a source or product succeeded in this run."""
    done = select(Run.id).where(
        Run.run_id == run_id, Run.step == step, Run.name == name, Run.status == "succeeded"
    )  # fmt: skip
    with reading() as session:
        return session.scalars(done.limit(1)).first() is not None


def _one_line(error: BaseException) -> str:
    if isinstance(error, ExchangeError):
        return str(error)
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
