"""Records stored releases that the registry lacks, because a process was killed or the registry is an older copy.

A release is final once its folder is stored: its certificate may have left the exchange, so its number is taken.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from jobs.errors import ExchangeError, NotFound, Tampered
from jobs.registry import reading
from jobs.registry.checks import check_with_result
from jobs.registry.models import Check, Release
from jobs.registry.releases import numbers_in, record_release
from jobs.release import archive, credential
from jobs.release.manifest import CREDENTIAL_FILE, MANIFEST_FILE, Manifest, digest, parse_number
from jobs.release.recall import replay
from jobs.release.snapshot import snapshot


def record_unrecorded(product: str) -> list[Release]:
    """Record every stored release of a product that the registry lacks; returns them, the oldest first.

    Raises:
        ExchangeError: one cannot be recorded, as its certificate is not valid or its rows are not as it says.
    """
    return [record_stored(product, number) for number in unrecorded_numbers(product)]


def unrecorded_numbers(product: str) -> list[str]:
    """The numbers of a product's stored releases that the registry lacks, the oldest first."""
    stored = archive.stored_numbers(product)
    if not stored:
        return []
    with reading() as session:
        recorded = set(numbers_in(session, product))
    return [".".join(map(str, number)) for number in stored if number not in recorded]


def record_stored(product: str, number: str) -> Release:
    """Record a release from its folder alone.

    Raises:
        ExchangeError: its certificate is not valid, its manifest is another, or its rows are not as it says.
    """
    folder = archive.folder_of(product, number)
    try:
        manifest, token = _certified(product, number)
        _require_rows(manifest)
    except (ExchangeError, OSError, ValueError) as error:
        reason = error.finding if isinstance(error, ExchangeError) else f"{type(error).__name__}: {error}"
        raise ExchangeError(
            f"{product}@{number} is stored, but the registry does not list it and it cannot be recorded ({reason})",
            where=str(folder),
            expected="a release with a valid certificate, made of this lake's table",
            next_step="restore what is damaged from a backup. A home keeps the releases of one exchange: if this one is"
            " another's, set EXCHANGE_HOME to another folder; if nobody ever received it, move its folder away",
        ) from error
    check = check_with_result(manifest.table.name, manifest.table.delta_version, manifest.expectations.result_sha256)
    row = release_row(check, manifest, token)
    record_release(row)
    replay(row)
    return row


def release_row(check: Check | None, manifest: Manifest, token: str) -> Release:
    """The registry's row of a published release."""
    number = parse_number(manifest.release)
    if number is None:
        raise ValueError(manifest.release)
    major, minor, patch = number
    return Release(
        product=manifest.product,
        major=major,
        minor=minor,
        patch=patch,
        delta_version=manifest.table.delta_version,
        check_id=check.id if check else None,
        manifest_sha256=digest(manifest.encode()),
        manifest=manifest.document(),
        credential=token,
        rows=manifest.table.rows,
        bytes=manifest.table.bytes,
        grade=manifest.expectations.grade,
        licence=manifest.licence.id,
        status="published",
        released_at=datetime.fromisoformat(manifest.released_at),
    )


def _certified(product: str, number: str) -> tuple[Manifest, str]:
    """The manifest and the certificate in a release's folder, which vouches for it."""
    folder = archive.folder_of(product, number)
    token = (folder / CREDENTIAL_FILE).read_bytes().decode("ascii")
    subject = credential.check(token, credential.public_key(), kind=credential.RELEASE)["credentialSubject"]
    data = (folder / MANIFEST_FILE).read_bytes()
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise Tampered("not a manifest", where=MANIFEST_FILE, expected="the manifest as it was released") from error
    if subject.get("manifestSha256") != digest(data):
        raise Tampered("the manifest was changed", where=MANIFEST_FILE, expected=str(subject.get("manifestSha256")))
    if (manifest.product, manifest.release) != (product, number):
        raise Tampered("the folder holds another release", expected=f"{manifest.product}@{manifest.release}")
    return manifest, token


def _require_rows(manifest: Manifest) -> None:
    table = manifest.table
    version = snapshot(table.name, table.delta_version)
    if version.id != table.id:
        raise NotFound("made of another table", where=table.name, expected=f"{table.id}, found {version.id}")
    if {f.path: f.size for f in manifest.files} != {path: file.size for path, file in version.files.items()}:
        raise Tampered("the table's log lists other files", where=f"{table.name} version {table.delta_version}")
