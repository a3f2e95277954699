"""Serves the files of released versions to holders of a ticket whose grants are live."""

from __future__ import annotations

import time
from pathlib import Path

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response

from jobs.exchange import usage
from jobs.settings import settings
from jobs.share import ranges
from jobs.share.access import require_live
from jobs.share.delivery import FileDelivery
from jobs.share.errors import ShareError, forbidden, missing
from jobs.share.meter import MeteredRoute, ask, entry_of
from jobs.share.ranges import Span
from jobs.share.snapshot import SharedFile, shared_snapshot
from jobs.share.sound import require_released
from jobs.share.tickets import Ticket, signer

router = APIRouter(route_class=MeteredRoute)


@router.api_route("/files/{ticket}", methods=["GET", "HEAD"], name="file")
async def get_file(http: Request, ticket: str) -> Response:
    """Send a file or a part of it."""
    entry, read = entry_of(http), signer().read_ticket(ticket)
    if read is None:
        raise forbidden("the exchange did not issue this address; query the table again")
    await ask(http, lambda session: require_live(session, read, entry))
    if read.expires <= time.time():
        raise forbidden("this address has expired; query the table again")
    return await run_sync(_admit, http, read, entry)


def _admit(http: Request, ticket: Ticket, entry: usage.Request) -> Response:
    state = shared_snapshot(ticket.release)
    # A ticket names a file by the hash of its path, so it cannot name a file that the release's manifest does not list.
    file = state.by_key.get(ticket.file)
    if file is None:
        raise missing("the release has no such file")
    entry.files = 1
    path = state.folder / file.path
    require_released(path, file.size, file.sha256)
    return _respond(http, path, file, ticket, entry)


def _respond(http: Request, path: Path, file: SharedFile, ticket: Ticket, entry: usage.Request) -> Response:
    etag = f'"{file.sha256}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        # The bytes never change, but only this buyer may see them.
        "Cache-Control": "private, max-age=60",
        "Content-Type": "application/vnd.apache.parquet",
    }
    if _matches(http.headers.get("if-none-match"), etag):
        entry.status = 304
        return Response(status_code=304, headers=headers)
    try:
        span = _span(http, file, etag)
    except ranges.Unsatisfiable:
        raise ShareError(
            416,
            "INVALID_PARAMETER_VALUE",
            f"the range is outside this file of {file.size} bytes",
            headers={"Content-Range": f"bytes */{file.size}"},
        ) from None
    entry.status = 200 if span is None else 206
    if span is not None:
        headers["Content-Range"] = f"bytes {span.first}-{span.last}/{file.size}"
    sent = span or Span(0, file.size - 1)
    headers["Content-Length"] = str(sent.length)
    return FileDelivery(
        path,
        sent,
        entry=entry,
        ticket=ticket,
        meter=http.app.state.meter,
        stall_seconds=settings().share_stall_seconds,
        status=entry.status,
        headers=headers,
        with_body=http.method != "HEAD",
    )


def _span(http: Request, file: SharedFile, etag: str) -> Span | None:
    # If-Range: a part is useful only to a client that holds the rest of this very file.
    condition = http.headers.get("if-range")
    if condition is not None and condition.strip() != etag:
        return None
    # Range applies to GET only (RFC 9110, 14.2).
    return ranges.requested(http.headers.get("range"), file.size) if http.method == "GET" else None


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    return header.strip() == "*" or etag in {tag.strip().removeprefix("W/") for tag in header.split(",")}
