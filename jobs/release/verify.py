"""Verifies a release offline: recomputes from the bytes at hand everything that its certificate vouches for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobs import lake
from jobs.errors import ExchangeError, NotFound, Tampered
from jobs.registry.releases import release_numbered
from jobs.release import credential
from jobs.release.archive import folder_of
from jobs.release.inspection import (
    MISSING,
    Discrepancy,
    Inspection,
    copies,
    data_files,
    landed_files,
    read,
    table_log,
    unexpected_files,
)
from jobs.release.manifest import CREDENTIAL_FILE, MANIFEST_FILE, Manifest, canonical, digest, parse_number
from jobs.settings import settings


@dataclass(frozen=True)
class Verification:
    """What was verified, and every discrepancy; `skipped` names what could not be verified, and why."""

    product: str
    number: str
    findings: tuple[Discrepancy, ...]
    files: int = 0
    bytes: int = 0
    rows: int = 0
    landed: int = 0
    skipped: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything is exactly as it was released."""
        return not self.findings


def verify(product: str, number: str | None = None) -> Verification:
    """Recompute a release's digests, and report exactly what is not as it was released.

    Needs the exchange's home and its published public key; no network, no engine, no private key. The registry is
    compared too, if there is one.

    Args:
        product: the product's name.
        number: the release, for example ``1.2.0``; the newest in the folder of releases if None.

    Raises:
        NotFound: there is no such release.
    """
    lake.drop_cached_logs()
    work = _begin(product, number)
    recorded = _recorded(work)
    certified = _certificate(work, recorded)
    manifest = _manifest(work, certified, recorded)
    unexpected_files(work)
    if manifest is None:
        work.skipped.append("data, contract, evidence and landed files: no manifest to compare them with")
        return Verification(product, work.number, tuple(work.findings), skipped=tuple(work.skipped))
    copies(work, manifest)
    table_log(work, manifest)
    size = data_files(work, manifest)
    landed_files(work, manifest)
    return Verification(
        product=product,
        number=work.number,
        findings=tuple(work.findings),
        files=len(manifest.files),
        bytes=size,
        rows=manifest.table.rows,
        landed=len(manifest.landed),
        skipped=tuple(work.skipped),
    )


def _begin(product: str, number: str | None) -> Inspection:
    root = settings().releases / product
    stored = {n: p.name for p in root.glob("*") if p.is_dir() and (n := parse_number(p.name))} if root.is_dir() else {}
    if number is None and stored:
        number = stored[max(stored)]
    work = Inspection(product, number or "", folder_of(product, number or ""))
    if number and (number in stored.values() or (parse_number(number) and _row(work))):
        return work
    raise NotFound(
        f"no release {number} of '{product}'" if number else f"no release of '{product}'",
        where=str(root),
        expected="one of: " + (", ".join(stored[n] for n in sorted(stored)) or "none (the folder has no release)"),
        next_step="`exchange releases` lists them",
    )


@dataclass(frozen=True)
class _Recorded:
    """What the registry records of the release."""

    manifest: dict[str, Any]
    manifest_sha256: str
    credential: str
    facts: dict[str, Any]


def _row(work: Inspection) -> _Recorded | None:
    number = parse_number(work.number)
    url = settings().registry_url
    if number is None or (url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists()):
        return None
    row = release_numbered(work.product, number)
    if row is None:
        return None
    facts = {
        "delta_version": row.delta_version,
        "rows": row.rows,
        "bytes": row.bytes,
        "grade": row.grade,
        "licence": row.licence,
        "released_at": credential.instant(row.released_at),
    }
    return _Recorded(row.manifest, row.manifest_sha256, row.credential, facts)


def _recorded(work: Inspection) -> _Recorded | None:
    url = settings().registry_url
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        work.skipped.append("registry: there is none here")
        return None
    try:
        recorded = _row(work)
    except ExchangeError as error:
        work.skipped.append(f"registry: {error}")
        return None
    if recorded is None:
        work.record("the release is not in the registry", f"registry, releases {_name(work)}", "one row", MISSING)
    return recorded


def _certificate(work: Inspection, recorded: _Recorded | None) -> dict[str, Any] | None:
    """The certificate's subject, if its signature is valid; the registry's copy replaces a damaged file."""
    file = work.folder / CREDENTIAL_FILE
    token = _text(work, file, "the certificate")
    place = f"registry, releases {_name(work)}, credential"
    key = _key(work)
    if key is None:
        return None
    in_folder = _subject(work, token, key, file) if token is not None else None
    if recorded is None or recorded.credential == token:
        return in_folder
    in_registry = _subject(work, recorded.credential, key, place)
    if in_folder is not None and in_registry is not None:
        one, other = (digest((t or "").encode()) for t in (token, recorded.credential))
        work.record("the registry holds another certificate than the folder", place, one, other)
    return in_folder or in_registry


def _key(work: Inspection) -> dict[str, Any] | None:
    try:
        return credential.public_key()
    except (NotFound, Tampered) as error:
        work.record(error.what, settings().keys / credential.PUBLIC_FILE, error.expected, "no such key")
        return None


def _subject(work: Inspection, token: str, key: dict[str, Any], where: Path | str) -> dict[str, Any] | None:
    try:
        document = credential.check(token, key, kind=credential.RELEASE)
    except Tampered as error:
        expected = error.expected or "a token as it was signed"
        work.record(f"the certificate is not valid: {error.what}", where, expected, "another")
        return None
    subject: dict[str, Any] = document["credentialSubject"]
    release = f"{subject.get('product')}@{subject.get('release')}"
    if not work.compare("the certificate belongs to another release", where, _name(work), release):
        return None
    return subject


def _manifest(work: Inspection, certified: dict[str, Any] | None, recorded: _Recorded | None) -> Manifest | None:
    """The manifest to compare everything else with: the certified one, from wherever a copy is left."""
    file = work.folder / MANIFEST_FILE
    data = read(work, file, "the manifest")
    certified_sha256 = certified.get("manifestSha256") if certified else None
    if data is not None and certified_sha256 and digest(data) != certified_sha256:
        work.record("the manifest was changed", file, f"sha256 {certified_sha256}", digest(data))
    copy = _registry_copy(work, certified_sha256, recorded)
    if data is not None and certified_sha256 in (None, digest(data)):
        chosen = _parsed(data)
        if chosen is None:
            work.record("the manifest cannot be read", file, "a manifest", "something else")
    else:
        chosen = _parsed(copy) if copy else None
        if chosen and data is not None:
            _compare_manifests(work, file, chosen, data)
    chosen = chosen or (_parsed(data) if data is not None else None)
    if chosen and recorded:
        _compare_facts(work, chosen, recorded)
    if chosen and certified:
        place = work.folder / CREDENTIAL_FILE
        for name, value in chosen.statement().items():
            if name != "manifestSha256":
                work.compare(f"the certificate states another {name}", place, certified.get(name), value)
    return chosen


def _registry_copy(work: Inspection, certified_sha256: str | None, recorded: _Recorded | None) -> bytes | None:
    """The registry's copy of the manifest, if it is the certified one."""
    if recorded is None:
        return None
    place = f"registry, releases {_name(work)}"
    data = canonical(recorded.manifest)
    expected = certified_sha256 or recorded.manifest_sha256
    work.compare(
        "the registry holds another digest of the manifest", f"{place}, manifest_sha256",
        expected, recorded.manifest_sha256,
    )  # fmt: skip
    same = work.compare("the registry's copy of the manifest was changed", f"{place}, manifest", expected, digest(data))
    return data if same else None


def _compare_facts(work: Inspection, manifest: Manifest, recorded: _Recorded) -> None:
    facts = {
        "delta_version": manifest.table.delta_version,
        "rows": manifest.table.rows,
        "bytes": manifest.table.bytes,
        "grade": manifest.expectations.grade,
        "licence": manifest.licence.id,
        "released_at": manifest.released_at,
    }
    for name, value in facts.items():
        place = f"registry, releases {_name(work)}, {name}"
        work.compare("the registry's row was changed", place, value, recorded.facts[name])


def _compare_manifests(work: Inspection, file: Path, certified: Manifest, data: bytes) -> None:
    try:
        document = json.loads(data)
    except ValueError:
        work.record("the manifest is no longer JSON", file, "a JSON object", data[:40])
        return
    for path, expected, actual in _differences(certified.document(), document):
        work.record(f"the manifest's {path} was changed", file, expected, actual)


def _differences(expected: Any, actual: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in sorted(expected.keys() | actual.keys()):
            yield from _differences(expected.get(key, MISSING), actual.get(key, MISSING), f"{path}.{key}".lstrip("."))
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif expected != actual:
        yield path or "whole", expected, actual


def _parsed(data: bytes) -> Manifest | None:
    try:
        return Manifest.model_validate_json(data)
    except ValidationError:
        return None


def _text(work: Inspection, file: Path, what: str) -> str | None:
    data = read(work, file, what)
    # Escaped bytes outside ASCII stay visible, and fail the check of the certificate.
    return None if data is None else data.decode("ascii", "backslashreplace")


def _name(work: Inspection) -> str:
    return f"{work.product}@{work.number}"
