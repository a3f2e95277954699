"""Answers requests about one table: its version, metadata, files and changes."""

from __future__ import annotations

import time
from collections.abc import Iterator

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response

from jobs.exchange import usage
from jobs.exchange.grants import PREFIX
from jobs.settings import settings
from jobs.share import capabilities, protocol
from jobs.share.access import SharedTable, Version
from jobs.share.capabilities import Capabilities
from jobs.share.errors import invalid
from jobs.share.hints import select_files
from jobs.share.meter import MeteredRoute, entry_of, granted_table
from jobs.share.parameters import (
    VersionRange,
    bounded_body,
    read_query,
    read_version_range,
    timestamp_parameter,
    version_parameter,
)
from jobs.share.protocol import Writer
from jobs.share.snapshot import SharedFile, SharedSnapshot, shared_snapshot
from jobs.share.tickets import TICKET_SECONDS, Ticket, signer

VERSION_HEADER = "Delta-Table-Version"

_TABLE = "/shares/{share}/schemas/{schema}/tables/{table}"

# Clients built on Delta Kernel (the official one, for the delta format) fetch an address over HTTP only if a parameter
# marks it as signed; otherwise they look for a file of that name on their own disk. This spelling (permission: read) is
# not tied to one vendor.
_SIGNED = "?sp=r"

router = APIRouter(route_class=MeteredRoute)


# The protocol's first clients asked for the version with HEAD on the table itself.
@router.head(_TABLE, name="version")
@router.get(f"{_TABLE}/version", name="version")
async def get_version(http: Request, share: str, schema: str, table: str) -> Response:
    """Return the latest version, or the first one since a time."""
    shared = await granted_table(http, share, schema, table)
    since = timestamp_parameter(http, "startingTimestamp")
    version = shared.latest if since is None else await run_sync(shared.since, since)
    entry_of(http).version = version.delta_version
    return Response(headers={VERSION_HEADER: str(version.delta_version)})


@router.get(f"{_TABLE}/metadata", name="metadata")
async def get_metadata(http: Request, share: str, schema: str, table: str) -> Response:
    """Return the schema of a version."""
    shared = await granted_table(http, share, schema, table)
    return await run_sync(_metadata, http, shared)


def _metadata(http: Request, shared: SharedTable) -> Response:
    named, instant = version_parameter(http, "version"), timestamp_parameter(http, "timestamp")
    if named is not None and instant is not None:
        raise invalid("give version or timestamp, not both")
    version = shared.at(named) if named is not None else shared.as_of(instant) if instant else shared.latest
    entry_of(http).version = version.delta_version
    state = shared_snapshot(version.release)
    client = _capabilities(http)
    writer = _writer(http, shared, client, state)
    dated = version.delta_version if named is not None or instant is not None else None
    return _answer(version.delta_version, client, writer, writer.head(state, version=dated), with_end=False)


@router.post(f"{_TABLE}/query", name="query")
async def query(http: Request, share: str, schema: str, table: str) -> Response:
    """Return the files of a version, or those added and removed since one."""
    # The body is read only of those who may ask.
    shared = await granted_table(http, share, schema, table)
    body = await bounded_body(http, settings().share_body_seconds)
    return await run_sync(_query, http, shared, body)


def _query(http: Request, shared: SharedTable, body: bytes) -> Response:
    request = read_query(body)
    entry = entry_of(http)
    if request.starting_version is not None:
        versions = VersionRange(
            starting_version=request.starting_version,
            ending_version=request.ending_version,
            historical_metadata=True,
        )
        return _changes(http, entry, shared, versions)
    version = shared.latest
    if request.version is not None:
        version = shared.at(request.version)
    elif request.timestamp is not None:
        version = shared.as_of(request.timestamp)
    entry.version = version.delta_version
    state = shared_snapshot(version.release)
    client = _capabilities(http)
    writer = _writer(http, shared, client, state)
    files = select_files(
        state, predicate=request.predicate, limit=request.limit, other_hints=request.has_sql_predicates
    )
    entry.files = len(files)
    dated = version.delta_version if request.dated else None
    lines = [
        *writer.head(state, version=dated),
        *(writer.file(file, version, dated=request.dated) for file in files),
    ]
    return _answer(version.delta_version, client, writer, iter(lines), with_end=True)


@router.get(f"{_TABLE}/changes", name="changes")
async def get_changes(http: Request, share: str, schema: str, table: str) -> Response:
    """Return the files added and removed between released versions."""
    shared = await granted_table(http, share, schema, table)
    return await run_sync(_changes, http, entry_of(http), shared, read_version_range(http))


def _changes(http: Request, entry: usage.Request, table: SharedTable, versions: VersionRange) -> Response:
    start, before, within = _released_within(table, versions)
    first, last = within[0] if within else before, within[-1] if within else before
    if first is None or last is None:
        raise invalid(f"{table.name} had no release by then; {table.shared_versions}")
    entry.version = last.delta_version
    described = shared_snapshot(first.release if versions.historical_metadata else last.release)
    client = _capabilities(http)
    writer = _writer(http, table, client, described)
    # The Python client replays these lines as a Delta log of its own, and needs its first version.
    dated = start if versions.historical_metadata or writer.format == capabilities.DELTA else None
    lines = list(writer.head(described, version=dated, change_feed=True))
    earlier = (before, shared_snapshot(before.release)) if before else None
    for version in within:
        now = (version, shared_snapshot(version.release))
        if versions.historical_metadata and now[1].schema_string != described.schema_string:
            described = now[1]
            lines.append(writer.metadata(described, version=version.delta_version, change_feed=True))
        changes = [writer.change(change) for change in protocol.changes_between(earlier, now)]
        entry.files += len(changes)
        lines += changes
        earlier = now
    return _answer(first.delta_version, client, writer, iter(lines), with_end=True)


def _released_within(table: SharedTable, versions: VersionRange) -> tuple[int, Version | None, list[Version]]:
    """Return the first version of a range, the release before it, and the releases in it, both ends included.

    The ends need not be released versions: a client that has read version 7 rightly continues from 8. What happened
    between two releases is not itemised.
    """
    latest = table.latest.delta_version
    start = versions.starting_version or 0
    if versions.starting_timestamp is not None:
        start = table.since(versions.starting_timestamp).delta_version
    if start > latest:
        raise invalid(f"startingVersion {start} is later than the latest version {latest}; {table.shared_versions}")
    end = latest if versions.ending_version is None else versions.ending_version
    if versions.ending_timestamp is not None:
        end = table.as_of(versions.ending_timestamp).delta_version
    if end < start:
        raise invalid(f"the end, version {end}, is before the start, version {start}; {table.shared_versions}")
    return start, table.before(start), table.between(start, end)


def _capabilities(http: Request) -> Capabilities:
    return capabilities.read(http.headers.get(capabilities.HEADER), http.headers.get(capabilities.FILE_ID_HEADER))


def _writer(http: Request, table: SharedTable, client: Capabilities, state: SharedSnapshot) -> Writer:
    chosen = client.choose(state.min_reader_version, state.reader_features)
    expires = int(time.time()) + TICKET_SECONDS
    tickets = signer()
    # Without the setting, the addresses are those by which the client says that it came.
    endpoint = settings().share_url or f"{http.base_url}{PREFIX.strip('/')}"
    base = f"{endpoint}/files/"

    def url_of(file: SharedFile, version: Version) -> str:
        ticket = Ticket(table.token_grant, table.product_grant, version.release, file.key, expires)
        return f"{base}{tickets.ticket(ticket)}{_SIGNED}"

    return Writer(chosen, client.file_id_hash or chosen, url_of, expires * 1000)


def _answer(version: int, client: Capabilities, writer: Writer, lines: Iterator[str], *, with_end: bool) -> Response:
    ending = with_end and client.end_stream_action
    answer = [*lines, writer.end()] if ending else list(lines)
    headers = {
        VERSION_HEADER: str(version),
        capabilities.HEADER: client.echo(writer.format, with_end=ending),
    }
    if client.file_id_hash is not None:
        headers[capabilities.FILE_ID_HEADER] = client.file_id_hash
    return Response(protocol.body(answer), media_type=protocol.CONTENT_TYPE, headers=headers)
