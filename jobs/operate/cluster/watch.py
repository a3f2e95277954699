"""Tells how the parts of the cluster are, and what they say."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from typing import TypedDict

from jobs.errors import NotFound
from jobs.operate.cluster.state import Part, load, log_of

_PAUSE = 0.3


class Told(TypedDict):
    """One part, for people and programs; `state` is ``up``, ``silent`` (it runs and does not answer) or ``down``."""

    part: str
    state: str
    pid: int
    address: str
    since: datetime | None
    log: str


def parts() -> list[Told]:
    """Every part of the cluster that was last started; none after a `down`."""
    state = load()
    return [_told(part) for part in (state.parts.values() if state else ())]


def is_answering(part: Part) -> bool:
    """Whether a part accepts connections."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", part.port), timeout=1):
        return True
    return False


def log_lines(name: str, last: int, follow: bool) -> Iterator[str]:
    """The last lines of what a part said; with `follow` also what it says from now on, without end.

    Raises:
        NotFound: no part of that name was ever started.
    """
    file = log_of(name)
    if not file.exists():
        known = sorted(found.stem for found in file.parent.glob("*.log"))
        raise NotFound(
            f"no part '{name}' was started",
            where=str(file.parent),
            expected=", ".join(known) or "a cluster that was started",
            next_step="exchange cluster status",
        )
    with ExitStack() as stack:
        # Read on from the very place where the last lines ended: none is missed, and none told twice.
        source = stack.enter_context(file.open(encoding="utf-8", errors="replace"))
        yield from (line.rstrip("\n") for line in deque(source, maxlen=last))
        while follow:
            while line := source.readline():
                yield line.rstrip("\n")
            time.sleep(_PAUSE)
            if file.exists() and not os.path.samestat(file.stat(), os.fstat(source.fileno())):
                # A part that starts again begins a new file.
                source = stack.enter_context(file.open(encoding="utf-8", errors="replace"))


def _told(part: Part) -> Told:
    alive = part.process() is not None
    state = ("up" if is_answering(part) else "silent") if alive else "down"
    return {
        "part": part.name,
        "state": state,
        "pid": part.pid,
        "address": f"127.0.0.1:{part.port}",
        "since": part.began_at if alive else None,
        "log": str(log_of(part.name)),
    }
