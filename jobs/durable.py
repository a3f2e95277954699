"""Makes files survive a power cut: a file is on the disk only once it and the folder that names it are synced."""

from __future__ import annotations

import os
import secrets
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
    draft = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    sync(file.parent)
