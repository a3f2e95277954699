"""Keeps every file as received, named by its sha256 and never changed, so that everything else can be rebuilt."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from jobs.errors import Tampered, disk_full
from jobs.lake import objects
from jobs.land.fetched import Fetched
from jobs.settings import settings

_CHUNK = 1 << 20
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}(?:\.(?:gz|bz2|xz|zst))?$")
_MANIFEST = ".manifest.json"
_YOUNG = 2.0
_TIMES = ("published_at", "fetched_at", "logical_date")


@dataclass(frozen=True, slots=True)
class LandedFile:
    """One file in landing, as its manifest describes it.

    Attributes:
        path: path of the bytes, relative to ``settings().store``.
        size: bytes.
        published_at, fetched_at, logical_date: instants in UTC.
        facts: other facts from the connector.
        is_new: False if these bytes had already landed under that logical date; not part of the manifest.
    """

    source: str
    sha256: str
    path: str
    file_name: str
    url: str
    size: int
    etag: str | None
    published_at: datetime | None
    fetched_at: datetime
    logical_date: datetime
    facts: Mapping[str, str] = field(default_factory=dict)
    is_new: bool = True

    @property
    def file(self) -> Path:
        """Where the bytes are."""
        return settings().store / self.path


def store(fetched: Fetched, source: str, logical_date: datetime) -> LandedFile:
    """Copy a fetched file into landing, with its manifest beside it.

    Bytes and manifest appear under their final names complete or not at all, and never replace anything: a process
    killed at any instant and run again ends with the same files. Storing the same bytes for the same date again
    returns the first manifest, with ``is_new`` False.

    Args:
        fetched: the file, which stays where it is.
        source: the source's name.
        logical_date: the date that the run works on, timezone-aware.

    Raises:
        ExchangeError: the disk is full or not writable.
        Tampered: other content is stored under the name that these bytes would have.
    """
    logical_date = logical_date.astimezone(UTC)
    folder = settings().landing / source / f"{logical_date:%Y/%m/%d}"
    if settings().is_remote:
        return _uploaded(fetched, source, logical_date, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(folder)
        return _stored(fetched, source, logical_date, folder)
    except OSError as error:
        raise disk_full(error, folder) from error


def manifests(source: str) -> Iterator[LandedFile]:
    """Yield every file ever landed for a source, by logical date and then by time of fetching.

    Raises:
        Tampered: a manifest cannot be read.
    """
    folder = settings().landing / source
    files = [_read_manifest(path) for path in folder.glob(f"*/*/*/*{_MANIFEST}")]
    yield from sorted(files, key=lambda landed: (landed.logical_date, landed.fetched_at, landed.sha256))


def names(source: str) -> dict[str, str]:
    """The sha256 of each of a source's files in landing, by its path as the registry records it.

    Only folders are listed and no file is read; files that are still being written are left out.
    """
    folder = settings().landing / source
    paths = (file.name for file in objects.listed(folder))
    named = ((path, path.rpartition("/")[2]) for path in paths)
    return {f"{settings().landing.name}/{source}/{path}": name[:64] for path, name in named if name[0] != "."}


def verify(landed: LandedFile) -> None:
    """Recompute the sha256 of landed bytes.

    Raises:
        Tampered: the bytes are missing or have changed since they landed.
    """
    next_step = "restore the file from a backup; `exchange rebuild` compares what was built from it"
    try:
        sha256 = objects.sha256_of(landed.file)
    except FileNotFoundError as error:
        raise Tampered("the landed bytes are missing", where=landed.path, next_step=next_step) from error
    if sha256 != landed.sha256:
        raise Tampered(
            f"the landed bytes changed: their sha256 is {sha256}",
            where=landed.path,
            expected=landed.sha256,
            next_step=next_step,
        )


def _stored(fetched: Fetched, source: str, logical_date: datetime, folder: Path) -> LandedFile:
    with fetched.path.open("rb") as original, _Draft(folder) as draft:
        sha256 = hashlib.sha256()
        while data := original.read(_CHUNK):
            sha256.update(data)
            draft.file.write(data)
        size = draft.file.tell()
        target = folder / _name(sha256.hexdigest(), fetched.file_name)
        if not draft.keep_as(target):
            _require_size(target, size)
    landed = _landed(fetched, source, logical_date, target, sha256.hexdigest(), size)
    manifest = folder / f"{landed.sha256}{_MANIFEST}"
    with _Draft(folder) as draft:
        draft.file.write(_manifest_text(landed).encode())
        is_new = draft.keep_as(manifest)
    return landed if is_new else replace(_read_manifest(manifest), is_new=False)


def _uploaded(fetched: Fetched, source: str, logical_date: datetime, folder: Path) -> LandedFile:
    # A file that changed during the upload would no longer match the sha256 in its name.
    with _private_copy(fetched.path) as original:
        sha256, size = objects.sha256_of(original), original.stat().st_size
        target = folder / _name(sha256, fetched.file_name)
        if not objects.put_if_absent(target, original):
            _require_size(target, size)
    landed = _landed(fetched, source, logical_date, target, sha256, size)
    manifest = folder / f"{sha256}{_MANIFEST}"
    is_new = objects.put_if_absent(manifest, _manifest_text(landed).encode())
    return landed if is_new else replace(_read_manifest(manifest), is_new=False)


@contextmanager
def _private_copy(path: Path) -> Iterator[Path]:
    """A copy of a file that no other process writes to."""
    scratch = settings().home / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        copy = Path(folder) / "landing"
        try:
            shutil.copyfile(path, copy)
        except OSError as error:
            raise disk_full(error, scratch) from error
        yield copy


def _name(sha256: str, file_name: str) -> str:
    suffix = _SUFFIX.search(file_name.lower())
    return f"{sha256}{suffix.group() if suffix else ''}"


def _require_size(target: Path, size: int) -> None:
    actual = target.stat().st_size
    if actual != size:
        raise Tampered(
            f"the landed bytes changed: their size is {actual} bytes",
            where=str(target),
            expected=f"{size} bytes",
            next_step="restore the file from a backup",
        )


def _landed(
    fetched: Fetched, source: str, logical_date: datetime, target: Path, sha256: str, size: int
) -> LandedFile:  # fmt: skip
    return LandedFile(
        source=source,
        sha256=sha256,
        path=f"landing/{source}/{logical_date:%Y/%m/%d}/{target.name}",
        file_name=fetched.file_name,
        url=fetched.url,
        size=size,
        etag=fetched.etag,
        published_at=fetched.published_at,
        fetched_at=datetime.now(UTC),
        logical_date=logical_date,
        facts=dict(fetched.facts),
    )


def _manifest_text(landed: LandedFile) -> str:
    values = {name: getattr(landed, name) for name in landed.__dataclass_fields__ if name != "is_new"}
    for name in _TIMES:
        values[name] = values[name].isoformat() if values[name] else None
    return json.dumps(values, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def _read_manifest(path: Path) -> LandedFile:
    try:
        values = json.loads(path.read_bytes())
        for name in _TIMES:
            values[name] = datetime.fromisoformat(values[name]) if values[name] else None
        return LandedFile(**values)
    except (ValueError, TypeError, KeyError) as error:
        raise Tampered(
            f"not a manifest ({error})",
            where=str(path),
            expected="the JSON written when the file landed",
            next_step="restore it from a backup",
        ) from error


class _Draft:
    """A file under a temporary name, locked while its writer lives and deleted unless it is kept."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f".{uuid.uuid4().hex}.part"

    def __enter__(self) -> _Draft:
        self.file: BinaryIO = self._path.open("xb")
        fcntl.flock(self.file, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._path.unlink(missing_ok=True)
        finally:
            self.file.close()

    def keep_as(self, target: Path) -> bool:
        """Give the file its final name unless that is taken; return whether it was free."""
        self.file.flush()
        os.fchmod(self.file.fileno(), 0o444)
        os.fsync(self.file.fileno())
        try:
            target.hardlink_to(self._path)
        except FileExistsError:
            return False
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return True


def _clear_abandoned(folder: Path) -> None:
    """Remove drafts whose writer died. A living writer holds a lock, which it takes just after creating its draft."""
    for path in folder.glob(".*.part"):
        try:
            if path.stat().st_mtime > time.time() - _YOUNG:
                continue
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError):
            continue
