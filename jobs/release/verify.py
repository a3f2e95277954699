"""Verifies a release offline: everything that its certificate vouches for is computed again from the bytes at hand."""

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
    Finding,
    Inspection,
    copies,
    data_files,
    landed_files,
    read,
    strangers,
    table_log,
)
from jobs.release.manifest import CREDENTIAL_FILE, MANIFEST_FILE, Manifest, canonical, digest, parse_number
from jobs.settings import settings


@dataclass(frozen=True)
class Verification:
    """What was looked at and what was found; `skipped` names what could not be looked at, and why."""

    product: str
    number: str
    findings: tuple[Finding, ...]
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
    """Compute a release's digests again, and say exactly what is not as it was released.

    Needs the exchange's home and its published public key; no network, no engine, no private key. The registry is
    compared too, if it is there.

    Args:
        product: the product's name.
        number: the release, such as ``1.2.0``; the newest in the folder of releases if None.

    Raises:
        NotFound: there is no such release.
    """
    lake.drop_cached_logs()
    work = _begin(product, number)
    recorded = _recorded(work)
    stated = _certificate(work, recorded)
    manifest = _manifest(work, stated, recorded)
    strangers(work)
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
    there = {n: p.name for p in root.glob("*") if p.is_dir() and (n := parse_number(p.name))} if root.is_dir() else {}
    if number is None and there:
        number = there[max(there)]
    work = Inspection(product, number or "", folder_of(product, number or ""))
    if number and (number in there.values() or (parse_number(number) and _row(work))):
        return work
    raise NotFound(
        f"no release {number} of '{product}'" if number else f"no release of '{product}'",
        where=str(root),
        expected="one of: " + (", ".join(there[n] for n in sorted(there)) or "none is there"),
        next_step="exchange releases lists them",
    )


@dataclass(frozen=True)
class _Recorded:
    """What the registry says of the release."""

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
        work.skipped.append("registry: it is not here")
        return None
    try:
        recorded = _row(work)
    except ExchangeError as error:
        work.skipped.append(f"registry: {error}")
        return None
    if recorded is None:
        work.found("the registry does not know this release", f"registry, releases {_name(work)}", "one row", MISSING)
    return recorded


def _certificate(work: Inspection, recorded: _Recorded | None) -> dict[str, Any] | None:
    """The certificate's subject, if its signature holds; the registry's copy of it stands in for a damaged file."""
    file = work.folder / CREDENTIAL_FILE
    token = _text(work, file, "the certificate")
    place = f"registry, releases {_name(work)}, credential"
    key = _key(work)
    if key is None:
        return None
    stated = _checked(work, token, key, file) if token is not None else None
    if recorded is None or recorded.credential == token:
        return stated
    kept = _checked(work, recorded.credential, key, place)
    if stated is not None and kept is not None:
        one, other = (digest((t or "").encode()) for t in (token, recorded.credential))
        work.found("the registry holds another certificate than the folder", place, one, other)
    return stated or kept


def _key(work: Inspection) -> dict[str, Any] | None:
    try:
        return credential.public_key()
    except (NotFound, Tampered) as error:
        work.found(error.what, settings().keys / credential.PUBLIC_FILE, error.expected, "no such key")
        return None


def _checked(work: Inspection, token: str, key: dict[str, Any], where: Path | str) -> dict[str, Any] | None:
    try:
        document = credential.check(token, key, kind="DataReleaseCredential")
    except Tampered as error:
        expected = error.expected or "a token as it was signed"
        work.found(f"the certificate is not valid: {error.what}", where, expected, "another")
        return None
    subject: dict[str, Any] = document["credentialSubject"]
    named = f"{subject.get('product')}@{subject.get('release')}"
    if not work.compare("the certificate is that of another release", where, _name(work), named):
        return None
    return subject


def _manifest(work: Inspection, stated: dict[str, Any] | None, recorded: _Recorded | None) -> Manifest | None:
    """The manifest that the rest is compared with: the one certified, wherever a copy of it is left."""
    file = work.folder / MANIFEST_FILE
    data = read(work, file, "the manifest")
    certified = stated.get("manifestSha256") if stated else None
    if data is not None and certified and digest(data) != certified:
        work.found("the manifest was changed", file, f"sha256 {certified}", digest(data))
    kept = _kept(work, certified, recorded)
    if data is not None and certified in (None, digest(data)):
        chosen = _parsed(data)
        if chosen is None:
            work.found("the manifest cannot be read", file, "a manifest", "something else")
    else:
        chosen = _parsed(kept) if kept else None
        if chosen and data is not None:
            _name_changes(work, file, chosen, data)
    chosen = chosen or (_parsed(data) if data is not None else None)
    if chosen and recorded:
        _compare_facts(work, chosen, recorded)
    if chosen and stated:
        place = work.folder / CREDENTIAL_FILE
        for name, value in chosen.statement().items():
            if name != "manifestSha256":
                work.compare(f"the certificate states another {name}", place, stated.get(name), value)
    return chosen


def _kept(work: Inspection, certified: str | None, recorded: _Recorded | None) -> bytes | None:
    """The registry's copy of the manifest, if it is the certified one."""
    if recorded is None:
        return None
    place = f"registry, releases {_name(work)}"
    data = canonical(recorded.manifest)
    expected = certified or recorded.manifest_sha256
    held, copied = recorded.manifest_sha256, digest(data)
    work.compare("the registry holds another digest of the manifest", f"{place}, manifest_sha256", expected, held)
    same = work.compare("the registry's copy of the manifest was changed", f"{place}, manifest", expected, copied)
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


def _name_changes(work: Inspection, file: Path, certified: Manifest, data: bytes) -> None:
    try:
        found = json.loads(data)
    except ValueError:
        work.found("the manifest is not JSON any more", file, "a JSON object", data[:40])
        return
    for path, expected, value in _differences(certified.document(), found):
        work.found(f"the manifest's {path} was changed", file, expected, value)


def _differences(expected: Any, found: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            yield from _differences(expected.get(key, MISSING), found.get(key, MISSING), f"{path}.{key}".lstrip("."))
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif expected != found:
        yield path or "whole", expected, found


def _parsed(data: bytes) -> Manifest | None:
    try:
        return Manifest.model_validate_json(data)
    except ValidationError:
        return None


def _text(work: Inspection, file: Path, what: str) -> str | None:
    data = read(work, file, what)
    # Bytes outside ASCII stay visible as such, and then fail the certificate's own check.
    return None if data is None else data.decode("ascii", "backslashreplace")


def _name(work: Inspection) -> str:
    return f"{work.product}@{work.number}"
