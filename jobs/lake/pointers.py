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
    current = pointer(table)
    if current is None:
        raise NotFound(
            f"{table} has no checked version",
            expected="a version that passed its expectations",
            next_step="bring it in with `exchange run`, or see `exchange runs` for what stopped it",
        )
    return current


def move(
    table: str, to: int, *, check: Check, landing_id: int | None, inputs: dict[str, Any] | None, run_id: str
) -> None:
    """Record a passed check and move the table's pointer to the version it checked, in one transaction."""
    guard.require_lock()
    with transaction() as db:
        db.add(check)
        db.flush()
        current = db.get(Pointer, table) or Pointer(table_name=table)
        current.delta_version = current.head_version = to
        current.check_id, current.contract_digest = check.id, check.contract_digest
        current.landing_id, current.inputs, current.run_id = landing_id, inputs, run_id
        current.moved_at = datetime.now(UTC)
        db.add(current)


def confirm(table: str, check: Check) -> None:
    """Record that the checked version passed again, under the current contract."""
    guard.require_lock()
    with transaction() as db:
        db.add(check)
        db.flush()
        current = db.get_one(Pointer, table)
        current.check_id, current.contract_digest = check.id, check.contract_digest


def advance(table: str, *, landing_id: int | None = None, inputs: dict[str, Any] | None = None) -> None:
    """Record that the table has taken in more input although none of its rows changed."""
    guard.require_lock()
    with transaction() as db:
        current = db.get_one(Pointer, table)
        current.landing_id = landing_id if landing_id is not None else current.landing_id
        current.inputs = inputs if inputs is not None else current.inputs


def rebase(table: str, to: int) -> None:
    """Move a pointer to a version with the same rows, with its check and the inputs of the tables built from it."""
    guard.require_lock()
    with transaction() as db:
        current = db.get_one(Pointer, table)
        before = current.delta_version
        current.delta_version = current.head_version = to
        if current.check is not None:
            # Equal rows pass the same expectations; a release needs the check of the very version that it pins.
            current.check = _check_of(current.check, to)
        for reader, version in pointers_built_from(db, table):
            if version == before:
                reader.inputs = _reading(reader, table, to)


def drop_pointer(table: str) -> None:
    """Drop the pointer of a table that is gone; tables built from its versions no longer count as current."""
    with transaction() as db:
        current = db.get(Pointer, table)
        if current is not None:
            db.delete(current)
        for reader, _ in pointers_built_from(db, table):
            # The table's versions begin again at 0: an earlier number no longer names the same rows.
            reader.inputs = _reading(reader, table, -1) | {"query": None}


def begin(table: str) -> Pointer | None:
    """Make the table's newest version equal to its checked one, whatever a killed or failed build left behind.

    Commits that a power cut left torn, after the last one that was recorded, are put aside first.

    Raises:
        ExchangeError: the table has a checked version, but is missing, or its log ends before that version.
    """
    current = pointer(table)
    log.put_torn_aside(table, current.head_version if current else -1)
    head = log.version(table)
    guard.expect(table, head)
    if head is None and current is not None:
        raise ExchangeError(
            f"{table} is missing; its checked version was {current.delta_version}",
            where=str(place.location(table)),
            expected="the table's folder with its log",
            next_step=f"restore it from a backup, or run: exchange rebuild {table}",
        )
    if head is None:
        return None
    if current and head < current.head_version:
        raise ExchangeError(
            f"the log of {table} ends at version {head}, but version {current.head_version} was recorded",
            where=str(place.location(table)),
            expected="the table's folder as it was when the registry recorded it",
            next_step=f"restore it from a backup, or run: exchange rebuild {table}",
        )
    if current is None:
        take_back(table, None)
        return None
    if head != current.head_version:
        take_back(table, current)
    return current


def take_back(table: str, current: Pointer | None) -> None:
    """Restore the checked version, or empty the table if there is none."""
    if current is None:
        # Version 0 is empty, too, but upkeep may have cut it off the log since.
        if log.rows(table):
            tables.delete(table, "true")
        return
    restored = tables.restore(table, current.delta_version)
    with transaction() as db:
        db.get_one(Pointer, table).head_version = restored


def _check_of(check: Check, version: int) -> Check:
    """A copy of a check for a version with the same rows."""
    columns = {c.key: getattr(check, c.key) for c in Check.__table__.columns if not c.primary_key}
    return Check(**columns | {"delta_version": version})


def _reading(reader: Pointer, table: str, version: int) -> dict[str, Any]:
    """A pointer's inputs, with another version of one of its tables."""
    inputs = reader.inputs or {}
    return {**inputs, "tables": {**inputs["tables"], table: version}}
