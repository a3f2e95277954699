"""The bytes themselves: a file of a released version, for whoever brings a ticket whose grants live."""

from __future__ import annotations

import time
from pathlib import Path

from fastapi import APIRouter, Request, Response

from jobs.errors import Tampered
from jobs.exchange import usage
from jobs.share import ranges
from jobs.share.access import require_live
from jobs.share.delivery import FileDelivery
from jobs.share.meter import entry_for, note_outcome, write
from jobs.share.ranges import Span
from jobs.share.refusal import Refusal, forbidden, missing
from jobs.share.snapshot import DataFile, snapshot
from jobs.share.tickets import Ticket, signer

router = APIRouter()


@router.api_route("/files/{ticket}", methods=["GET", "HEAD"])
def get_file(http: Request, ticket: str) -> Response:
    """Send a file or a part of it."""
    entry = entry_for(http, "file")
    try:
        with note_outcome(entry):
            answer = _admit(http, ticket, entry)
    except Refusal:
        write(entry)
        raise
    return answer


def _admit(http: Request, text: str, entry: usage.Request) -> Response:
    ticket = signer().read_ticket(text)
    if ticket is None:
        raise forbidden("this address is not one that the exchange gave out; ask for the list of files")
    require_live(ticket, entry)
    if ticket.expires <= time.time():
        raise forbidden("this address has expired; ask for the list of files again")
    state = snapshot(ticket.release)
    # A ticket names a file by the hash of its path: what is not in the release's manifest cannot be named at all.
    file = state.by_key.get(ticket.file)
    if file is None:
        raise missing("the release does not have this file")
    entry.files = 1
    path = state.folder / file.path
    if path.stat().st_size != file.size:
        raise Tampered("a file of a release has another size than its manifest says", where=str(path))
    return _respond(http, path, file, ticket, entry)


def _respond(http: Request, path: Path, file: DataFile, ticket: Ticket, entry: usage.Request) -> Response:
    etag = f'"{file.sha256}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        # The same bytes for as long as the ticket is good, but for this buyer's eyes only.
        "Cache-Control": "private, max-age=60",
        "Content-Type": "application/vnd.apache.parquet",
    }
    if _names(http.headers.get("if-none-match"), etag):
        entry.status = 304
        write(entry)
        return Response(status_code=304, headers=headers)
    try:
        span = _span(http, file, etag)
    except ranges.Unsatisfiable:
        raise Refusal(
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
        still_allowed=lambda: require_live(ticket, entry),
        status=entry.status,
        headers=headers,
        with_body=http.method != "HEAD",
    )


def _span(http: Request, file: DataFile, etag: str) -> Span | None:
    # If-Range: a part is only of use to a client that has the rest of the same file.
    condition = http.headers.get("if-range")
    if condition is not None and condition.strip() != etag:
        return None
    # Range has a meaning for GET only (RFC 9110, 14.2).
    return ranges.requested(http.headers.get("range"), file.size) if http.method == "GET" else None


def _names(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    return header.strip() == "*" or etag in {tag.strip().removeprefix("W/") for tag in header.split(",")}
