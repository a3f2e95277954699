"""Keeps every file as received, named by its sha256 and never changed, so that everything else can be rebuilt.

Bytes are kept once. A manifest is kept of each of their arrivals.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from jobs.durable import sync
from jobs.errors import Tampered, disk_full
from jobs.lake import objects
from jobs.land.fetched import Fetched, StillWritten, version_of
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
        is_new: False if a killed process left the manifest; not part of it.
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


@dataclass(frozen=True)
class Received:
    """A private copy of a fetched file, which `keep` turns into a landed one.

    Attributes:
        sha256, size: of the copied bytes.
    """

    fetched: Fetched
    source: str
    logical_date: datetime
    sha256: str
    size: int
    draft: _Draft

    def keep(self, path: str | None = None, arrival: int = 1, after: datetime | None = None) -> LandedFile:
        """Keep the bytes, unless they are kept already, with a manifest of this arrival.

        Bytes and manifest appear under their final names complete or not at all, and never replace anything: a process
        killed at any instant and run again ends with the same files. A manifest that such a process left is returned,
        with ``is_new`` False.

        Args:
            path: where the bytes are kept since an earlier arrival, relative to ``settings().store``.
            arrival: which arrival of these bytes this is.
            after: when the address last served something else; an older manifest belongs to an earlier arrival.

        Raises:
            ExchangeError: the disk is full or not writable.
            Tampered: other content is stored under the name that these bytes would have.
        """
        folder = _folder(self.source, self.logical_date)
        try:
            landed = self._landed(path or self._keep_bytes(folder))
            return self._keep_manifest(landed, folder, arrival, after)
        except OSError as error:
            raise disk_full(error, folder) from error

    def _keep_bytes(self, folder: Path) -> str:
        target = folder / _name(self.sha256, self.fetched.file_name)
        if not self.draft.keep_as(target):
            _require_size(target, self.size)
        return f"landing/{self.source}/{self.logical_date:%Y/%m/%d}/{target.name}"

    def _keep_manifest(self, landed: LandedFile, folder: Path, arrival: int, after: datetime | None) -> LandedFile:
        text = _manifest_text(landed).encode()
        for number in itertools.count(arrival):
            manifest = folder / f"{self.sha256}{f'.{number}' if number > 1 else ''}{_MANIFEST}"
            if _kept_new(manifest, text):
                return landed
            earlier = _read_manifest(manifest)
            same = (earlier.url, earlier.file_name) == (landed.url, landed.file_name)
            if same and (after is None or earlier.fetched_at > after):
                return replace(earlier, path=landed.path, is_new=False)
        raise AssertionError("unreachable: the numbers do not end")

    def _landed(self, path: str) -> LandedFile:
        return LandedFile(
            source=self.source, sha256=self.sha256, path=path, file_name=self.fetched.file_name, url=self.fetched.url,
            size=self.size, etag=self.fetched.etag, published_at=self.fetched.published_at,
            fetched_at=datetime.now(UTC), logical_date=self.logical_date, facts=dict(self.fetched.facts),
        )  # fmt: skip


@contextmanager
def received(fetched: Fetched, source: str, logical_date: datetime) -> Iterator[Received]:
    """Copy a fetched file, and compute the sha256 of what was copied; the copy goes away unless it is kept.

    Args:
        fetched: the file, which stays where it is.
        source: the source's name.
        logical_date: the date that the run works on, timezone-aware.

    Raises:
        ExchangeError: the disk is full or not writable.
        StillWritten: the file changed meanwhile.
    """
    logical_date = logical_date.astimezone(UTC)
    folder = settings().home / "scratch" if settings().is_remote else _folder(source, logical_date)
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _clear_abandoned(folder)
            draft = stack.enter_context(_Draft(folder))
            sha256, size = _copied(fetched, draft.file)
        except OSError as error:
            raise disk_full(error, folder) from error
        yield Received(fetched, source, logical_date, sha256, size, draft)


def _copied(fetched: Fetched, target: BinaryIO) -> tuple[str, int]:
    with fetched.content() as original:
        before = version_of(os.fstat(original.fileno()))
        sha256 = hashlib.sha256()
        while data := original.read(_CHUNK):
            sha256.update(data)
            target.write(data)
        size = target.tell()
        if version_of(os.fstat(original.fileno())) != before or size != before[0]:
            raise StillWritten
    return sha256.hexdigest(), size


def _folder(source: str, logical_date: datetime) -> Path:
    return settings().landing / source / f"{logical_date:%Y/%m/%d}"


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


def _kept_new(target: Path, data: bytes) -> bool:
    """Write a small file unless its name is taken; return whether it was free."""
    if settings().is_remote:
        return objects.put_if_absent(target, data)
    with _Draft(target.parent) as draft:
        draft.file.write(data)
        return draft.keep_as(target)


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
        if settings().is_remote:
            return objects.put_if_absent(target, self._path)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.fchmod(self.file.fileno(), 0o444)
        os.fsync(self.file.fileno())
        try:
            target.hardlink_to(self._path)
        except FileExistsError:
            return False
        sync(target.parent)
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
