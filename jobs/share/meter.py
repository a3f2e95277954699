"""Writes one meter row and one log line per request, neither with a secret in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request

from jobs.exchange import usage
from jobs.share.errors import ShareError, internal

log = logging.getLogger("exchange.share")


def entry_for(http: Request, operation: str) -> usage.Request:
    """Begin the meter entry of a request."""
    return usage.Request(operation=operation, client=http.headers.get("user-agent"))


@contextmanager
def metered(http: Request, operation: str) -> Iterator[usage.Request]:
    """Meter one request, whether it is served, refused or fails."""
    entry = entry_for(http, operation)
    try:
        with note_outcome(entry):
            yield entry
    finally:
        write(entry)


@contextmanager
def note_outcome(entry: usage.Request) -> Iterator[None]:
    """Record on a meter entry how its request ended; an internal error becomes an answer that discloses nothing.

    Raises:
        ShareError: the request was refused, or failed.
    """
    try:
        yield
    except ShareError as error:
        entry.status, entry.allowed, entry.reason = error.status, not error.denied, error.message
        raise
    except Exception as error:
        log.exception("%s %s failed", entry.request_id, entry.operation)
        answer = internal()
        entry.status, entry.reason = answer.status, f"failed: {type(error).__name__}"
        raise answer from error


def write(entry: usage.Request) -> None:
    """Write a finished entry to the meter and the log."""
    usage.record(entry)
    log_entry(entry)


def log_entry(entry: usage.Request) -> None:
    """Log an entry, without the address and headers, which hold tickets and tokens."""
    log.info(
        "%s %s %s product=%s version=%s buyer=%s files=%s bytes=%s",
        entry.request_id,
        entry.operation,
        entry.status,
        entry.product,
        entry.version,
        entry.buyer,
        entry.files,
        entry.bytes,
    )
