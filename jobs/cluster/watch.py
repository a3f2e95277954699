"""Tells how the parts of the cluster are, and what they say."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypedDict

from jobs.cluster.state import Part, load, log_of
from jobs.errors import NotFound

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
    text = file.read_text(encoding="utf-8", errors="replace")
    yield from text.splitlines()[-last:]
    if follow:
        yield from _news(file)


def _news(file: Path) -> Iterator[str]:
    source = file.open(encoding="utf-8", errors="replace")
    source.seek(0, 2)
    while True:
        while line := source.readline():
            yield line.rstrip("\n")
        time.sleep(_PAUSE)
        with suppress(FileNotFoundError):
            # A part that starts again begins a new file.
            if file.stat().st_ino != Path(f"/dev/fd/{source.fileno()}").stat().st_ino:
                source.close()
                source = file.open(encoding="utf-8", errors="replace")


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
