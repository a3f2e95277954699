"""Waits for other processes, and fails with an explanation when they take too long."""

from __future__ import annotations

import socket
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


def is_listening(port: int) -> bool:
    """Whether anything on this machine accepts connections on a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
