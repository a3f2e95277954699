"""Lets one process at a time work on a source, a product or a whole lake; when the holder dies, its lock is free.

On one machine a locked file is enough. Processes on several machines, or with several EXCHANGE_HOMEs, that share a
PostgreSQL registry also take an advisory lock there, which lives as long as the connection that took it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jobs.errors import Locked
from jobs.settings import settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

# The server notices that a machine is gone, and frees its locks, after 10 + 3 × 5 seconds.
_KEPT_ALIVE = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
# Registries in several schemas of one database each have their own locks.
_KEY = "hashtextextended(current_schema() || ' ' || :name, 0)"
_TAKE = f"SELECT pg_try_advisory_lock({_KEY})"
_GIVE_BACK = f"SELECT pg_advisory_unlock({_KEY})"
_HOLDER = f"""
SELECT a.application_name, to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND (l.classid::bigint << 32) | l.objid::bigint = {_KEY}
"""

# The server needs a moment to notice that the process which held a lock was killed.
_TRIES = 5
_BETWEEN_TRIES = 0.2

# The database's locks that the running step holds, and their connections. A step in another thread has its own, as a
# connection serves one thread at a time.
_held: ContextVar[tuple[tuple[str, Connection], ...]] = ContextVar("locks that the running step holds", default=())


@contextmanager
def hold(name: str, *, shared: bool = True) -> Iterator[None]:
    """Hold the lock of that name for the block.

    Args:
        name: what it locks, for example ``source.<name>``.
        shared: whether processes with other EXCHANGE_HOMEs work on the same thing.

    Raises:
        Locked: another living process holds it; the message says which, and since when.
    """
    folder = settings().locks
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = json.loads(file.read() or "{}")
            raise _locked(name, f"process {holder.get('pid', '?')}", holder.get("since", "?")) from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}))
        file.flush()
        with _hold_among_machines(name) if shared and _registry_is_shared() else nullcontext():
            yield


def require_lock() -> None:
    """Check that the running step still has its locks: a database that restarts forgets them.

    Raises:
        Locked: one is lost; another process may be working on the same thing by now.
    """
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    for name, connection in _held.get():
        try:
            connection.execute(text("SELECT 1"))
        except SQLAlchemyError as error:
            raise Locked(
                f"the lock of '{name}' was lost with its connection to the database",
                expected="one writer at a time",
                next_step="run the step again; readers keep the version they had",
            ) from error


def _registry_is_shared() -> bool:
    return settings().registry_url.startswith("postgresql")


@contextmanager
def _hold_among_machines(name: str) -> Iterator[None]:
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    from jobs.registry import own_connection

    with own_connection() as connection:
        connection.execute(text(_KEPT_ALIVE))
        # Shows others who holds the lock; the server truncates names at 63 bytes.
        me = f"{os.getpid()} on {socket.gethostname()}"
        connection.execute(text("SELECT set_config('application_name', :me, false)"), {"me": f"exchange {me}"})
        if not _take(connection, name):
            holder = connection.execute(text(_HOLDER), {"name": name}).first()
            who, since = holder or ("a process that has just ended", "?")
            raise _locked(name, str(who).replace("exchange", "process"), since)
        before = _held.set((*_held.get(), (name, connection)))
        try:
            yield
        finally:
            _held.reset(before)
            # Closing the connection frees the lock too, but only some time later. A lost connection has freed its locks
            # already.
            with suppress(SQLAlchemyError):
                connection.execute(text(_GIVE_BACK), {"name": name})


def _take(connection: Connection, name: str) -> bool:
    from sqlalchemy import text

    for left in reversed(range(_TRIES)):
        if connection.execute(text(_TAKE), {"name": name}).scalar_one():
            return True
        if left:
            time.sleep(_BETWEEN_TRIES)
    return False


def _locked(name: str, holder: str, since: str) -> Locked:
    return Locked(
        f"'{name}' is locked by {holder} since {since}",
        expected="one writer at a time",
        next_step="wait until it is done or stop that process, then try again",
    )
