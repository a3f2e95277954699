"""One Delta version as its log describes it: columns, files and partitions, read without an engine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jobs import lake
from jobs.errors import ExchangeError

Partition = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class LoggedFile:
    """One data file of a version; `path` is relative to the table's folder, as it stands on disk."""

    path: str
    size: int
    rows: int
    partition: Partition


@dataclass(frozen=True)
class Snapshot:
    """One version of one table; `columns` gives each column's Delta type, `files` is keyed by path."""

    table: str
    id: str
    version: int
    columns: dict[str, str]
    partitions: tuple[str, ...]
    files: dict[str, LoggedFile]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(f.rows for f in self.files.values())

    @property
    def bytes(self) -> int:
        """Size of all data files."""
        return sum(f.size for f in self.files.values())

    @property
    def business_columns(self) -> dict[str, str]:
        """The columns without the bookkeeping ones, which begin with an underscore."""
        return {name: kind for name, kind in self.columns.items() if not name.startswith("_")}


def snapshot(table: str, version: int) -> Snapshot:
    """Read the log of a table at a version.

    Raises:
        ExchangeError: that version is not there, or its files cannot be counted or certified one by one.
    """
    log = lake.delta(table, version)
    _refuse_deletion_vectors(log, table)
    metadata = log.metadata()
    fields = json.loads(log.schema().to_json())["fields"]
    return Snapshot(
        table=table,
        id=str(metadata.id),
        version=version,
        columns={f["name"]: _type_name(f["type"]) for f in fields},
        partitions=tuple(metadata.partition_columns),
        files=_files(log, table),
    )


def rows_in(file: Path) -> int:
    """Number of rows of a Parquet file, from its footer."""
    from pyarrow import parquet

    with file.open("rb") as data:
        return int(parquet.ParquetFile(data).metadata.num_rows)


def _files(log: Any, table: str) -> dict[str, LoggedFile]:
    actions = log.get_add_actions(flatten=True)
    names = [n for n in actions.schema.names if n.startswith("partition.")]
    columns = {n: actions[n].to_pylist() for n in ("path", "num_records", "size_bytes", *names)}
    found: dict[str, LoggedFile] = {}
    for i, encoded in enumerate(columns["path"]):
        # The log writes paths as URLs, so a partition value such as "a b" is escaped once on disk and twice there.
        path = unquote(encoded)
        rows = columns["num_records"][i]
        partition = tuple((n.removeprefix("partition."), _text(columns[n][i])) for n in names)
        if rows is None:
            rows = rows_in(lake.location(table) / path)
        found[path] = LoggedFile(path, columns["size_bytes"][i], rows, partition)
    return found


def _refuse_deletion_vectors(log: Any, table: str) -> None:
    if "deletionVectors" not in (log.protocol().reader_features or ()):
        return
    if len(log.deletion_vectors()):
        raise ExchangeError(
            "rows are deleted beside their files (deletion vectors), so a file's digest says nothing about its rows",
            where=table,
            expected="files that hold exactly the table's rows",
            next_step="build the table again, or run REORG TABLE … APPLY (PURGE)",
        )


def _type_name(kind: Any) -> str:
    return kind if isinstance(kind, str) else json.dumps(kind, sort_keys=True, separators=(",", ":"))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
