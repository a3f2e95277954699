"""What a table is and which files it is made of: version, metadata, query and changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from jobs.exchange import usage
from jobs.exchange.grants import PREFIX
from jobs.share import capabilities, protocol
from jobs.share.access import SharedTable, Version, enter
from jobs.share.capabilities import Capabilities
from jobs.share.hints import select_files
from jobs.share.meter import metered
from jobs.share.parameters import (
    Window,
    bounded_body,
    read_query,
    read_window,
    timestamp_parameter,
    version_parameter,
)
from jobs.share.protocol import Writer
from jobs.share.refusal import Refusal, invalid
from jobs.share.snapshot import DataFile, Snapshot, snapshot
from jobs.share.tickets import TICKET_SECONDS, Ticket, signer

VERSION_HEADER = "Delta-Table-Version"

_TABLE = "/shares/{share}/schemas/{schema}/tables/{table}"

# Clients built on Delta Kernel (the official one, for the delta format) fetch an address over HTTP only if a parameter
# tells them that it is a signed one; otherwise they look for a file of that name on their own disk. This is the
# spelling that belongs to no product: permission, read.
_SIGNED = "?sp=r"

router = APIRouter()


# HEAD on the table itself is how the protocol's first clients asked for the version.
@router.head(_TABLE)
@router.get(f"{_TABLE}/version")
def get_version(http: Request, share: str, schema: str, table: str) -> Response:
    """Tell the latest version, or the first one since a time."""
    with metered(http, "version") as entry:
        found = _find(http, entry, share, schema, table)
        since = timestamp_parameter(http, "startingTimestamp")
        version = found.latest if since is None else found.since(since)
        entry.version = version.delta_version
        return Response(headers={VERSION_HEADER: str(version.delta_version)})


@router.get(f"{_TABLE}/metadata")
def get_metadata(http: Request, share: str, schema: str, table: str) -> Response:
    """Tell the schema of a version."""
    with metered(http, "metadata") as entry:
        found = _find(http, entry, share, schema, table)
        named, instant = version_parameter(http, "version"), timestamp_parameter(http, "timestamp")
        if named is not None and instant is not None:
            raise invalid("version and timestamp cannot both be given")
        version = found.at(named) if named is not None else found.as_of(instant) if instant else found.latest
        entry.version = version.delta_version
        state = snapshot(version.release)
        known = _capabilities(http)
        writer = _writer(http, found, known, state)
        dated = version.delta_version if named is not None or instant is not None else None
        return _answer(version.delta_version, known, writer, writer.head(state, version=dated), with_end=False)


@router.post(f"{_TABLE}/query")
def query(
    http: Request, share: str, schema: str, table: str, body: Annotated[bytes | Refusal, Depends(bounded_body)]
) -> Response:
    """Tell the files of a version, or those that came and went since one."""
    with metered(http, "query") as entry:
        found = _find(http, entry, share, schema, table)
        if isinstance(body, Refusal):
            raise body
        wanted = read_query(body)
        if wanted.starting_version is not None:
            window = Window(wanted.starting_version, None, wanted.ending_version, None, historical_metadata=True)
            return _changes(http, entry, found, window)
        version = found.latest
        if wanted.version is not None:
            version = found.at(wanted.version)
        elif wanted.timestamp is not None:
            version = found.as_of(wanted.timestamp)
        entry.version = version.delta_version
        state = snapshot(version.release)
        known = _capabilities(http)
        writer = _writer(http, found, known, state)
        files = select_files(
            state, predicate=wanted.predicate, limit=wanted.limit, other_hints=wanted.has_sql_predicates
        )
        entry.files = len(files)
        dated = version.delta_version if wanted.dated else None
        lines = [
            *writer.head(state, version=dated),
            *(writer.file(file, version, dated=wanted.dated) for file in files),
        ]
        return _answer(version.delta_version, known, writer, iter(lines), with_end=True)


@router.get(f"{_TABLE}/changes")
def get_changes(http: Request, share: str, schema: str, table: str) -> Response:
    """Tell the files that came and went between released versions."""
    with metered(http, "changes") as entry:
        found = _find(http, entry, share, schema, table)
        return _changes(http, entry, found, read_window(http))


def _changes(http: Request, entry: usage.Request, table: SharedTable, window: Window) -> Response:
    start, before, within = _released_within(table, window)
    first, last = within[0] if within else before, within[-1] if within else before
    if first is None or last is None:
        raise invalid(f"nothing of {table.name} had been released by then; {table.choice}")
    entry.version = last.delta_version
    described = snapshot(first.release if window.historical_metadata else last.release)
    known = _capabilities(http)
    writer = _writer(http, table, known, described)
    # The Python client replays these lines as a Delta log of its own; it needs to know from where.
    dated = start if window.historical_metadata or writer.format == capabilities.DELTA else None
    lines = list(writer.head(described, version=dated, change_feed=True))
    earlier = (before, snapshot(before.release)) if before else None
    for version in within:
        now = (version, snapshot(version.release))
        if window.historical_metadata and now[1].schema_string != described.schema_string:
            described = now[1]
            lines.append(writer.metadata(described, version=version.delta_version, change_feed=True))
        changes = [writer.change(change) for change in protocol.changes_between(earlier, now)]
        entry.files += len(changes)
        lines += changes
        earlier = now
    return _answer(first.delta_version, known, writer, iter(lines), with_end=True)


def _released_within(table: SharedTable, window: Window) -> tuple[int, Version | None, list[Version]]:
    """Find the released versions in a window, both ends included, and the one before it.

    An end need not be a released version itself: a client that has read version 7 rightly goes on from 8. Nothing of
    what happened between two releases is told apart.
    """
    latest = table.latest.delta_version
    start = window.starting_version or 0
    if window.starting_timestamp is not None:
        start = table.since(window.starting_timestamp).delta_version
    if start > latest:
        raise invalid(f"startingVersion {start} is later than the latest version {latest}; {table.choice}")
    end = latest if window.ending_version is None else window.ending_version
    if window.ending_timestamp is not None:
        end = table.as_of(window.ending_timestamp).delta_version
    if end < start:
        raise invalid(f"the end, version {end}, is before the start, version {start}; {table.choice}")
    earlier = [version for version in table.versions if version.delta_version < start]
    within = [version for version in table.versions if start <= version.delta_version <= end]
    return start, earlier[-1] if earlier else None, within


def _find(http: Request, entry: usage.Request, share: str, schema: str, table: str) -> SharedTable:
    entry.product = table
    found = enter(http.headers.get("authorization"), entry).table(share, schema, table)
    entry.product, entry.grant_id = found.name, found.product_grant
    return found


def _capabilities(http: Request) -> Capabilities:
    return capabilities.read(http.headers.get(capabilities.HEADER), http.headers.get(capabilities.FILE_ID_HEADER))


def _writer(http: Request, table: SharedTable, known: Capabilities, state: Snapshot) -> Writer:
    chosen = known.choose(state.min_reader_version, state.reader_features)
    expires = int(time.time()) + TICKET_SECONDS
    signs = signer()
    base = f"{http.base_url}{PREFIX.strip('/')}/files/"

    def url_of(file: DataFile, version: Version) -> str:
        ticket = Ticket(table.token_grant, table.product_grant, version.release, file.key, expires)
        return f"{base}{signs.ticket(ticket)}{_SIGNED}"

    return Writer(chosen, known.file_id_hash or chosen, url_of, expires * 1000)


def _answer(version: int, known: Capabilities, writer: Writer, lines: Iterator[str], *, with_end: bool) -> Response:
    ending = with_end and known.end_stream_action
    answer = [*lines, writer.end()] if ending else list(lines)
    headers = {
        VERSION_HEADER: str(version),
        capabilities.HEADER: known.echo(writer.format, with_end=ending),
    }
    if known.file_id_hash is not None:
        headers[capabilities.FILE_ID_HEADER] = known.file_id_hash
    return Response(protocol.body(answer), media_type=protocol.CONTENT_TYPE, headers=headers)
