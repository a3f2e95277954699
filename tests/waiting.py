"""Waits for what other processes do, with one limit that says what did not happen."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object], seconds: float = 400.0, explain: Callable[[], str] = lambda: "it did not happen"
) -> None:
    """Wait for a condition to hold; fail if it does not within so many seconds, with an explanation made then."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{explain()} within {seconds:.0f} seconds"
        time.sleep(0.1)


def is_listening(port: int) -> bool:
    """Whether something on this machine accepts connections at a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
