"""Verifies what a buyer has of a release with the exchange's public key alone: no home, no registry, no declarations.

A folder holds the release's four documents beside its data files, each under its path in the manifest, or under a name
of the buyer's own: a file is known by its digest.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from jobs import lake
from jobs.errors import NotFound, Tampered
from jobs.lake.objects import sha256_of
from jobs.release import credential
from jobs.release.did import Keys
from jobs.release.inspection import MISSING, Inspection
from jobs.release.manifest import (
    CONTRACT_FILE,
    CREDENTIAL_FILE,
    EVIDENCE_FILE,
    MANIFEST_FILE,
    Manifest,
    ReleasedFile,
    digest,
)
from jobs.release.verify import Verification

# Bytes that a document may have: a hundred times those of the largest known.
LONGEST = {
    CREDENTIAL_FILE: 64 << 10, MANIFEST_FILE: 256 << 20, CONTRACT_FILE: 16 << 20, EVIDENCE_FILE: 64 << 20,
}  # fmt: skip
# More than a person reads.
_EXTRA_NAMED = 20


def verify_received(
    folder: Path, keys: Keys, *, product: str | None = None, number: str | None = None, unloaded: Collection[str] = ()
) -> Verification:
    """Compare a folder with the certificate in it, and report exactly what is not as it was released.

    Args:
        folder: the documents and data files of one release.
        keys: the exchange's, from a source that the buyer trusts.
        product: which product it must be; None for any.
        number: which release it must be; None for any.
        unloaded: paths of data files whose absence was reported already.

    Raises:
        NotFound: there is no such folder, or no certificate in it.
    """
    if not (folder / CREDENTIAL_FILE).is_file():
        raise NotFound(
            "no certificate of a release", where=str(folder), expected=f"a folder with {', '.join(LONGEST)} and data",
            next_step="exchange verify PRODUCT --from <profile> --key <file> --keep <folder> makes one",
        )  # fmt: skip
    work = Inspection(product or "", number or "", folder)
    manifest = certified_manifest(work, keys)
    if manifest is None:
        work.skipped.append("data, contract and evidence: no manifest that a valid certificate vouches for")
        return Verification(work.product, work.number, tuple(work.findings), skipped=tuple(work.skipped))
    for what, name, expected in (
        ("the contract", CONTRACT_FILE, manifest.contract.sha256),
        ("the expectations' result", EVIDENCE_FILE, manifest.expectations.result_sha256),
    ):
        data = _document(work, name, what)
        if data is not None:
            work.compare(f"{what} was changed", name, f"sha256 {expected}", f"sha256 {digest(data)}")
    size = _compare_files(work, manifest, set(unloaded))
    return Verification(
        work.product, work.number, tuple(work.findings), files=len(manifest.files), bytes=size,
        rows=manifest.table.rows, skipped=tuple(work.skipped),
    )  # fmt: skip


def certified_manifest(work: Inspection, keys: Keys) -> Manifest | None:
    """The manifest in a folder, if a valid certificate of the release that was asked for vouches for its bytes."""
    subject = certified(work, keys)
    data = _document(work, MANIFEST_FILE, "the manifest")
    return _manifest(work, data, subject) if data is not None and subject is not None else None


def certified(work: Inspection, keys: Keys) -> dict[str, Any] | None:
    """What the certificate in a folder states, if it is valid and of the release that was asked for."""
    token = _document(work, CREDENTIAL_FILE, "the certificate")
    if token is None:
        return None
    text = token.decode("ascii", "backslashreplace").strip()
    try:
        certificate = credential.check(text, keys.named(credential.key_id(text)), kind=credential.RELEASE)
    except Tampered as error:
        work.record(f"the certificate is not valid: {error.what}", CREDENTIAL_FILE, error.expected, "another")
        return None
    subject: dict[str, Any] = certificate["credentialSubject"]
    if keys.issuer is not None:
        work.compare("the certificate names another issuer", CREDENTIAL_FILE, keys.issuer, certificate.get("issuer"))
    stated = (str(subject.get("product")), str(subject.get("release")))
    wanted = (work.product or stated[0], work.number or stated[1])
    work.compare("the certificate belongs to another release", CREDENTIAL_FILE, "@".join(wanted), "@".join(stated))
    work.product, work.number = wanted
    return None if work.findings else subject


def unsafe(path: str) -> bool:
    """Whether a path may lead out of its folder, or to one of the release's documents."""
    parts = PurePosixPath(path).parts
    return not parts or path.startswith("/") or ".." in parts or "\0" in path or path in LONGEST


def _manifest(work: Inspection, data: bytes, subject: dict[str, Any]) -> Manifest | None:
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError:
        manifest = None
    expected, found = f"{work.product}@{work.number}", manifest and f"{manifest.product}@{manifest.release}"
    if found is not None and found != expected:
        work.record("the manifest belongs to another release", MANIFEST_FILE, expected, found)
        return None
    certified = subject.get("manifestSha256")
    if not work.compare("the manifest was changed", MANIFEST_FILE, f"sha256 {certified}", f"sha256 {digest(data)}"):
        return None
    if manifest is None:
        work.record("the manifest cannot be read", MANIFEST_FILE, "a manifest", "another format; a newer program may")
        return None
    for name, value in manifest.statement().items():
        work.compare(f"the certificate states another {name}", CREDENTIAL_FILE, subject.get(name), value)
    listed = sum(file.rows for file in manifest.files)
    work.compare("the files' rows do not add up", MANIFEST_FILE, manifest.table.rows, listed)
    outside = [file.path for file in manifest.files if unsafe(file.path)]
    for path in outside:
        work.record("a data file's path leads elsewhere", MANIFEST_FILE, "a path within the folder", path)
    return None if outside else manifest


def _compare_files(work: Inspection, manifest: Manifest, unloaded: set[str]) -> int:
    """Compare every data file; returns the number of bytes read."""
    others = [path for path in _files_below(work.folder) if path not in LONGEST]
    listed = {file.path for file in manifest.files}
    spare = [path for path in others if path not in listed]
    total = 0
    for file in manifest.files:
        path = file.path if (work.folder / file.path).is_file() else _of_another_name(work.folder, file, spare)
        if path is None:
            if file.path not in unloaded:
                work.record("a data file is missing", file.path, f"{file.size} bytes", MISSING)
            continue
        if path in spare:
            spare.remove(path)
        total += _compare_file(work, file, path)
    for path in spare[:_EXTRA_NAMED]:
        work.record("a file that is not part of the release", path, MISSING, "a file")
    if len(spare) > _EXTRA_NAMED:
        more = len(spare) - _EXTRA_NAMED
        work.record("files that are not part of the release", "folder", MISSING, f"{more} more files")
    return total


def _compare_file(work: Inspection, file: ReleasedFile, path: str) -> int:
    place = work.folder / path
    size = place.stat().st_size
    if not work.compare("a data file has another size", path, f"{file.size} bytes", f"{size} bytes"):
        return 0
    found = f"sha256 {sha256_of(place)}"
    if work.compare("a data file was changed", path, f"sha256 {file.sha256}", found):
        rows = lake.rows_in(place)
        work.compare("a data file has another number of rows than the manifest lists", path, file.rows, rows)
    return size


def _of_another_name(folder: Path, file: ReleasedFile, spare: list[str]) -> str | None:
    for path in spare:
        place = folder / path
        if place.is_file() and place.stat().st_size == file.size and sha256_of(place) == file.sha256:
            return path
    return None


def _files_below(folder: Path) -> Iterator[str]:
    """Everything below a folder but folders, by its path from there; links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in sorted((*names, *links)):
            yield Path(parent, name).relative_to(folder).as_posix()


def _document(work: Inspection, name: str, what: str) -> bytes | None:
    """The bytes of a document; a missing one, or one too long to be one, is recorded."""
    place = work.folder / name
    # Of a pipe or device, reading might never end.
    if not place.is_file():
        work.record(f"{what} is missing", name, "the file", MISSING)
        return None
    with place.open("rb") as file:
        data = file.read(LONGEST[name] + 1)
    if len(data) > LONGEST[name]:
        work.record(f"{what} is too long", name, f"at most {LONGEST[name]} bytes", "more")
        return None
    return data


def with_findings(verification: Verification, other: Inspection) -> Verification:
    """A verification with what was found elsewhere, first."""
    return replace(
        verification,
        findings=(*other.findings, *verification.findings),
        skipped=(*other.skipped, *verification.skipped),
    )
