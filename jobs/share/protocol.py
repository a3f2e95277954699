"""Writes the lines of a Delta Sharing response, in both formats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

from jobs.share.access import Version
from jobs.share.capabilities import DELTA, PARQUET
from jobs.share.snapshot import SharedFile, SharedSnapshot

CONTENT_TYPE = "application/x-ndjson; charset=utf-8"

# Delta readers give a change feed only for tables that declare one. Ours is computed from whole files, which amounts to
# the same where nothing is updated in place. The writer version is the first to support the feature.
_CHANGE_FEED = "delta.enableChangeDataFeed"
_CHANGE_FEED_WRITER = 4


@dataclass(frozen=True)
class ChangedFile:
    """A data file that a version added or removed."""

    kind: str
    file: SharedFile
    version: Version
    held_by: Version


@dataclass(frozen=True)
class Writer:
    """Writes the lines of one response.

    Args:
        format: ``parquet`` or ``delta``.
        id_hash: the format whose hash makes the file ids.
        url_of: returns the address of a file of a release.
        expires: when the addresses stop working, in milliseconds since 1970.
    """

    format: str
    id_hash: str
    url_of: Callable[[SharedFile, Version], str]
    expires: int

    def head(self, snapshot: SharedSnapshot, *, version: int | None = None, change_feed: bool = False) -> Iterator[str]:
        """Write the protocol and the metadata; ``version`` is stated only where the client needs it."""
        yield self.protocol(snapshot, change_feed=change_feed)
        yield self.metadata(snapshot, version=version, change_feed=change_feed)

    def protocol(self, snapshot: SharedSnapshot, *, change_feed: bool = False) -> str:
        """Write what a reader must support."""
        if self.format == PARQUET:
            return _line({"protocol": {"minReaderVersion": 1}})
        return _line({"protocol": {"deltaProtocol": _delta_protocol(snapshot, change_feed)}})

    def metadata(self, snapshot: SharedSnapshot, *, version: int | None = None, change_feed: bool = False) -> str:
        """Write schema, partitioning and size."""
        facts: dict[str, Any] = {
            "id": snapshot.table_id,
            "format": {"provider": "parquet"},
            "schemaString": snapshot.schema_string,
            "partitionColumns": list(snapshot.partition_columns),
        }
        facts |= {name: text for name in ("name", "description") if (text := getattr(snapshot, name)) is not None}
        sizes = {"size": snapshot.size, "numFiles": len(snapshot.files)}
        versioned = {} if version is None else {"version": version}
        if self.format == PARQUET:
            configuration = snapshot.proof | {"enableChangeDataFeed": "true"}
            return _line({"metaData": facts | {"configuration": configuration} | versioned | sizes})
        configuration = snapshot.configuration | snapshot.proof | ({_CHANGE_FEED: "true"} if change_feed else {})
        facts |= {"format": {"provider": "parquet", "options": {}}, "configuration": configuration}
        if snapshot.created is not None:
            facts["createdTime"] = snapshot.created
        return _line({"metaData": {"deltaMetadata": facts} | versioned | sizes})

    def file(self, file: SharedFile, version: Version, *, dated: bool) -> str:
        """Write one file of a snapshot; ``dated`` adds version and time, for a client that asked for a version."""
        when = {"version": version.delta_version, "timestamp": version.milliseconds} if dated else {}
        address = self.url_of(file, version)
        if self.format == DELTA:
            return self._delta({"add": _add(file, address)}, file, when)
        return _line({"file": self._parquet(file, address) | when})

    def change(self, change: ChangedFile) -> str:
        """Write one added or removed file."""
        when = {"version": change.version.delta_version, "timestamp": change.version.milliseconds}
        address = self.url_of(change.file, change.held_by)
        if self.format == PARQUET:
            return _line({change.kind: self._parquet(change.file, address) | when})
        if change.kind == "add":
            return self._delta({"add": _add(change.file, address)}, change.file, when)
        return self._delta({"remove": _remove(change.file, address, change.version)}, change.file, when)

    def end(self) -> str:
        """Write the line that marks a complete response."""
        return _line({"endStreamAction": {"minUrlExpirationTimestamp": self.expires}})

    def _parquet(self, file: SharedFile, address: str) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "url": address,
            "id": self._id(file),
            "partitionValues": {name: value or "" for name, value in file.partition.items()},
            "size": file.size,
            "expirationTimestamp": self.expires,
        }
        statistics = _statistics(file)
        return facts | ({"stats": statistics} if statistics else {})

    def _delta(self, action: dict[str, Any], file: SharedFile, when: dict[str, int]) -> str:
        facts = {"id": self._id(file), "size": file.size, "expirationTimestamp": self.expires}
        return _line({"file": facts | when | {"deltaSingleAction": action}})

    def _id(self, file: SharedFile) -> str:
        # As in the reference server: MD5 of the path for parquet, SHA-256 for delta. Clients cache by it.
        if self.id_hash == DELTA:
            return file.key
        return hashlib.md5(file.path.encode(), usedforsecurity=False).hexdigest()


def changes_between(
    before: tuple[Version, SharedSnapshot] | None, after: tuple[Version, SharedSnapshot]
) -> Iterator[ChangedFile]:
    """Return the files that a release removed and added, compared with the one before it (None for the first release).

    A removed file is still served under the earlier release, which keeps it.
    """
    version, snapshot = after
    old = {file.path: file for file in before[1].files} if before else {}
    new = {file.path for file in snapshot.files}
    for path, file in old.items():
        if before is not None and path not in new:
            yield ChangedFile("remove", file, version, before[0])
    for file in snapshot.files:
        if file.path not in old:
            yield ChangedFile("add", file, version, version)


def body(lines: Iterable[str]) -> bytes:
    """Join lines to a response body."""
    return "".join(f"{line}\n" for line in lines).encode()


def _line(action: dict[str, Any]) -> str:
    return json.dumps(action, separators=(",", ":"), ensure_ascii=False)


def _delta_protocol(snapshot: SharedSnapshot, change_feed: bool) -> dict[str, Any]:
    writer_features = set(snapshot.writer_features)
    min_writer = snapshot.min_writer_version
    if change_feed and writer_features:
        writer_features.add("changeDataFeed")
    elif change_feed:
        min_writer = max(min_writer, _CHANGE_FEED_WRITER)
    facts: dict[str, Any] = {"minReaderVersion": snapshot.min_reader_version, "minWriterVersion": min_writer}
    if snapshot.reader_features:
        facts["readerFeatures"] = sorted(snapshot.reader_features)
    if writer_features:
        facts["writerFeatures"] = sorted(writer_features)
    return facts


def _add(file: SharedFile, address: str) -> dict[str, Any]:
    statistics = _statistics(file)
    return {
        "path": address,
        "partitionValues": file.partition,
        "size": file.size,
        "modificationTime": file.modified,
        "dataChange": True,
    } | ({"stats": statistics} if statistics else {})


def _remove(file: SharedFile, address: str, version: Version) -> dict[str, Any]:
    return {
        "path": address,
        "deletionTimestamp": version.milliseconds,
        "dataChange": True,
        "extendedFileMetadata": True,
        "partitionValues": file.partition,
        "size": file.size,
    }


def _statistics(file: SharedFile) -> str | None:
    """Write the statistics that JSON represents exactly: counts, integers, text and dates."""
    if file.rows is None:
        return None
    lower = {name: _exact(value) for name, value in file.lower.items() if _exact(value) is not None}
    upper = {name: _exact(value) for name, value in file.upper.items() if _exact(value) is not None}
    both = lower.keys() & upper.keys()
    return json.dumps(
        {
            "numRecords": file.rows,
            "minValues": {name: lower[name] for name in sorted(both)},
            "maxValues": {name: upper[name] for name in sorted(both)},
            "nullCount": {name: count for name, count in sorted(file.nulls.items()) if isinstance(count, int)},
        },
        separators=(",", ":"),
    )


def _exact(value: Any) -> Any:
    # type(), not isinstance(): a datetime is a date and a bool is an int, and neither belongs here.
    if type(value) is date:
        return value.isoformat()
    return value if type(value) in (int, str) else None
