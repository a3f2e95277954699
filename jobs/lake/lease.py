"""Lets one engine at a time write a lake in an object store, where two could overwrite each other's commits.

On S3, Delta Lake's Spark library is safe with one driver only, so all clients of one Connect server count as one
writer. So do all embedded engines together, because each of their commits is put only where there is none. A writer
that stops renewing the lease, because its process or machine died, loses it without further ado. One that was paused
for longer than that, or cut off from the database, finds out before its next commit and does not make it.

No lease can hold back a commit that is under way: a client asks the Connect server for it, is paused and loses the
lease, and the server goes on. Whoever takes over a lease that ran out may meet that one commit. Nobody takes over while
the client lives and reaches the database, however long the commit takes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from jobs.errors import ExchangeError, Locked
from jobs.lake.engine import writer
from jobs.registry.leases import lease_of, take_lease
from jobs.settings import settings

# A dead writer keeps others waiting this long; a living one must renew more often.
SECONDS = 60.0
_RENEWED_EVERY = 15.0
# More than the clocks of several machines differ by.
_MARGIN = 10.0
# Setting the time moves neither clock; CLOCK_BOOTTIME also counts the time that the machine slept.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

# Until when this process can be sure of each lake's lease, by that clock, and the name under which it holds it.
_sure_until: dict[str, tuple[float, str]] = {}


@contextmanager
def hold() -> Iterator[None]:
    """Hold the lease of the lake for the block; a lake on a disk needs none.

    Raises:
        Locked: another engine holds it; the message says which, and until when.
    """
    if not settings().is_remote:
        yield
        return
    lake, name = str(settings().lake), writer()
    _take(lake, name)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lake, name, done), daemon=True, name="lease of the lake")
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()


def require_lease() -> None:
    """Refuse a commit if another engine may have begun to write since this process last renewed its lease.

    Raises:
        Locked: another engine has taken it.
        ExchangeError: the lease ran out, and the database that could renew it cannot be reached.
    """
    lease = _sure_until.get(str(settings().lake)) if settings().is_remote else None
    if lease and _now() > lease[0]:
        _take(str(settings().lake), lease[1])


def _now() -> float:
    return time.clock_gettime(_CLOCK)


def _take(lake: str, name: str) -> None:
    asked_at = _now()
    now = datetime.now(UTC)
    if not take_lease(lake, name, now=now, until=now + timedelta(seconds=SECONDS)):
        raise _locked(lake)
    _sure_until[lake] = (asked_at + SECONDS - _MARGIN, name)


def _locked(lake: str) -> Locked:
    holder = lease_of(lake)
    return Locked(
        f"{holder.writer} writes this lake, and two writers would overwrite each other's commits",
        where=lake,
        expected="one engine that writes a lake in an object store",
        next_step=f"point EXCHANGE_SPARK at that engine, or stop it and wait until {holder.held_until:%H:%M:%S} UTC",
    )


def _renew(lake: str, name: str, done: threading.Event) -> None:
    while not done.wait(_RENEWED_EVERY):
        # If the database is unavailable for a moment, the next attempt renews; if for longer, the lease should run out.
        with suppress(ExchangeError):
            _take(lake, name)
