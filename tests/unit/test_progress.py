"""A round reports each step's end once while it runs, even beside a scheduled run."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from jobs.airflow.progress import Subject, take_records
from jobs.registry.models import Run

_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def _source() -> Subject:
    return Subject("source", "rates", "finance/rates", "source__rates")


def _record(number: int, step: str, status: str, rows: int | None = None) -> Run:
    ended = None if status == "running" else _BEGAN + timedelta(seconds=3)
    return Run(
        id=number, step=step, kind="source", name="rates", status=status, rows_out=rows, started_at=_BEGAN,
        ended_at=ended, message=f"{step} {status}",
    )  # fmt: skip


def _report(source: Subject, records: Iterable[Run]) -> list[int]:
    return [run.id for run in take_records({source.dag_id: source}, records)]


def test_two_records_of_one_step_are_reported_once_each() -> None:
    source = _source()
    requested, scheduled = _record(1, "land", "succeeded"), _record(2, "land", "unchanged")
    assert _report(source, [requested]) == [1]
    assert _report(source, [requested, scheduled]) == [2]
    for _ in range(3):
        assert _report(source, [requested, scheduled]) == []
    assert source.has_moved


def test_a_retried_step_is_the_source_s_current_step() -> None:
    source = _source()
    _report(source, [_record(1, "land", "succeeded"), _record(2, "bronze", "failed"), _record(3, "land", "unchanged")])
    assert source.step == "land"
    _report(source, [_record(4, "bronze", "succeeded", rows=7)])
    assert (source.step, list(source.steps), source.rows) == ("bronze", ["land", "bronze"], 7)
    assert source.seconds == 6.0


@given(st.lists(st.tuples(st.sampled_from(["land", "bronze", "silver"]), st.integers(0, 5), st.integers(1, 4))))
def test_every_end_is_reported_exactly_once(steps: list[tuple[str, int, int]]) -> None:
    """Steps start in one poll and end some polls later; each poll lists them all, as the registry does."""
    source, reported = _source(), []
    for poll in range(12):
        listed = [
            _record(number, step, "running" if poll < begins + lasts else "succeeded")
            for number, (step, begins, lasts) in enumerate(steps, start=1)
            if poll >= begins
        ]
        reported += _report(source, listed)
    assert sorted(reported) == list(range(1, len(steps) + 1))
