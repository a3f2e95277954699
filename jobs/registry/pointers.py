"""The registry's `pointers`: which version of each table passed its expectations, and what it was built from."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from jobs.registry.database import reading
from jobs.registry.models import Pointer


def pointer(table: str) -> Pointer | None:
    """The pointer to a table's checked version, with its check; None if no version ever passed."""
    with reading() as session:
        return session.get(Pointer, table, options=[joinedload(Pointer.check)])


def pointers() -> list[Pointer]:
    """Every pointer, by table name, without its check."""
    with reading() as session:
        return list(session.scalars(select(Pointer).order_by(Pointer.table_name)))


def pointers_built_from(session: Session, table: str) -> list[tuple[Pointer, int]]:
    """The pointers of tables built from a table, each with the version of it that was read."""
    return [
        (pointer, tables[table])
        for pointer in session.scalars(select(Pointer))
        if table in (tables := (pointer.inputs or {}).get("tables") or {})
    ]
