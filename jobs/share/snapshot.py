"""Describes a released version of a table from its Delta log and manifest; neither ever changes, so it is cached."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from jobs import lake
from jobs.errors import Tampered
from jobs.registry.releases import pinned
from jobs.release.manifest import canonical, description, digest
from jobs.settings import settings
from jobs.share.errors import unsupported

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Deletion vectors and column mapping change what a data file means: a client that does not support them would read
# deleted rows or wrong columns. Tables for release are built without them.
SAFE_FEATURES = frozenset({"timestampNtz"})


@dataclass(frozen=True)
class SharedFile:
    """One Parquet file of a version, with the log's statistics of its rows."""

    path: str
    size: int
    sha256: str
    modified: int
    partition: dict[str, str | None]
    rows: int | None
    nulls: dict[str, Any]
    lower: dict[str, Any]
    upper: dict[str, Any]

    @cached_property
    def key(self) -> str:
        """Identifies this file within its table, in tickets and as its id."""
        return hashlib.sha256(self.path.encode()).hexdigest()


@dataclass(frozen=True)
class SharedSnapshot:
    """A released version of a table."""

    folder: Path
    min_reader_version: int
    min_writer_version: int
    reader_features: frozenset[str]
    writer_features: frozenset[str]
    table_id: str
    name: str | None
    description: str | None
    schema_string: str
    partition_columns: tuple[str, ...]
    configuration: dict[str, str]
    proof: dict[str, str]
    created: int | None
    files: tuple[SharedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @cached_property
    def types(self) -> dict[str, Any]:
        """Type of each top-level column, as the schema spells it."""
        return {column["name"]: column["type"] for column in json.loads(self.schema_string)["fields"]}

    @cached_property
    def by_key(self) -> dict[str, SharedFile]:
        """The files by the key that tickets use."""
        return {file.key: file for file in self.files}


def shared_snapshot(release_id: int) -> SharedSnapshot:
    """Return the version that a release pins, from its manifest and the Delta log.

    Raises:
        Tampered: log, manifest and files on disk disagree.
        ShareError: the table uses a Delta feature that is not shared.
    """
    release = _Release(settings().registry_url, settings().lake / "gold", release_id)
    # Many ask for a new release at once; one of them reads its log.
    with _reading_log(release):
        return _snapshot(release)


@dataclass(frozen=True)
class _Release:
    """Cache key of a snapshot: a release's number is unique in one registry only."""

    registry_url: str
    gold: Path
    number: int


@lru_cache(maxsize=1024)
def _reading_log(_release: _Release) -> threading.Lock:
    return threading.Lock()


@lru_cache(maxsize=128)
def _snapshot(release: _Release) -> SharedSnapshot:
    content = pinned(release.number)
    product, version = content.product, content.delta_version
    folder = release.gold / product
    table = lake.delta(f"gold.{product}", version)
    protocol, metadata = table.protocol(), table.metadata()
    features = frozenset(protocol.reader_features or ())
    if features - SAFE_FEATURES or protocol.min_reader_version == 2:
        raise unsupported(f"{product} version {version} uses features that cannot be shared: {', '.join(features)}")
    return SharedSnapshot(
        folder=folder,
        min_reader_version=protocol.min_reader_version,
        min_writer_version=protocol.min_writer_version,
        reader_features=features,
        writer_features=frozenset(protocol.writer_features or ()),
        table_id=str(metadata.id),
        name=metadata.name,
        description=_description(content.manifest) or metadata.description,
        schema_string=table.schema().to_json(),
        partition_columns=tuple(metadata.partition_columns),
        configuration=dict(metadata.configuration),
        proof=_proof(content.manifest),
        created=metadata.created_time,
        files=_files(table, folder, content.manifest),
    )


def _description(manifest: dict[str, Any]) -> str | None:
    """Return the release's own description; older releases have no cautions."""
    title = manifest.get("title")
    return description(title, manifest.get("cautions", ())) if title else None


def _proof(manifest: dict[str, Any]) -> dict[str, str]:
    """What a release's manifest says of it, as entries of the table's configuration; older manifests say less."""
    licence, quality = manifest.get("licence", {}), manifest.get("expectations", {})
    sources = {source["source"]: source["licence"]["id"] for source in manifest.get("sources", ())}
    facts = {
        "release": manifest.get("release"),
        "releasedAt": manifest.get("released_at"),
        "grade": quality.get("grade"),
        "score": quality.get("score"),
        "licence": licence.get("id"),
        "licenceUrl": licence.get("url"),
        "sourceLicences": sources or None,
        "cautions": manifest.get("cautions"),
        "manifestSha256": digest(canonical(manifest)),
        "contentSha256": manifest.get("content", {}).get("sha256"),
        "contractSha256": manifest.get("contract", {}).get("sha256"),
        "evidenceSha256": quality.get("result_sha256"),
    }
    return {f"exchange.{name}": _text(fact) for name, fact in facts.items() if fact is not None}


def _text(fact: Any) -> str:
    """A fact as text: what is not text already as JSON."""
    return fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)


def _files(table: DeltaTable, folder: Path, manifest: dict[str, Any]) -> tuple[SharedFile, ...]:
    listed = {_on_disk(folder, entry["path"]): entry for entry in manifest["files"]}
    files = []
    for action in _actions(table):
        path = _on_disk(folder, action["path"])
        entry = listed.get(path)
        if entry is None or entry["size"] != action["size_bytes"]:
            raise Tampered(
                "a file of this version differs from its release's manifest",
                where=str(folder / path),
                next_step="run `exchange verify` on the release",
            )
        files.append(_file(path, action, entry["sha256"]))
    if len(files) != len(listed):
        raise Tampered("the manifest lists files that this version does not have", where=str(folder))
    return tuple(sorted(files, key=lambda file: file.path))


def _actions(table: DeltaTable) -> list[dict[str, Any]]:
    actions = pa.RecordBatchReader.from_stream(table.get_add_actions(flatten=False)).read_all()
    try:
        rows: list[dict[str, Any]] = actions.to_pylist()
    except (ValueError, OverflowError):
        # Statistics may hold dates that Python cannot represent; files are then served without statistics.
        rows = actions.drop_columns(["min", "max"]).to_pylist()
    return rows


def _file(path: str, action: dict[str, Any], sha256: str) -> SharedFile:
    return SharedFile(
        path=path,
        size=action["size_bytes"],
        sha256=sha256,
        modified=action["modification_time"],
        partition={name: _serialised(value) for name, value in (action.get("partition") or {}).items()},
        rows=action["num_records"],
        nulls=action.get("null_count") or {},
        lower=action.get("min") or {},
        upper=action.get("max") or {},
    )


def _on_disk(folder: Path, path: str) -> str:
    # The log spells paths as parts of an address: a partition value with a space or a colon is percent-encoded once
    # more than its folder is. A path that leaves the table's folder is never followed.
    for candidate in (unquote(path), path):
        place = (folder / candidate).resolve()
        if place.is_file() and place.is_relative_to(folder.resolve()):
            return candidate
    raise Tampered("a file of a release is missing", where=str(folder / path), next_step="restore it from a copy")


def _serialised(value: Any) -> str | None:
    """Write a partition value as the protocol does."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        text = value.strftime("%Y-%m-%d %H:%M:%S")
        return f"{text}.{value.microsecond:06d}" if value.microsecond else text
    if isinstance(value, date):
        return value.isoformat()
    return str(value)
