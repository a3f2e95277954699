"""Reads tables' logs, without an engine: versions, files, columns, and what changed between two versions."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from jobs.declared.sql import literal, quote
from jobs.errors import ExchangeError
from jobs.lake import commits, objects
from jobs.lake.place import location, log_folder, storage_options

if TYPE_CHECKING:
    from deltalake import DeltaTable

# The value of each partition column, as text.
Partition = tuple[tuple[str, str | None], ...]

# A table's log is read by one thread at a time: what is brought up to date for one would change under the other.
_reading: dict[str, threading.RLock] = {}
# The newest log of each table that this process has read, updated at each use.
_newest: dict[tuple[str, int, int], DeltaTable] = {}
# Files of the versions asked for last; a version never changes.
_listed: dict[tuple[str, int, int, int], tuple[DataFile, ...]] = {}
_LISTS_KEPT = 8
# Versions whose commits this process has found whole.
_whole: set[tuple[str, int, int, int]] = set()
_listing = threading.Lock()
MADE_BY = "exchange.made_by"


def _after_fork_in_child() -> None:
    # Other threads of the parent may have held them at the fork; in the child, no thread would release them.
    global _listing
    _listing = threading.Lock()
    _reading.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


@dataclass(frozen=True)
class DataFile:
    """One data file of a table's version, as its log describes it; `path` is relative to the table's folder."""

    path: str
    rows: int
    size: int
    partition: Partition


def exists(table: str) -> bool:
    """Whether the table has been created."""
    folder = log_folder(table)
    return folder.is_dir() and any(folder.glob("*.json"))


def delta(table: str, version: int | None = None) -> DeltaTable:
    """The table's log at a version, the newest if None.

    Raises:
        ExchangeError: the table or that version of it is not there, or cannot be read.
        Tampered: a commit that the version needs is empty.
    """
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        with _one_reader(table):
            found = _newest_log(table) if version is None else _log_at(table, version)
            _require_whole(table, found.version())
            return found
    except (TableNotFoundError, DeltaError) as error:
        raise ExchangeError(
            f"{table} has no version {version}" if version is not None else f"the log of {table} cannot be read",
            where=str(location(table)),
            expected="a Delta table whose log has it",
            next_step=f"restore the table's folder from a backup, or run: exchange rebuild {table}",
        ) from error


def _one_reader(table: str) -> threading.RLock:
    return _reading.setdefault(str(location(table)), threading.RLock())


def _newest_log(table: str) -> DeltaTable:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    key = _identity(table)
    if key in _newest:
        # The commits that would update a log read long ago may have been removed since.
        with suppress(DeltaError):
            _newest[key].update_incremental()
            return _newest[key]
    _newest[key] = DeltaTable(str(location(table)), storage_options=storage_options())
    return _newest[key]


def _log_at(table: str, version: int) -> DeltaTable:
    from deltalake.exceptions import DeltaError

    # A damaged later commit does not take away the versions before it.
    with suppress(DeltaError):
        newest = _newest_log(table)
        if newest.version() == version:
            return newest
    return _older_log(*_identity(table), version)


def _require_whole(table: str, version: int) -> None:
    key = (*_identity(table), version)
    if key not in _whole:
        commits.require_whole(table, version)
        _whole.add(key)


# A version never changes.
@lru_cache(maxsize=16)
def _older_log(folder: str, _created: int, _process: int, version: int) -> DeltaTable:
    from deltalake import DeltaTable

    return DeltaTable(folder, version=version, storage_options=storage_options())


def put_torn_aside(table: str, after: int = -1) -> bool:
    """As `commits.put_torn_aside`, and forget what this process has read of the log."""
    moved = commits.put_torn_aside(table, after)
    if moved:
        drop_cached_logs()
    return moved


def drop_cached_logs() -> None:
    """Drop all logs that this process has read, so that the next look sees what others have done to them since."""
    _newest.clear()
    _listed.clear()
    _whole.clear()
    _older_log.cache_clear()


def _identity(table: str) -> tuple[str, int, int]:
    """Distinguishes a table from another that is, or was, in the same place, within this process."""
    first = log_folder(table) / f"{0:020d}.json"
    return str(location(table)), int(first.stat().st_mtime * 1e6) if first.exists() else 0, os.getpid()


def version(table: str) -> int | None:
    """The newest version's number, or None if the table was never created."""
    return delta(table).version() if exists(table) else None


def made_by(table: str) -> str:
    """Digest of the declarations by which the newest version's rows were made; empty if unrecorded."""
    with _one_reader(table):
        return str(delta(table).metadata().configuration.get(MADE_BY) or "")


def files(table: str, at: int | None = None) -> tuple[DataFile, ...]:
    """The data files of a version, from its log."""
    with _one_reader(table):
        log = delta(table, at)
        key = (*_identity(table), log.version())
        listed = _listed.get(key)
        if listed is None:
            listed = files_of(log, location(table))
    with _listing:
        while key not in _listed and len(_listed) >= _LISTS_KEPT:
            _listed.pop(next(iter(_listed)))
        _listed[key] = listed
    return listed


def files_of(log: DeltaTable, folder: Path) -> tuple[DataFile, ...]:
    """The data files that a log lists at its version.

    Args:
        log: the log.
        folder: the table's; rows are counted in the files there where the log does not say how many they have.
    """
    actions = log.get_add_actions(flatten=True)
    names = [n for n in actions.schema.names if n.startswith("partition.")]
    columns = {n: actions[n].to_pylist() for n in ("num_records", "size_bytes", *names)}
    # The log writes paths as URLs, so a partition value like "a b" is escaped once on disk and twice there.
    paths = map(unquote, actions["path"].to_pylist())
    return tuple(
        DataFile(
            path=path,
            rows=rows_in(folder / path) if columns["num_records"][i] is None else columns["num_records"][i],
            size=columns["size_bytes"][i],
            partition=tuple((n.removeprefix("partition."), _text(columns[n][i])) for n in names),
        )
        for i, path in enumerate(paths)
    )


def files_in(folder: Path) -> tuple[DataFile, ...]:
    """The data files of the newest version of a table in some other lake on this machine's disks."""
    from deltalake import DeltaTable

    return files_of(DeltaTable(str(folder)), folder)


def rows_in(file: Path) -> int:
    """Number of rows of a Parquet file, from its footer."""
    from pyarrow import parquet

    with objects.reader(file) as data:
        return int(parquet.ParquetFile(data).metadata.num_rows)


def rows(table: str, at: int | None = None) -> int:
    """Number of rows of a version, from its log."""
    return sum(f.rows for f in files(table, at))


def changed_partitions(table: str, since: int, until: int) -> tuple[Partition, ...]:
    """Partitions whose files differ between two versions, sorted; one empty tuple if the table has no partitions."""
    changed = _changed_files(table, since, until)
    if changed is None:
        before = {f.path: f.partition for f in files(table, since)}
        after = {f.path: f.partition for f in files(table, until)}
        changed = {p: before.get(p) or after.get(p) or () for p in before.keys() ^ after.keys()}
    return tuple(sorted(set(changed.values()), key=str))


def _changed_files(table: str, since: int, until: int) -> dict[str, Partition] | None:
    """Files added or removed between two versions, with their partitions, from the commits in between alone.

    So the cost is that of the commits, not of the table. None if a commit is missing or does not say enough.
    """
    first: dict[str, bool] = {}
    last: dict[str, bool] = {}
    partitions: dict[str, Partition] = {}
    names = delta(table).metadata().partition_columns
    for commit in range(since + 1, until + 1):
        file = log_folder(table) / f"{commit:020d}.json"
        if not file.exists():
            return None
        for line in file.read_text(encoding="utf-8").splitlines():
            action = json.loads(line)
            kind = "add" if "add" in action else "remove" if "remove" in action else None
            # Compaction writes other files with the same rows.
            if kind is None or action[kind].get("dataChange") is False:
                continue
            path, values = action[kind]["path"], action[kind].get("partitionValues")
            if values is None and names:
                return None
            first.setdefault(path, kind == "add")
            last[path] = kind == "add"
            partitions[path] = tuple((n, _text((values or {}).get(n))) for n in names)
    # A file whose first action is an add was not there before; one whose last is a remove is not there after.
    return {path: partitions[path] for path in first if first[path] == last[path]}


def predicate(partitions: Iterable[Partition], alias: str = "") -> str:
    """SQL that is true exactly for the rows of these partitions; it compares partition columns with literals."""
    prefix = f"{alias}." if alias else ""
    values = sorted(partitions, key=str)
    if not values:
        return "false"
    if all(len(v) == 1 and v[0][1] is not None for v in values):
        name = values[0][0][0]
        return f"{prefix}{quote(name)} in ({', '.join(literal(v[0][1]) for v in values)})"
    terms = [
        " and ".join(
            f"{prefix}{quote(n)} is null" if x is None else f"{prefix}{quote(n)} = {literal(x)}" for n, x in value
        )
        or "true"
        for value in values
    ]
    return " or ".join(f"({t})" for t in terms)


def columns_at(table: str, at: int | None = None) -> dict[str, str]:
    """Name and Delta type of each column of a version, from its log."""
    return {name: kind for name, kind, _ in described(table, at)}


def described(table: str, at: int | None = None) -> list[tuple[str, str, str]]:
    """Name, Delta type and comment of each column of a version, from its log."""
    with _one_reader(table):
        document = json.loads(delta(table, at).schema().to_json())
    fields = document["fields"]
    return [(f["name"], str(f["type"]), str((f.get("metadata") or {}).get("comment") or "")) for f in fields]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
