"""When a writing step is retried or given up, and what must not be called outside of one."""

from __future__ import annotations

import pytest

from jobs.errors import ConcurrentWrite, ExchangeError
from jobs.lake import guard


def test_a_step_overtaken_at_every_attempt_gives_up() -> None:
    attempts: list[int] = []

    def work() -> None:
        attempts.append(len(attempts))
        raise ConcurrentWrite(f"attempt {attempts[-1]}")

    with pytest.raises(ConcurrentWrite, match=f"attempt {guard.ATTEMPTS - 1}"):
        guard.retried(work)
    assert len(attempts) == guard.ATTEMPTS


def test_another_failure_is_not_retried() -> None:
    attempts: list[int] = []

    def work() -> None:
        attempts.append(1)
        raise ExchangeError("the disk is full")

    with pytest.raises(ExchangeError, match="the disk is full"):
        guard.retried(work)
    assert attempts == [1]


def test_a_version_can_be_expected_only_while_writing() -> None:
    with pytest.raises(RuntimeError, match=r"silver\.x outside of `guard\.writing`"):
        guard.expect("silver.x", 3)
