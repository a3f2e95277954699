"""One Delta version as its log describes it: columns, files and partitions, read without an engine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jobs import lake
from jobs.errors import ExchangeError


@dataclass(frozen=True)
class Snapshot:
    """One version of one table; `columns` maps names to Delta types, `files` is keyed by path."""

    table: str
    id: str
    version: int
    columns: dict[str, str]
    partitions: tuple[str, ...]
    files: dict[str, lake.DataFile]

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
        ExchangeError: the version does not exist, or its files do not hold exactly its rows.
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
        files={file.path: file for file in lake.files_of(log, lake.location(table))},
    )


def _refuse_deletion_vectors(log: Any, table: str) -> None:
    if "deletionVectors" not in (log.protocol().reader_features or ()):
        return
    if len(log.deletion_vectors()):
        raise ExchangeError(
            "the table has deletion vectors, so a file's digest does not determine its rows",
            where=table,
            expected="files that hold exactly the table's rows",
            next_step="rebuild the table, or run REORG TABLE … APPLY (PURGE)",
        )


def _type_name(kind: Any) -> str:
    return kind if isinstance(kind, str) else json.dumps(kind, sort_keys=True, separators=(",", ":"))
