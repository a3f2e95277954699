"""Moves an exchange that began on one machine to where the settings of now point: its files, its records, its keys."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, Table, create_engine, func, insert, inspect, select, text

from jobs import lake
from jobs.errors import ExchangeError, NotFound, Tampered
from jobs.lake import objects
from jobs.lake.lease import writing
from jobs.registry import engine
from jobs.registry.locks import hold
from jobs.registry.models import Base, Lease
from jobs.settings import settings

_AT_ONCE = 4
_BATCH = 1_000
# What is made anew by whoever needs it, or belongs to one machine.
_PASSING = ("_stage", "_shown")
# Beside tables and landed bytes: what proves them.
_PROOF = ("evidence", "releases", "keys")


@dataclass(frozen=True)
class Copied:
    """What was copied and compared; `present` are files that an earlier, broken-off copy had brought already."""

    files: int
    bytes: int
    present: int
    tables: int
    rows: int
    records: int


def relocate(home: Path, tell: Callable[[str], None] = lambda _: None) -> Copied:
    """Copy an exchange from its home on this machine into the lake and registry of the settings of now.

    Every file is digested on both sides and every table's newest version is compared by its files and rows. Nothing of
    the old home changes, and a copy that broke off goes on where it ended. Data files go before the logs that name
    them, so whoever reads meanwhile sees a table whole or not at all.

    Args:
        home: the other exchange's EXCHANGE_HOME, where nothing may run meanwhile.
        tell: is told what is being done.

    Raises:
        NotFound: there is no exchange in that folder.
        ExchangeError: source and target are one, or the target's registry has records of its own.
        Tampered: a file arrived other than it left.
        Busy: somebody works on the target.
    """
    home = home.expanduser().resolve()
    source = create_engine(f"sqlite:///{home / 'registry.db'}")
    if not (home / "registry.db").is_file():
        raise NotFound("no exchange is there", where=str(home), expected="a folder with registry.db, lake and landing")
    if home == settings().store:
        raise ExchangeError(
            "the lake is there already", where=str(home), next_step="set EXCHANGE_LAKE to the new place"
        )
    with hold("lake"), writing():
        _see_empty(source)
        tell("copying files")
        copied = [*_copy_tree(home, settings().store, ("landing", "lake")), *_copy_tree(home, settings().home, _PROOF)]
        tell("comparing tables")
        tables = _compare(home)
        tell("copying records")
        records = _copy_records(source)
    return Copied(
        files=len(copied), bytes=sum(size for size, _ in copied), present=sum(not new for _, new in copied),
        tables=len(tables), rows=sum(tables.values()), records=records,
    )  # fmt: skip


def _see_empty(source: Engine) -> None:
    """Refuse a registry that holds what the old one does not: two histories cannot be made one."""
    target = engine()
    if target.url == source.url:
        return
    for table in _records():
        with target.connect() as there, source.connect() as here:
            theirs = there.execute(select(func.count()).select_from(table)).scalar_one()
            ours = here.execute(select(func.count()).select_from(table)).scalar_one() if _has(source, table.name) else 0
        if theirs not in (0, ours):
            raise ExchangeError(
                f"the target's registry has {theirs} {table.name} of its own",
                where="EXCHANGE_DATABASE_URL",
                expected="a database without records of an exchange",
                next_step="make an empty database, and point EXCHANGE_DATABASE_URL at it",
            )


def _records() -> list[Table]:
    """What is to be moved, each after those that it refers to; who may write the lake is not."""
    return [table for table in Base.metadata.sorted_tables if table.name != Lease.__tablename__]


def _has(source: Engine, table: str) -> bool:
    return inspect(source).has_table(table)


def _copy_tree(home: Path, target: Path, folders: tuple[str, ...]) -> list[tuple[int, bool]]:
    """Copy what is under some folders; returns size, and whether it was new, of each file."""
    if home == target:
        return []
    files = [name for folder in folders for name in _files(home, folder)]
    data = [name for name in files if "_delta_log" not in name.parts]
    logs = sorted(name for name in files if "_delta_log" in name.parts)
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        done = list(pool.map(lambda name: _copy(home / name, target / name.as_posix()), data))
    return done + [_copy(home / name, target / name.as_posix()) for name in logs]


def _files(home: Path, folder: str) -> Iterator[Path]:
    for path in sorted((home / folder).rglob("*")):
        name = path.relative_to(home)
        passing = any(part in _PASSING or (part.startswith(".") and part.endswith(".part")) for part in name.parts)
        if path.is_file() and not passing:
            yield name


def _copy(source: Path, target: Path) -> tuple[int, bool]:
    if objects.is_object(target):
        new = objects.put_if_absent(target, source)
    else:
        new = not target.exists()
        if new:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    if objects.sha256_of(source) != objects.sha256_of(target):
        raise Tampered(
            "a file arrived other than it left", where=str(target), expected=f"the bytes of {source}",
            next_step="remove it if it is no part of another exchange, and copy again",
        )  # fmt: skip
    return source.stat().st_size, new


def _compare(home: Path) -> dict[str, int]:
    """Rows of each table, which both sides agree on."""
    rows: dict[str, int] = {}
    for log in sorted((home / "lake").glob("*/*/_delta_log")):
        table = f"{log.parent.parent.name}.{log.parent.name}"
        lake.forget()
        here = {f.path: f.rows for f in lake.files_in(log.parent)}
        there = {f.path: f.rows for f in lake.files(table)}
        if here != there:
            raise Tampered(f"{table} is another one in the new place", where=str(lake.location(table)))
        rows[table] = sum(here.values())
    return rows


def _copy_records(source: Engine) -> int:
    """Copy every row of the registry, with its number, in one transaction."""
    target = engine()
    if target.url == source.url:
        return 0
    copied = 0
    with source.connect() as here, target.begin() as there:
        for table in _records():
            if not _has(source, table.name):
                continue
            if there.execute(select(func.count()).select_from(table)).scalar_one():
                continue
            for rows in here.execute(select(table)).mappings().partitions(_BATCH):
                there.execute(insert(table), [dict(row) for row in rows])
                copied += len(rows)
            if target.dialect.name == "postgresql" and "id" in table.c:
                # Rows that brought their numbers along did not draw them from the sequence.
                following = f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), max(id)) FROM {table.name}"
                there.execute(text(following))
    return copied
