"""One writer at a time: a step's expected versions are its own, whatever steps in other threads do."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs import lake
from jobs.errors import ConcurrentWrite
from jobs.lake import guard
from tests.lake.trial import Trial

FIELDS = (lake.Field("meter", "STRING"),)


@pytest.fixture
def tables(exchange: Trial) -> tuple[str, str]:
    """Two empty tables, one for each of two sources."""
    names = "silver.guarded_one", "silver.guarded_other"
    del exchange  # The settings point to it by now.
    for name in names:
        lake.create(name, FIELDS)
    return names


def add(table: str) -> int:
    return lake.append(table, lake.connect().createDataFrame([("m1",)], "meter string"))


def elsewhere(work: Callable[[], int]) -> int:
    """Run work in a thread that belongs to no step, as another process would."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_a_step_that_ends_keeps_the_expectations_of_other_threads(tables: tuple[str, str]) -> None:
    one, other = tables
    begun, ended = threading.Event(), threading.Event()

    def long_step() -> int:
        with guard.writing("source.one"):
            guard.expect(one, lake.version(one))
            begun.set()
            assert ended.wait(60)
            elsewhere(lambda: add(one))
            return add(one)

    def short_step() -> int:
        assert begun.wait(60)
        with guard.writing("source.other"):
            guard.expect(other, lake.version(other))
            version = add(other)
        ended.set()
        return version

    with ThreadPoolExecutor(2) as pool:
        long, short = pool.submit(long_step), pool.submit(short_step)
        assert short.result() == 1
        with pytest.raises(ConcurrentWrite, match=f"process changed {one} during this step: it is at version 2"):
            long.result()


def test_a_step_is_not_stopped_by_expectations_of_another_thread(tables: tuple[str, str]) -> None:
    one, _ = tables
    with guard.writing("source.one"):
        guard.expect(one, lake.version(one))
        assert elsewhere(lambda: add(one)) == 1, "a thread without expectations may append"
        with pytest.raises(ConcurrentWrite):
            guard.require_expected_version(one)


def test_a_thread_in_a_copy_of_the_context_commits_for_the_step(tables: tuple[str, str]) -> None:
    one, _ = tables
    with guard.writing("source.one"):
        guard.expect(one, lake.version(one))
        context = contextvars.copy_context()
        assert elsewhere(lambda: context.run(add, one)) == 1
        guard.require_expected_version(one)
        assert add(one) == 2
        elsewhere(lambda: add(one))
        with pytest.raises(ConcurrentWrite):
            elsewhere(lambda: context.run(add, one))


@pytest.mark.both_engines("commits made through one server", "lake.guard")
def test_a_retry_starts_from_the_other_writer_s_version(tables: tuple[str, str]) -> None:
    one, _ = tables
    attempts: list[int | None] = []

    def work() -> int:
        attempts.append(lake.version(one))
        guard.expect(one, attempts[-1])
        if len(attempts) == 1:
            elsewhere(lambda: add(one))
        return add(one)

    with guard.writing("source.one"):
        assert guard.retried(work) == 3
    assert attempts == [0, 2]
