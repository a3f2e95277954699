"""The checked version of each table: what the next table, a view and a release may read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jobs.errors import ExchangeError, NotFound
from jobs.lake import guard, log, place, tables
from jobs.registry import transaction
from jobs.registry.models import Check, Pointer
from jobs.registry.pointers import pointer, pointers, pointers_built_from

__all__ = [
    "advance", "begin", "checked", "confirm", "drop_pointer", "move", "pointer", "pointers", "rebase", "take_back",
]  # fmt: skip


def checked(table: str) -> Pointer:
    """The pointer of a table that must have one.

    Raises:
        NotFound: no version of it has passed its expectations yet.
    """
    found = pointer(table)
    if found is None:
        raise NotFound(
            f"{table} has no checked version",
            expected="a version that passed its expectations",
            next_step="bring it in with `exchange run`, or see `exchange runs` for what stopped it",
        )
    return found


def move(
    table: str, to: int, *, check: Check, landing_id: int | None, inputs: dict[str, Any] | None, run_id: str
) -> None:
    """Record a passed check and let the table's pointer stand on the version it checked, in one transaction."""
    guard.require_lock()
    with transaction() as db:
        db.add(check)
        db.flush()
        found = db.get(Pointer, table) or Pointer(table_name=table)
        found.delta_version = found.head_version = to
        found.check_id, found.contract_digest = check.id, check.contract_digest
        found.landing_id, found.inputs, found.run_id = landing_id, inputs, run_id
        found.moved_at = datetime.now(UTC)
        db.add(found)


def confirm(table: str, check: Check) -> None:
    """Record that the checked version passed again, by the contract as it is now."""
    guard.require_lock()
    with transaction() as db:
        db.add(check)
        db.flush()
        found = db.get_one(Pointer, table)
        found.check_id, found.contract_digest = check.id, check.contract_digest


def advance(table: str, *, landing_id: int | None = None, inputs: dict[str, Any] | None = None) -> None:
    """Note that more input has been taken in although no row of the table changed."""
    guard.require_lock()
    with transaction() as db:
        found = db.get_one(Pointer, table)
        found.landing_id = landing_id if landing_id is not None else found.landing_id
        found.inputs = inputs if inputs is not None else found.inputs


def rebase(table: str, to: int) -> None:
    """Let a pointer, and all that was built from where it stood, stand on a version of the same rows."""
    guard.require_lock()
    with transaction() as db:
        found = db.get_one(Pointer, table)
        before = found.delta_version
        found.delta_version = found.head_version = to
        for reader, version in pointers_built_from(db, table):
            if version == before:
                reader.inputs = _reading(reader, table, to)


def drop_pointer(table: str) -> None:
    """Drop the pointer of a table that is gone; what was built from its versions no longer counts as current."""
    with transaction() as db:
        found = db.get(Pointer, table)
        if found is not None:
            db.delete(found)
        for reader, _ in pointers_built_from(db, table):
            # The table's versions begin again at 0: an earlier number no longer names the same rows.
            reader.inputs = _reading(reader, table, -1) | {"query": None}


def begin(table: str) -> Pointer | None:
    """Make the table's newest version equal to its checked one, whatever a killed or failed build left.

    Raises:
        ExchangeError: the table has a checked version, but is gone.
    """
    found = pointer(table)
    head = log.version(table)
    guard.expect(table, head)
    if head is None and found is not None:
        raise ExchangeError(
            f"{table} is gone, of which version {found.delta_version} was checked",
            where=str(place.location(table)),
            expected="the table's folder with its log",
            next_step=f"bring it back from a backup, or make it anew: exchange rebuild {table}",
        )
    if head is None:
        return None
    if found is None:
        if log.rows(table):
            tables.restore(table, 0)
        return None
    if head != found.head_version:
        take_back(table, found)
    return found


def take_back(table: str, found: Pointer | None) -> None:
    """Restore the checked version, or the empty table if none was ever checked."""
    restored = tables.restore(table, found.delta_version if found else 0)
    if found:
        with transaction() as db:
            db.get_one(Pointer, table).head_version = restored


def _reading(reader: Pointer, table: str, version: int) -> dict[str, Any]:
    """A pointer's inputs, with another version of one of its tables."""
    inputs = reader.inputs or {}
    return {**inputs, "tables": {**inputs["tables"], table: version}}
