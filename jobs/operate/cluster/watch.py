"""Reports the state of the cluster's parts, and their logs."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import TypedDict

from jobs.errors import NotFound
from jobs.operate.cluster.state import Part, load, log_of
from jobs.operate.processes import is_listening

_PAUSE = 0.3


class PartStatus(TypedDict):
    """One part, for people and programs; `state` is ``up``, ``silent`` (it runs but does not answer) or ``down``."""

    part: str
    state: str
    pid: int
    address: str
    since: datetime | None
    log: str


def parts() -> list[PartStatus]:
    """Every part of the cluster that was last started; none after a `down`."""
    state = load()
    return [_status(part) for part in (state.parts.values() if state else ())]


def is_answering(part: Part) -> bool:
    """Whether a part accepts connections."""
    return is_listening(part.port)


def log_lines(name: str, last: int, follow: bool) -> Iterator[str]:
    """The last lines of a part's log; with `follow` also those to come, without end.

    Raises:
        NotFound: no part of that name was ever started.
    """
    file = log_of(name)
    if not file.exists():
        names = sorted(log.stem for log in file.parent.glob("*.log"))
        raise NotFound(
            f"no part '{name}' was started",
            where=str(file.parent),
            expected=", ".join(names) or "a cluster that has been started",
            next_step="exchange cluster status",
        )
    with ExitStack() as stack:
        # Read on from where the last lines ended, so that no line is missed or repeated.
        source = stack.enter_context(file.open(encoding="utf-8", errors="replace"))
        yield from (line.rstrip("\n") for line in deque(source, maxlen=last))
        while follow:
            while line := source.readline():
                yield line.rstrip("\n")
            time.sleep(_PAUSE)
            if file.exists() and not os.path.samestat(file.stat(), os.fstat(source.fileno())):
                # A part that starts again begins a new file.
                source = stack.enter_context(file.open(encoding="utf-8", errors="replace"))


def _status(part: Part) -> PartStatus:
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
