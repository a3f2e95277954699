"""Reads and validates what a client asks for, from query parameters and bodies."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import Request

from jobs.share.errors import invalid, malformed, slow

MAX_BODY_BYTES = 1024 * 1024

# The protocol's first spelling of a timestamp (`yyyy-[m]m-[d]d hh:mm:ss[.f...]`); the later one is ISO 8601.
_EARLY_TIMESTAMP = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2}) (\d{1,2}):(\d{2}):(\d{2})(?:\.(\d{1,9}))?", re.ASCII)


@dataclass(frozen=True)
class Query:
    """The body of a query."""

    predicate: str | None = None
    has_sql_predicates: bool = False
    limit: int | None = None
    version: int | None = None
    timestamp: datetime | None = None
    starting_version: int | None = None
    ending_version: int | None = None

    @property
    def dated(self) -> bool:
        """Whether the client named a version or a time."""
        return self.version is not None or self.timestamp is not None


@dataclass(frozen=True)
class VersionRange:
    """The versions whose changes a client asks for."""

    starting_version: int | None = None
    starting_timestamp: datetime | None = None
    ending_version: int | None = None
    ending_timestamp: datetime | None = None
    historical_metadata: bool = False


async def bounded_body(http: Request, seconds: float) -> bytes:
    """Read a request's body, stopping once it is larger than 1 MiB or has taken too long.

    Raises:
        ShareError: it is, or has.
        ClientDisconnect: the client sent only a part of it.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in http.stream():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise malformed(f"the request's body is larger than {MAX_BODY_BYTES} bytes", status=413)
    except TimeoutError:
        raise slow(f"the request's body took more than {seconds:g} seconds") from None
    return bytes(body)


def read_query(body: bytes) -> Query:
    """Read the body of a query; an empty one asks for everything.

    Raises:
        ShareError: it is not a JSON object, or a field has an invalid value.
    """
    try:
        fields = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        raise malformed("the request's body is not JSON") from None
    if not isinstance(fields, dict):
        raise malformed("the request's body is not a JSON object")
    sql = fields.get("predicateHints")
    if sql is not None and not (isinstance(sql, list) and all(isinstance(hint, str) for hint in sql)):
        raise malformed("predicateHints must be a list of strings")
    query = Query(
        predicate=_text(fields, "jsonPredicateHints"),
        has_sql_predicates=bool(sql),
        limit=_whole(fields, "limitHint"),
        version=_whole(fields, "version"),
        timestamp=_instant_or_none("timestamp", _text(fields, "timestamp")),
        starting_version=_whole(fields, "startingVersion"),
        ending_version=_whole(fields, "endingVersion"),
    )
    if sum(value is not None for value in (query.version, query.timestamp, query.starting_version)) > 1:
        raise invalid("give only one of version, timestamp and startingVersion")
    return query


def read_version_range(http: Request) -> VersionRange:
    """Read the range of changes from a request's query parameters.

    Raises:
        ShareError: there is no start, more than one start or end, or an invalid value.
    """
    versions = VersionRange(
        starting_version=version_parameter(http, "startingVersion"),
        starting_timestamp=timestamp_parameter(http, "startingTimestamp"),
        ending_version=version_parameter(http, "endingVersion"),
        ending_timestamp=timestamp_parameter(http, "endingTimestamp"),
        # The Python client writes True.
        historical_metadata=http.query_params.get("includeHistoricalMetadata", "").lower() == "true",
    )
    if (versions.starting_version is None) == (versions.starting_timestamp is None):
        raise invalid("give either startingVersion or startingTimestamp")
    if versions.ending_version is not None and versions.ending_timestamp is not None:
        raise invalid("give endingVersion or endingTimestamp, not both")
    return versions


def version_parameter(http: Request, name: str) -> int | None:
    """Read a version from a query parameter."""
    text = http.query_params.get(name)
    return None if text is None else _version(name, text)


def timestamp_parameter(http: Request, name: str) -> datetime | None:
    """Read a timestamp from a query parameter."""
    return _instant_or_none(name, http.query_params.get(name))


def instant(name: str, text: str) -> datetime:
    """Read a timestamp in either of the protocol's spellings; without a zone it is in UTC, the server's own.

    Raises:
        ShareError: the text is in neither.
    """
    try:
        early = _EARLY_TIMESTAMP.fullmatch(text)
        if early is not None:
            *parts, fraction = early.groups()
            microsecond = int((fraction or "0").ljust(6, "0")[:6])
            return datetime(*(int(part) for part in parts), microsecond, tzinfo=UTC)  # type: ignore[misc, arg-type] # six parts, by the pattern
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise invalid(f"{name} must be a timestamp, like 2026-11-22T08:00:00Z or 2026-11-22 08:00:00") from None


def _instant_or_none(name: str, text: str | None) -> datetime | None:
    return None if text is None else instant(name, text)


def _text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise malformed(f"{name} must be a string")
    return value


def _whole(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    # Some clients write 64-bit integers as strings: their language's JSON numbers cannot hold them.
    if isinstance(value, str):
        return _version(name, value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise malformed(f"{name} must be a whole number")
    return _version(name, str(value))


def _version(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise invalid(f"{name} must be a whole number of at least 0")
    return int(text)
