"""One row in the meter for every request at the door, and one line in the log, neither with anything secret in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request

from jobs.exchange import usage
from jobs.share.refusal import Refusal, internal

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
    """Note on a meter entry how its request ended; a fault of ours becomes an answer that tells nothing of it.

    Raises:
        Refusal: the request was refused, or failed.
    """
    try:
        yield
    except Refusal as refusal:
        entry.status, entry.allowed, entry.reason = refusal.status, not refusal.denied, refusal.message
        raise
    except Exception as error:
        log.exception("%s %s failed", entry.request_id, entry.operation)
        answer = internal()
        entry.status, entry.reason = answer.status, f"failed: {type(error).__name__}"
        raise answer from error


def write(entry: usage.Request) -> None:
    """Write a finished entry to the meter and the log."""
    usage.record(entry)
    tell(entry)


def tell(entry: usage.Request) -> None:
    """Write an entry to the log; not the address or a header, which hold tickets and tokens."""
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
