"""The usage meter: one row per request of a buyer, served or refused."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, case, func, select, update

from jobs.registry.database import reading, transaction
from jobs.registry.models import Usage


@dataclass
class Request:
    """One request, as far as it has got. Never holds the token or a ticket."""

    operation: str
    client: str | None = None
    product: str | None = None
    buyer: str | None = None
    grant_id: int | None = None
    version: int | None = None
    files: int = 0
    bytes: int = 0
    status: int = 200
    allowed: bool = True
    reason: str | None = None
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Total:
    """Totals of one buyer and product; either is None for requests that did not name it."""

    buyer: str | None
    product: str | None
    requests: int
    denied: int
    files: int
    bytes: int
    first_at: datetime
    last_at: datetime


def record(request: Request) -> None:
    """Add one request to the meter."""
    with transaction() as session:
        session.add(
            Usage(
                request_id=request.request_id,
                at=request.at,
                grant_id=request.grant_id,
                buyer=_plain(request.buyer, 255),
                operation=request.operation,
                product=_plain(request.product, 255),
                version=request.version,
                files=request.files,
                bytes=request.bytes,
                status=request.status,
                allowed=request.allowed,
                reason=_plain(request.reason, 2000),
                client=_plain(request.client, 512),
            )
        )


def progress(request: Request) -> None:
    """Update a recorded request with the bytes sent since and how it ended."""
    with transaction() as session:
        session.execute(
            update(Usage)
            .where(Usage.request_id == request.request_id)
            .values(bytes=request.bytes, allowed=request.allowed, reason=_plain(request.reason, 2000))
        )


def usage(*, product: str | None = None, buyer: str | None = None, limit: int = 1000) -> list[Usage]:
    """List requests, newest first, at most ``limit``."""
    newest = select(Usage).where(*_conditions(product, buyer)).order_by(Usage.id.desc()).limit(limit)
    with reading() as session:
        return list(session.scalars(newest))


def summary(*, product: str | None = None, buyer: str | None = None) -> list[Total]:
    """Return totals per buyer and product, most bytes first."""
    sent = func.coalesce(func.sum(Usage.bytes), 0)
    totals = (
        select(
            Usage.buyer,
            Usage.product,
            func.count(),
            func.sum(case((Usage.allowed, 0), else_=1)),
            func.sum(case((Usage.operation == "file", Usage.files), else_=0)),
            sent,
            func.min(Usage.at),
            func.max(Usage.at),
        )
        .where(*_conditions(product, buyer))
        .group_by(Usage.buyer, Usage.product)
        .order_by(sent.desc(), Usage.buyer)
    )
    with reading() as session:
        return [Total(*row) for row in session.execute(totals)]


def _conditions(product: str | None, buyer: str | None) -> list[ColumnElement[bool]]:
    conditions = []
    if product is not None:
        conditions.append(Usage.product == product)
    if buyer is not None:
        conditions.append(Usage.buyer == buyer)
    return conditions


def _plain(text: str | None, longest: int) -> str | None:
    # Product and client come from the caller: truncated, and free of characters that could forge a line of a report.
    if text is None:
        return None
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)[
        :longest
    ]
