"""Writes the log of a table anew from what is known of some of its versions, when the log was lost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from jobs.durable import sync
from jobs.lake.place import LOG, log_folder

_PLAIN: dict[str, Any] = {"minReaderVersion": 1, "minWriterVersion": 2}
_WITHOUT_ZONE: dict[str, Any] = {
    "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["timestampNtz"],
    "writerFeatures": ["timestampNtz"],
}  # fmt: skip
_CONFIGURATION = {"delta.logRetentionDuration": "interval 36500 days", "delta.checkpointInterval": "10"}
# The value that a folder's name gives to null.
_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class KnownFile:
    """A data file of a version; `path` is relative to the table's folder, spelt as on disk."""

    path: str
    size: int
    rows: int


@dataclass(frozen=True)
class KnownVersion:
    """A version of a lost log: when it was made, its columns (name and Delta type), partitions and data files."""

    number: int
    at: datetime
    columns: Mapping[str, str]
    partitions: tuple[str, ...]
    files: tuple[KnownFile, ...]


def rewrite_log(table: str, table_id: str, versions: Sequence[KnownVersion], before: Path | None = None) -> None:
    """Write the log of a table whose folder has none, so that the known versions have their numbers and files again.

    The versions between them are as the one before, and the next commit follows the last one. Files are listed whether
    they are there or not: a version that lacks one cannot be read, and no other version takes its number.

    Args:
        table: the table.
        table_id: the Delta id that it had.
        versions: what is known, in the order of their numbers; at least one.
        before: what is left of the folder with the lost log, which may still describe files and columns better.
    """
    log = log_folder(table)
    log.mkdir(parents=True)
    old = list(_actions(before / LOG)) if before else []
    added = {unquote(action["add"]["path"]): action["add"] for action in old if "add" in action}
    metadata = [action["metaData"] for action in old if "metaData" in action]
    known = {version.number: version for version in versions}
    current, listed, schema = versions[0], dict[str, KnownFile](), ""
    for number in range(versions[-1].number + 1):
        current = known.get(number, current)
        stamp = int(current.at.timestamp() * 1000)
        lines: list[dict[str, Any]] = [{"commitInfo": {"timestamp": stamp, "operation": "WRITE"}}]
        described = _metadata(table_id, current, metadata, stamp)
        if number == 0:
            lines.append({"protocol": _protocol(versions)})
        if described["schemaString"] != schema:
            schema = described["schemaString"]
            lines.append({"metaData": described})
        files = {file.path: file for file in current.files} if number in known else listed
        gone = [{"path": _spelt(p), "deletionTimestamp": stamp, "dataChange": True} for p in listed if p not in files]
        new = [_add(file, current, added, stamp) for path, file in files.items() if path not in listed]
        lines += [{"remove": action} for action in gone] + [{"add": action} for action in new]
        listed = files
        file = log / f"{number:020d}.json"
        file.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines), encoding="utf-8")
        sync(file)
    for folder in (log, log.parent, log.parent.parent):
        sync(folder)


def _actions(log: Path) -> Iterable[dict[str, Any]]:
    """Every action that the commits of a damaged log still hold."""
    for file in sorted(log.glob("*.json")):
        for line in file.read_bytes().splitlines():
            try:
                action = json.loads(line)
            except ValueError:
                continue
            if isinstance(action, dict):
                yield action


def _metadata(table_id: str, version: KnownVersion, old: list[dict[str, Any]], stamp: int) -> dict[str, Any]:
    """What describes the columns of a version: as the lost log had it, if that is left, else from what is known."""
    for described in reversed(old):
        try:
            fields = json.loads(described["schemaString"])["fields"]
            columns = {f["name"]: _type_text(f["type"]) for f in fields}
        except (KeyError, TypeError, ValueError):
            continue
        same = columns == version.columns and tuple(described.get("partitionColumns") or ()) == version.partitions
        if same and described.get("id") == table_id:
            return dict(described)
    fields = [
        {"name": name, "type": _type(kind), "nullable": True, "metadata": {}} for name, kind in version.columns.items()
    ]
    return {
        "id": table_id,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": fields}, separators=(",", ":")),
        "partitionColumns": list(version.partitions),
        "configuration": _CONFIGURATION,
        "createdTime": stamp,
    }


def _protocol(versions: Iterable[KnownVersion]) -> dict[str, Any]:
    without_zone = any("timestamp_ntz" in kind for version in versions for kind in version.columns.values())
    return _WITHOUT_ZONE if without_zone else _PLAIN


def _add(file: KnownFile, version: KnownVersion, added: dict[str, dict[str, Any]], stamp: int) -> dict[str, Any]:
    before = added.get(file.path)
    if before and before.get("size") == file.size:
        return before | {"dataChange": True}
    values = dict(part.split("=", 1) for part in file.path.split("/")[:-1] if "=" in part)
    named = {unquote(name): unquote(value) for name, value in values.items()}
    partition = {name: None if named.get(name) == _NULL else named.get(name) for name in version.partitions}
    return {
        "path": _spelt(file.path), "partitionValues": partition, "size": file.size, "modificationTime": stamp,
        "dataChange": True, "stats": json.dumps({"numRecords": file.rows}),
    }  # fmt: skip


def _spelt(path: str) -> str:
    # The log writes paths as URLs.
    return quote(path, safe="/=-_.~")


def _type(kind: str) -> Any:
    return json.loads(kind) if kind.startswith("{") else kind


def _type_text(kind: Any) -> str:
    return kind if isinstance(kind, str) else json.dumps(kind, sort_keys=True, separators=(",", ":"))
