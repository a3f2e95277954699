"""Records every step of every run, with counts that must balance: the registry's `runs`, shown as ops.runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import select

from jobs.errors import ExchangeError
from jobs.registry import reading, transaction
from jobs.registry.models import Run

Kind = Literal["source", "product"]
Status = Literal["succeeded", "unchanged"]
# Under which an exception carries what its step leaves in the record.
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
    """What a step did: all that its record gets to say besides who ran it, when, and how it ended.

    Attributes:
        status: `unchanged` if there was nothing to do.
        input: what the step worked from, such as the versions of the tables that it read.
        output_version: the Delta version that it made or checked.
        release: number of the release that it made or found; the record has it in the message only.
    """

    status: Status = "succeeded"
    counts: Counts = Counts()
    input: dict[str, Any] | None = None
    output_version: int | None = None
    message: str | None = None
    release: str | None = None


@contextmanager
def leaving(outcome: StepOutcome) -> Iterator[None]:
    """Have a step that fails within the block leave this much in its record; the exception carries it there."""
    try:
        yield
    except BaseException as error:
        vars(error)[_OUTCOME] = outcome
        raise


def recorded(
    run_id: str, step: str, kind: Kind, name: str, logical_date: datetime, table: str, work: Callable[[], StepOutcome]
) -> StepOutcome:
    """Run a step and record it from its beginning, so that a step which was killed shows as one that never ended.

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
        # The cause may keep the registry from being written too, such as a full disk; the user needs to hear the cause.
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


def last_build(table: str, version: int) -> Run | None:
    """The record of the step that built a version of a silver or gold table, if it succeeded."""
    with reading() as db:
        return db.scalars(
            select(Run)
            .where(Run.table_name == table, Run.output_version == version, Run.step.in_(("silver", "gold")))
            .where(Run.status == "succeeded")
            .order_by(Run.id.desc())
            .limit(1)
        ).first()


def _one_line(error: BaseException) -> str:
    if isinstance(error, ExchangeError):
        return str(error)
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
