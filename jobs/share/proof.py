"""Serves what proves a release: its documents to holders of a grant, the exchange's key and a release's status to all.

Whoever asks for a status must know the digest of the release's manifest, which its certificate states: strangers learn
of no product that way, and whoever was handed a certificate can ask whether it still holds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response

from jobs.errors import NotFound, Tampered
from jobs.registry import reading
from jobs.registry.releases import release_numbered_in, standing_in
from jobs.release import credential, did
from jobs.release.archive import folder_of
from jobs.release.manifest import (
    CONTRACT_FILE,
    CREDENTIAL_FILE,
    EVIDENCE_FILE,
    MANIFEST_FILE,
    canonical,
    digest,
    parse_number,
)
from jobs.share.access import PATIENCE_SECONDS
from jobs.share.connection import address_of
from jobs.share.errors import Json, forbidden, invalid, missing
from jobs.share.meter import Meter, MeteredRoute, ask, entry_of, granted_table

if TYPE_CHECKING:

    from jobs.registry.models import Release

NEWEST = "latest"

_KINDS = {
    "manifest": (MANIFEST_FILE, "application/json"),
    "certificate": (CREDENTIAL_FILE, f"application/{credential.MEDIA_TYPE}"),
    "contract": (CONTRACT_FILE, "application/yaml"),
    "evidence": (EVIDENCE_FILE, "application/json"),
}

router = APIRouter(route_class=MeteredRoute)
public = APIRouter()


@router.get("/shares/{share}/schemas/{schema}/tables/{table}/releases/{number}/{kind}", name="metadata")
async def get_document(http: Request, share: str, schema: str, table: str, number: str, kind: str) -> Response:
    """Return the manifest, certificate, contract or evidence of a release, byte for byte as it was certified."""
    shared = await granted_table(http, share, schema, table)
    if kind not in _KINDS:
        raise missing(f"a release has no {kind[:32]}; it has {', '.join(_KINDS)}")
    parts = parse_number(shared.latest.number if number == NEWEST else number)
    if parts is None:
        raise invalid(f"{number[:64]} is no release's number; expected one like 1.2.0, or {NEWEST}")
    release = await run_sync(_release, shared.name, parts)
    entry_of(http).version = release.delta_version
    data = await run_sync(_document, release, kind)
    return Response(data, media_type=_KINDS[kind][1], headers={"ETag": f'"{digest(data)}"'})


@public.get("/status/{product}/{number}/{manifest_sha256}")
async def get_status(http: Request, product: str, number: str, manifest_sha256: str) -> Response:
    """Tell anyone who knows the digest in a release's certificate how the release stands now."""
    parts = parse_number(number) if len(number) < 32 else None
    standing = await ask(http, lambda session: standing_in(session, product, parts)) if parts else None
    if standing is None or standing.manifest_sha256 != manifest_sha256:
        refusal = missing("no release has a certificate of this product, number and digest")
        meter: Meter = http.app.state.meter
        raise meter.refusals.count(address_of(http.scope.get("client")), "status", refusal) or refusal
    recalled_at = standing.recalled_at
    return Json(
        {
            "product": product,
            "release": number,
            "manifestSha256": manifest_sha256,
            "status": "recalled" if standing.status == "recalled" else "certified",
            "recalledAt": credential.instant(recalled_at) if recalled_at else None,
            "reason": standing.reason,
            "superseded": standing.superseded,
            "asOf": credential.instant(datetime.now(UTC)),
        },
        headers={"Cache-Control": "no-store"},
    )


async def get_identity() -> Response:
    """Return the exchange's DID document, which has its public key."""
    try:
        return Json(await run_sync(did.document))
    except NotFound:
        raise missing("this exchange has no key yet; it gets one with its first release") from None


def _release(product: str, parts: tuple[int, int, int]) -> Release:
    number = ".".join(map(str, parts))
    with reading(PATIENCE_SECONDS) as session:
        release = release_numbered_in(session, product, parts)
        standing = standing_in(session, product, parts)
    if release is None or standing is None:
        raise missing(f"{product} has no release {number}")
    if standing.status == "recalled":
        when = f" on {standing.recalled_at:%Y-%m-%d %H:%M:%S} UTC" if standing.recalled_at else ""
        raise forbidden(f"release {number} of {product} was recalled{when}" + f": {standing.reason}" * bool(when))
    return release


def _document(release: Release, kind: str) -> bytes:
    """The bytes that the release's certificate vouches for.

    Raises:
        ShareError: they are not on this machine.
        Tampered: they are others.
    """
    if kind == "certificate":
        return release.credential.encode()
    if kind == "manifest":
        data = canonical(release.manifest)
        return _certified(data, release.manifest_sha256, f"registry, releases {release.product}@{release.number}")
    file = folder_of(release.product, release.number) / _KINDS[kind][0]
    part, name = ("contract", "sha256") if kind == "contract" else ("expectations", "result_sha256")
    return _certified(_read(file, kind), release.manifest[part][name], str(file))


def _read(file: Path, kind: str) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise missing(f"the {kind} is not where this server runs; ask the exchange for it") from None


def _certified(data: bytes, sha256: str, where: str) -> bytes:
    if digest(data) != sha256:
        raise Tampered("not as it was certified", where=where, next_step="run `exchange verify` on the release")
    return data
