"""Lets one engine at a time write a lake in an object store, where two could overwrite each other's commits.

On S3 Delta Lake's Spark library is safe for one driver only, so all that write through one Connect server are one
writer; and so are all embedded engines together, which put each commit only where there is none. Who stops renewing the
lease, because the process or the machine died, loses it by itself; and one that was paused for longer, or cut off from
the database, finds that out before its next commit and makes none.

What no lease can hold back is a commit that is under way: a client asks the Connect server for it, is paused, loses the
lease, and the server goes on. Whoever takes over a lease that ran out, rather than one that was given back, may meet
that one commit. Nobody takes over while the client lives and reaches the database, however long the commit takes.
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

# A dead writer keeps others waiting for so long, and a living one must be heard of more often.
SECONDS = 60.0
_RENEWED_EVERY = 15.0
# Clocks of several machines differ by less.
_MARGIN = 10.0
# Of the clocks that no setting of the time moves, the one that also counts a machine's sleep.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

# Until when this process may be sure of a lease, by that clock, and under which name it holds it.
_sure: dict[str, tuple[float, str]] = {}


@contextmanager
def hold() -> Iterator[None]:
    """Hold the right to write the lake within the block; of a lake on a disk everybody has it.

    Raises:
        Locked: another engine has it; the message names it, and until when.
    """
    if not settings().is_remote:
        yield
        return
    lake, me = str(settings().lake), writer()
    _take(lake, me)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lake, me, done), daemon=True, name="lease of the lake")
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()


def require_lease() -> None:
    """Refuse a commit where another engine may have begun to write since this process last renewed its lease.

    Raises:
        Locked: another engine has taken it.
        ExchangeError: the lease ran out, and the database that could renew it cannot be reached.
    """
    known = _sure.get(str(settings().lake)) if settings().is_remote else None
    if known and _now() > known[0]:
        _take(str(settings().lake), known[1])


def _now() -> float:
    return time.clock_gettime(_CLOCK)


def _take(lake: str, me: str) -> None:
    begun = _now()
    now = datetime.now(UTC)
    if not take_lease(lake, me, now=now, until=now + timedelta(seconds=SECONDS)):
        raise _locked(lake)
    _sure[lake] = (begun + SECONDS - _MARGIN, me)


def _locked(lake: str) -> Locked:
    holder = lease_of(lake)
    return Locked(
        f"{holder.writer} writes this lake, and two at once would overwrite each other's commits",
        where=lake,
        expected="one engine that writes a lake in an object store",
        next_step=f"point EXCHANGE_SPARK at that one, or end it and wait until {holder.held_until:%H:%M:%S} UTC",
    )


def _renew(lake: str, me: str, done: threading.Event) -> None:
    while not done.wait(_RENEWED_EVERY):
        # A database that is away for a moment is back by the next time, or the lease runs out as it should.
        with suppress(ExchangeError):
            _take(lake, me)
