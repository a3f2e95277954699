"""Lets one process at a time work on a source, a product or a whole lake; a dead holder loses its lock by itself."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from jobs.errors import Busy
from jobs.settings import settings


@contextmanager
def hold(name: str) -> Iterator[None]:
    """Hold the lock of that name for the block.

    Raises:
        Busy: another living process holds it; the message says which and since when.
    """
    folder = settings().locks
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _busy(name, file.read()) from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}))
        file.flush()
        yield


def _busy(name: str, holder: str) -> Busy:
    known = json.loads(holder) if holder else {}
    return Busy(
        f"'{name}' is being worked on by process {known.get('pid', '?')} since {known.get('since', '?')}",
        expected="one writer at a time",
        next_step="wait until it is done, or end that process, and try again",
    )
