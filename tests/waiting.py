"""Waits for other processes, and fails with an explanation when they take too long."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object], seconds: float = 400.0, explain: Callable[[], str] = lambda: "it did not happen"
) -> None:
    """Wait for a condition to hold; after `seconds`, fail with the explanation of that moment."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{explain()} within {seconds:.0f} seconds"
        time.sleep(0.1)
