"""Copies the records of another registry's file into this exchange's registry, keeping each row's number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, Table, create_engine, func, insert, inspect, select, text

from jobs.registry.database import engine
from jobs.registry.models import Base, Identity, Lease

_BATCH = 1_000


@dataclass(frozen=True)
class Conflict:
    """A table of the target that has rows of its own."""

    table: str
    rows: int


def records_in_the_way(file: Path | None) -> Conflict | None:
    """Return the first table of this registry that is neither empty nor as long as the file's; None if there is none.

    Args:
        file: the other registry's SQLite file; None for one without a row.

    Raises:
        ExchangeError: this registry's database cannot be reached.
    """
    target = engine()
    with _opened(file or Path(":memory:")) as source:
        if target.url == source.url:
            return None
        present = set(inspect(source).get_table_names())
        for table in tables_to_copy():
            with target.connect() as there, source.connect() as here:
                theirs = _count(there, table)
                ours = _count(here, table) if table.name in present else 0
            if theirs not in (0, ours):
                return Conflict(table.name, theirs)
    return None


def copy_records(file: Path) -> int:
    """Copy every row of another registry in one transaction; tables that have rows already stay as they are.

    Args:
        file: the other registry's SQLite file.

    Returns:
        How many rows were copied.

    Raises:
        ExchangeError: this registry's database cannot be reached.
    """
    with _opened(file) as source:
        target = engine()
        if target.url == source.url:
            return 0
        present = set(inspect(source).get_table_names())
        with source.connect() as here, target.begin() as there:
            tables = [table for table in tables_to_copy() if table.name in present and not _count(there, table)]
            return copy_tables(here, there, tables)


def copy_tables(here: Connection, there: Connection, tables: Iterable[Table]) -> int:
    """Copy every row of some tables, in their order, from one connection to another; returns how many."""
    return sum(_copy(here, there, table) for table in tables)


def _copy(here: Connection, there: Connection, table: Table) -> int:
    copied = 0
    for rows in here.execute(select(table)).mappings().partitions(_BATCH):
        there.execute(insert(table), [dict(row) for row in rows])
        copied += len(rows)
    if there.dialect.name == "postgresql" and "id" in table.c:
        # The copied rows did not take their numbers from the sequence.
        following = f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), max(id)) FROM {table.name}"
        there.execute(text(following))
    return copied


def tables_to_copy() -> list[Table]:
    """The tables to copy, each after those that it refers to; leases and the identity are not copied."""
    own = (Lease.__tablename__, Identity.__tablename__)
    return [table for table in Base.metadata.sorted_tables if table.name not in own]


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


@contextmanager
def _opened(file: Path) -> Iterator[Engine]:
    source = create_engine(f"sqlite:///{file}")
    try:
        yield source
    finally:
        source.dispose()
