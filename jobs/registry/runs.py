"""Records every step of every run with the counts that must balance; the registry's `runs`, shown as ops.runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import select

from jobs.errors import ExchangeError
from jobs.registry import reading, transaction
from jobs.registry.models import Run

Kind = Literal["source", "product"]


@dataclass
class Counts:
    """What one step did to rows; a step fills in what it knows.

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
        """Refuse to go on when rows got lost or were invented.

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


@dataclass
class Recorded:
    """One step while it runs: what it will leave in the registry."""

    run_id: str
    step: str
    kind: Kind
    name: str
    logical_date: datetime
    table: str | None = None
    status: Literal["succeeded", "unchanged"] = "succeeded"
    counts: Counts = field(default_factory=Counts)
    input: dict[str, Any] | None = None
    output_version: int | None = None
    message: str | None = None
    seconds: float = 0.0


@contextmanager
def recorded(run_id: str, step: str, kind: Kind, name: str, logical_date: datetime, table: str) -> Iterator[Recorded]:
    """Record a step from its beginning, so that one killed half-way is seen as never ended."""
    record = Recorded(run_id, step, kind, name, logical_date, table)
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
        yield record
    except BaseException as error:
        # What stopped the step may stop the registry too, such as a full disk; the user is told of the first.
        with suppress(ExchangeError):
            record.seconds = _end(key, record, "failed", started, _one_line(error))
        raise
    record.seconds = _end(key, record, record.status, started, record.message)


def _end(key: int, record: Recorded, status: str, started: datetime, message: str | None) -> float:
    ended = datetime.now(UTC)
    with transaction() as db:
        row = db.get_one(Run, key)
        row.status, row.message, row.ended_at = status, message, ended
        row.table_name, row.input, row.output_version = record.table, record.input, record.output_version
        for name, value in vars(record.counts).items():
            setattr(row, name, value)
    return (ended - started).total_seconds()


def last_build(table: str, version: int) -> Run | None:
    """The record of the step that built a version of a silver or gold table, if it ended well."""
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
