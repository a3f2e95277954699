"""Moves an exchange from the machine it began on to where the settings point: its files, its records, its keys."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from jobs import lake
from jobs.errors import ExchangeError, NotFound, Tampered
from jobs.lake import guard, objects
from jobs.registry.backup import remember_registry
from jobs.registry.identity import bringing_back
from jobs.registry.transfer import copy_records, records_in_the_way
from jobs.settings import settings

_AT_ONCE = 4
# Recreated when needed, or of one machine only.
_PASSING = ("_stage", "_shown")
# What proves tables and landed bytes.
_PROOF = ("evidence", "releases", "keys")


@dataclass(frozen=True)
class Copied:
    """What was copied and compared; `present` counts files that an earlier, interrupted copy had brought already."""

    files: int
    bytes: int
    present: int
    tables: int
    rows: int
    records: int


def relocate(home: Path, tell: Callable[[str], None] = lambda _: None) -> Copied:
    """Copy an exchange from its home on this machine into the lake and registry of the settings.

    Every file is digested on both sides, and every table's newest version is compared by its files and rows. The old
    home does not change, and an interrupted copy resumes where it stopped. Data files go before the logs that name
    them, so a reader sees a table whole or not at all.

    Args:
        home: the other exchange's EXCHANGE_HOME; nothing may run there meanwhile.
        tell: called with each phase as it begins.

    Raises:
        NotFound: there is no exchange in that folder.
        ExchangeError: source and target are the same, or the target's registry has records of its own.
        Tampered: a copied file or table differs from its source.
        Locked: another process works on the target.
    """
    home = home.expanduser().resolve()
    records = home / "registry.db"
    if not records.is_file():
        raise NotFound("no exchange is there", where=str(home), expected="a folder with registry.db, lake and landing")
    if home == settings().store:
        raise ExchangeError(
            "the lake is already there", where=str(home), next_step="set EXCHANGE_LAKE to the new place"
        )
    with bringing_back(), guard.writing("lake"):
        _require_empty_registry(records)
        tell("copying files")
        copied = [*_copy_tree(home, settings().store, ("landing", "lake")), *_copy_tree(home, settings().home, _PROOF)]
        tell("comparing tables")
        tables = _compare(home)
        tell("copying records")
        rows_copied = copy_records(records)
        remember_registry()
    return Copied(
        files=len(copied), bytes=sum(size for size, _ in copied), present=sum(not new for _, new in copied),
        tables=len(tables), rows=sum(tables.values()), records=rows_copied,
    )  # fmt: skip


def _require_empty_registry(records: Path) -> None:
    """Refuse a registry with records that the old one does not have: two histories cannot be merged."""
    conflict = records_in_the_way(records)
    if conflict is not None:
        raise ExchangeError(
            f"the target's registry already has {conflict.rows} {conflict.table}",
            where="EXCHANGE_DATABASE_URL",
            expected="a database without records of an exchange",
            next_step="create an empty database, and point EXCHANGE_DATABASE_URL at it",
        )


def _copy_tree(home: Path, target: Path, folders: tuple[str, ...]) -> list[tuple[int, bool]]:
    """Copy everything under some folders; returns each file's size, and whether it was new."""
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
            "checksum mismatch after copy", where=str(target), expected=f"the bytes of {source}",
            next_step="remove it unless it belongs to another exchange, and copy again",
        )  # fmt: skip
    return source.stat().st_size, new


def _compare(home: Path) -> dict[str, int]:
    """Rows of each table, on which both sides agree."""
    rows: dict[str, int] = {}
    for log in sorted((home / "lake").glob("*/*/_delta_log")):
        table = f"{log.parent.parent.name}.{log.parent.name}"
        lake.drop_cached_logs()
        here = {f.path: f.rows for f in lake.files_in(log.parent)}
        there = {f.path: f.rows for f in lake.files(table)}
        if here != there:
            raise Tampered(f"{table} differs from the table that was copied", where=str(lake.location(table)))
        rows[table] = sum(here.values())
    return rows
