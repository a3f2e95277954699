"""Stores a release's folder (manifest, certificate, contract, evidence) whole, once and read-only."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from jobs.durable import sync
from jobs.errors import ExchangeError
from jobs.release.manifest import (
    CONTRACT_FILE,
    CREDENTIAL_FILE,
    EVIDENCE_FILE,
    MANIFEST_FILE,
    Manifest,
    parse_number,
)
from jobs.settings import settings

Sign = Callable[[Manifest], str]


def folder_of(product: str, number: str) -> Path:
    """Folder of a release's own files."""
    return settings().releases / product / number


def events_file(product: str, number: str) -> Path:
    """Where recalls of a release are stored, beside its folder, which never changes."""
    return settings().releases / product / f"{number}.recalls.json"


def keep(manifest: Manifest, *, contract: bytes, evidence: bytes, sign: Sign) -> tuple[Manifest, str]:
    """Store a release's folder; the caller holds the product's lock.

    A folder that is there already is never touched: buyers may hold its certificate. `jobs.release.unrecorded` records
    it first, so its number is taken.

    Returns:
        The manifest and the certificate in the folder.

    Raises:
        ExchangeError: the disk is full or read-only, or a release of this number is there already.
    """
    folder = folder_of(manifest.product, manifest.release)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(folder.parent)
    if folder.exists():
        raise ExchangeError(
            "a release of this number already exists, and the registry does not list it",
            where=str(folder),
            expected="a number that was never given out",
            next_step="run the release again; if this persists: exchange registry rebuild",
        )
    try:
        token = sign(manifest)
        _place(folder, _contents(manifest, token, contract, evidence))
    except OSError as error:
        raise ExchangeError(
            f"the release cannot be written: {error.strerror}",
            where=str(folder.parent),
            expected="a folder with free space that this user can write to",
            next_step="free some space and run the release again; nothing was released",
        ) from error
    return manifest, token


def stored_numbers(product: str) -> list[tuple[int, int, int]]:
    """The numbers of a product's stored releases, the oldest first."""
    root = settings().releases / product
    names = (folder.name for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else ()
    return sorted(number for name in names if (number := parse_number(name)))


def stored_products() -> list[str]:
    """The products of which any release is stored."""
    root = settings().releases
    return sorted(folder.name for folder in root.iterdir() if stored_numbers(folder.name)) if root.is_dir() else []


def _contents(manifest: Manifest, token: str, contract: bytes, evidence: bytes) -> dict[str, bytes]:
    return {
        MANIFEST_FILE: manifest.encode(),
        CREDENTIAL_FILE: token.encode(),
        CONTRACT_FILE: contract,
        EVIDENCE_FILE: evidence,
    }


def _place(folder: Path, contents: dict[str, bytes]) -> None:
    """Write all files under a temporary name, and rename the folder, so that it appears whole or not at all."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    for name, data in contents.items():
        with (temporary / name).open("xb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        (temporary / name).chmod(0o444)
    temporary.chmod(0o755)
    sync(temporary)
    temporary.rename(folder)
    sync(folder.parent)


def _clear_leftovers(parent: Path) -> None:
    """Remove what killed processes left: folders of releases, and drafts of the records of recalls."""
    for leftover in parent.glob(".*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
