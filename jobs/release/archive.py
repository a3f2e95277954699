"""Stores a release's folder (manifest, certificate, contract, evidence) whole, once and read-only."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from jobs.errors import ExchangeError
from jobs.release.manifest import CONTRACT_FILE, CREDENTIAL_FILE, EVIDENCE_FILE, MANIFEST_FILE, Manifest
from jobs.settings import settings

Sign = Callable[[Manifest], str]


def folder_of(product: str, number: str) -> Path:
    """Folder of a release's own files."""
    return settings().releases / product / number


def keep(manifest: Manifest, *, contract: bytes, evidence: bytes, sign: Sign) -> tuple[Manifest, str]:
    """Store a release's folder; the caller holds the product's lock.

    If a killed process left the folder unregistered, the folder is adopted, with its instant of release and run, if
    everything else in it is equal; otherwise it is replaced.

    Returns:
        The manifest and the certificate in the folder.

    Raises:
        ExchangeError: the disk is full or read-only, or the folder holds a release of another exchange.
    """
    folder = folder_of(manifest.product, manifest.release)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(folder.parent)
    if folder.exists():
        existing = _manifest_in(folder)
        if existing and existing.table.id != manifest.table.id:
            raise _of_another_table(folder)
        adopted = _adopt(existing, folder, manifest, contract, evidence, sign) if existing else None
        if adopted:
            return adopted
        _discard(folder)
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


def _contents(manifest: Manifest, token: str, contract: bytes, evidence: bytes) -> dict[str, bytes]:
    return {
        MANIFEST_FILE: manifest.encode(),
        CREDENTIAL_FILE: token.encode(),
        CONTRACT_FILE: contract,
        EVIDENCE_FILE: evidence,
    }


def _manifest_in(folder: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def _of_another_table(folder: Path) -> ExchangeError:
    """Two exchanges with their own lakes or registries in one home would destroy each other's releases."""
    return ExchangeError(
        "a release of this number already exists, made of another table",
        where=str(folder),
        expected="a separate home for each registry and lake",
        next_step="set EXCHANGE_HOME to another folder; if no exchange lists this release, move its folder away",
    )


def _adopt(
    existing: Manifest, folder: Path, manifest: Manifest, contract: bytes, evidence: bytes, sign: Sign
) -> tuple[Manifest, str] | None:
    same = manifest.model_copy(update={"released_at": existing.released_at, "run_id": existing.run_id})
    token = sign(same)
    expected = _contents(same, token, contract, evidence)
    present = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    return (same, token) if present == expected else None


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
    _sync(temporary)
    temporary.rename(folder)
    _sync(folder.parent)


def _discard(folder: Path) -> None:
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    folder.rename(aside / "discarded")
    shutil.rmtree(aside)


def _clear_leftovers(parent: Path) -> None:
    for leftover in parent.glob(".*"):
        shutil.rmtree(leftover)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
