"""Opens a SQLite registry where this user cannot write: a backup, a snapshot, another user's home."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote


def is_read_only(file: Path) -> bool:
    """Whether a file is there that cannot be written, or whose folder cannot, which SQLite needs as much."""
    return file.is_file() and not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK))


def connect(file: Path, **options: Any) -> sqlite3.Connection:
    """Connect to a database for reading only.

    SQLite reads the write-ahead log by an index in shared memory, which is beside the file while others use it. Without
    one, a file with an empty log is complete; of one with a log, a private copy is made, because what the log has would
    be missed without a word.

    Args:
        file: the database.
        options: of the driver's `connect`.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    try:
        connection = _connect(file, "mode=ro", options)
        try:
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1")
        except sqlite3.Error:
            connection.close()
            raise
    except sqlite3.OperationalError as error:
        if "unable to open" not in str(error) and "readonly" not in str(error):
            raise
        return _connect(_complete(file), "mode=ro&immutable=1", options)
    return connection


def _connect(file: Path, how: str, options: dict[str, Any]) -> sqlite3.Connection:
    connection: sqlite3.Connection = sqlite3.connect(f"file:{quote(str(file))}?{how}", uri=True, **options)
    return connection


def _complete(file: Path) -> Path:
    log = _log(file)
    return _copy(file, os.getpid()) if log.is_file() and log.stat().st_size else file


@lru_cache(maxsize=4)
def _copy(file: Path, _process: int) -> Path:
    folder = tempfile.TemporaryDirectory(prefix="exchange-registry-")
    _kept.append(folder)
    copy = Path(folder.name) / file.name
    for original in (file, _log(file)):
        shutil.copyfile(original, copy.with_name(original.name))
    connection = sqlite3.connect(copy)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return copy


def _log(file: Path) -> Path:
    return file.with_name(f"{file.name}-wal")


# Removed when the process ends.
_kept: list[tempfile.TemporaryDirectory[str]] = []
