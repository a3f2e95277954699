"""Keeps a table to one writer at a time: four guards, taken in this order, none of which is enough alone.

1. The lock (`jobs.registry.locks`): one process at a time works on a source or a product. A locked file does it on one
   machine, an advisory lock among all that share a PostgreSQL registry. Alone it cannot hold back an engine: it is
   free as soon as its holder is killed, while the Connect server still works on what that process asked for; and two
   sources have two locks, but may be written through two Connect servers, which overwrite each other's commits on S3.
2. The lease (`jobs.lake.lease`): one engine at a time writes a lake in an object store. It comes after the lock, so
   that a process that is refused the lock asks for no lease. Alone it cannot tell apart two processes that use the
   same engine, nor stop a commit that is under way when the lease runs out.
3. The expected version: a step's commit must be the very next version after the one that the step began with, or the
   step has met another writer's commit. That finds what lock and lease let through, whoever made it. Alone it prevents
   nothing: it is known only after the commit, so two writers would undo each other's work for ever.
4. The retry: whoever meets such a commit does the step again from the beginning, on what is there now. Alone it would
   never be asked: it needs the third guard, or Delta's own refusal of conflicting commits, to notice.

Lock and lease can also be lost while they are held: a database that restarts forgets its locks, and a paused process
does not renew its lease. `require_write_access` therefore asks for both again before each commit.

All of it belongs to the step that runs in the current context, so steps in several threads of one process do not meet.
A thread that a step starts belongs to the step only if it runs in a copy of its context, as
``contextvars.copy_context().run(work)`` does: no other thread may commit for a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TypeVar

from jobs.errors import ConcurrentWrite
from jobs.lake import lease
from jobs.lake.log import delta
from jobs.lake.place import location
from jobs.registry import locks

Result = TypeVar("Result")

# Each process that was killed leaves at most one commit that the engine still works on.
ATTEMPTS = 6

# The newest version, by table folder, that the running step read or wrote; None outside of a step that writes. Copies
# of a context share the dictionary, so a thread in such a copy sees the step's commits, and the step sees the thread's.
_expected: ContextVar[dict[str, int] | None] = ContextVar("versions that the running step expects", default=None)


@contextmanager
def locked(subject: str) -> Iterator[None]:
    """Hold the lock of a source, a product or a release, for work that commits to no table.

    Raises:
        Locked: another living process holds it; the message says which and since when.
    """
    with locks.hold(subject):
        yield


@contextmanager
def writing(subject: str) -> Iterator[None]:
    """Let a step write the tables of a source or product: take the lock, then the lease, then expect versions.

    Args:
        subject: ``source.<name>`` or ``product.<name>``; ``lake`` for all of it.

    Raises:
        Locked: another process works on it, or another engine writes this lake; the message says which.
    """
    with locks.hold(subject), lease.hold(), _expectations():
        yield


@contextmanager
def leased() -> Iterator[None]:
    """Hold the lease alone, around several steps of which each takes its own lock by `writing`.

    Raises:
        Locked: another engine writes this lake.
    """
    with lease.hold():
        yield


def retried(work: Callable[[], Result]) -> Result:
    """Do the work of a step, and do it again where another process wrote its tables meanwhile.

    Each attempt begins without expectations, because it begins from what is there then.

    Raises:
        ConcurrentWrite: that happened to the last attempt, too.
    """
    for _ in range(ATTEMPTS - 1):
        with suppress(ConcurrentWrite), _expectations():
            return work()
    with _expectations():
        return work()


def require_lock() -> None:
    """Refuse a change of the registry's records by a step whose lock was lost.

    Raises:
        Locked: it was; another process may be working on the same tables by now.
    """
    locks.require_lock()


def require_write_access() -> None:
    """Refuse a commit by a process that was paused or cut off for so long that another may be writing by now.

    Raises:
        Locked: the step's lock was lost, or another engine has taken the lease.
        ExchangeError: the lease ran out, and the database that could renew it cannot be reached.
    """
    locks.require_lock()
    lease.require_lease()


def expect(table: str, version: int | None) -> None:
    """Note the version that a step begins with, None for a table without one: the step's next commit must follow it.

    Tables that were never noted may change at any time: bronze and quarantine, where each step replaces slices of its
    own and doing so again changes nothing.

    Raises:
        RuntimeError: no step that writes is running.
    """
    expected = _expected.get()
    if expected is None:
        raise RuntimeError(f"a step begins to write {table} outside of `guard.writing`")
    expected[_key(table)] = -1 if version is None else version


def expect_own_commit(table: str) -> None:
    """Note that the step is about to make a commit without reading its version back, as when it creates a table."""
    expected = _expected.get() or {}
    if _key(table) in expected:
        expected[_key(table)] += 1


def require_own_commit(table: str) -> int:
    """Require that a table's newest version is the one that this step has just made; returns it.

    Raises:
        ConcurrentWrite: another process committed in between.
    """
    return _require(table, own=1)


def require_expected_version(table: str) -> None:
    """Require that a table is still at the version that this step read or wrote.

    Raises:
        ConcurrentWrite: it is not.
    """
    _require(table, own=0)


@contextmanager
def _expectations() -> Iterator[None]:
    before = _expected.set({})
    try:
        yield
    finally:
        _expected.reset(before)


def _require(table: str, own: int) -> int:
    """A table's newest version, of which up to `own` after the expected one may be this step's."""
    newest = delta(table).version()
    expected = _expected.get() or {}
    before = expected.get(_key(table))
    if before is None:
        return newest
    if newest > before + own:
        raise ConcurrentWrite(
            f"another process changed {table} during this step: it is at version {newest}, not {before + own}",
            expected="one writer at a time",
            next_step="find out who else writes it, then run the step again; readers keep the version they had",
        )
    expected[_key(table)] = newest
    return newest


def _key(table: str) -> str:
    return str(location(table))
