"""Makes files survive a power cut: a file is on the disk only once it and the folder that names it are synced."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync(path: Path) -> None:
    """Have the system write a file's bytes, or a folder's names, to the disk.

    Raises:
        OSError: it is missing, or the disk failed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(file: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file, or replace it, so that it holds either its old or its new bytes whenever the machine stops.

    Raises:
        OSError: the disk is full or not writable.
    """
    with _draft(file, data, mode) as draft:
        draft.replace(file)
    sync(file.parent)


def create_durably(file: Path, data: bytes, mode: int = 0o600) -> bool:
    """Write a file under its final name, complete and on the disk, unless there is one; whether there was none.

    A link fails where a rename would replace, so of two processes that start together both use the first one's file.

    Raises:
        OSError: the disk is full or not writable.
    """
    with _draft(file, data, mode) as draft:
        try:
            file.hardlink_to(draft)
        except FileExistsError:
            return False
    sync(file.parent)
    return True


@contextmanager
def _draft(file: Path, data: bytes, mode: int) -> Iterator[Path]:
    """A synced file beside another, which disappears at the end unless it was renamed."""
    draft = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        yield draft
    finally:
        draft.unlink(missing_ok=True)
