"""The usage meter: one row per request of a buyer, served or refused; sums of what strangers were refused.

Upkeep replaces old rows by sums per day, which the totals here include.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, insert, select, update

from jobs.registry.database import reading, transaction
from jobs.registry.database_errors import BUSY_SECONDS
from jobs.registry.models import RefusedRequests, Usage, UsageDay


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

    def __add__(self, other: Total) -> Total:
        """Return the totals of both."""
        return Total(
            self.buyer,
            self.product,
            self.requests + other.requests,
            self.denied + other.denied,
            self.files + other.files,
            self.bytes + other.bytes,
            min(self.first_at, other.first_at),
            max(self.last_at, other.last_at),
        )


@dataclass(frozen=True)
class Refusal:
    """Requests of one address within a minute that were refused for one reason, without a buyer to name."""

    first_at: datetime
    last_at: datetime
    address: str
    operation: str
    status: int
    reason: str
    requests: int


def record(request: Request) -> None:
    """Add one request to the meter."""
    record_all([request])


def progress(request: Request) -> None:
    """Update a recorded request with the bytes sent since and how it ended."""
    record_all([], [request])


def record_all(
    requests: Sequence[Request],
    sent: Sequence[Request] = (),
    refusals: Sequence[Refusal] = (),
    *,
    patience: float = BUSY_SECONDS,
) -> None:
    """Write to the meter in one transaction.

    Args:
        requests: new ones.
        sent: recorded ones, to update with the bytes sent since and how they ended.
        refusals: sums of requests that have no row of their own.
        patience: seconds to wait for another writer of the registry.

    Raises:
        Locked: another writer kept the registry's lock for longer; nothing was written.
    """
    with transaction(patience) as session:
        if requests:
            session.execute(insert(Usage), [_row(request) for request in requests])
        for request in sent:
            session.execute(
                update(Usage)
                .where(Usage.request_id == request.request_id)
                .values(bytes=request.bytes, allowed=request.allowed, reason=_plain(request.reason, 2000))
            )
        if refusals:
            session.execute(insert(RefusedRequests), [asdict(refusal) for refusal in refusals])


def _row(request: Request) -> dict[str, Any]:
    return asdict(request) | {
        "buyer": _plain(request.buyer, 255),
        "product": _plain(request.product, 255),
        "reason": _plain(request.reason, 2000),
        "client": _plain(request.client, 512),
    }


def usage(*, product: str | None = None, buyer: str | None = None, limit: int = 1000) -> list[Usage]:
    """List requests, newest first, at most ``limit``."""
    newest = select(Usage).where(*_conditions(Usage, product, buyer)).order_by(Usage.id.desc()).limit(limit)
    with reading() as session:
        return list(session.scalars(newest))


def refusals(limit: int = 1000) -> list[RefusedRequests]:
    """List sums of refused requests that no buyer can be named for, newest first, at most ``limit``."""
    newest = select(RefusedRequests).order_by(RefusedRequests.id.desc()).limit(limit)
    with reading() as session:
        return list(session.scalars(newest))


def summary(*, product: str | None = None, buyer: str | None = None) -> list[Total]:
    """Return totals per buyer and product over all days, most bytes first."""
    totals: dict[tuple[str | None, str | None], Total] = {}
    with reading() as session:
        for kept in (_kept_requests(product, buyer), _day_sums(product, buyer)):
            for total in (Total(*row) for row in session.execute(kept)):
                known = totals.get((total.buyer, total.product))
                totals[total.buyer, total.product] = total if known is None else known + total
        if product is None and buyer is None:
            refused = session.execute(_REFUSED).one()
            if refused[0]:
                total = Total(None, None, refused[0], refused[0], 0, 0, refused[1], refused[2])
                known = totals.get((None, None))
                totals[None, None] = total if known is None else known + total
    return sorted(totals.values(), key=lambda total: (-total.bytes, total.buyer or "", total.product or ""))


_REFUSED = select(
    func.sum(RefusedRequests.requests), func.min(RefusedRequests.first_at), func.max(RefusedRequests.last_at)
)


def _kept_requests(product: str | None, buyer: str | None) -> Select[*tuple[Any, ...]]:
    return (
        select(
            Usage.buyer,
            Usage.product,
            func.count(),
            func.sum(case((Usage.allowed, 0), else_=1)),
            func.sum(case((Usage.operation == "file", Usage.files), else_=0)),
            func.coalesce(func.sum(Usage.bytes), 0),
            func.min(Usage.at),
            func.max(Usage.at),
        )
        .where(*_conditions(Usage, product, buyer))
        .group_by(Usage.buyer, Usage.product)
    )


def _day_sums(product: str | None, buyer: str | None) -> Select[*tuple[Any, ...]]:
    return (
        select(
            UsageDay.buyer,
            UsageDay.product,
            func.sum(UsageDay.requests),
            func.sum(UsageDay.denied),
            func.sum(case((UsageDay.operation == "file", UsageDay.files), else_=0)),
            func.sum(UsageDay.bytes),
            func.min(UsageDay.first_at),
            func.max(UsageDay.last_at),
        )
        .where(*_conditions(UsageDay, product, buyer))
        .group_by(UsageDay.buyer, UsageDay.product)
    )


def _conditions(table: type[Usage | UsageDay], product: str | None, buyer: str | None) -> list[ColumnElement[bool]]:
    conditions = []
    if product is not None:
        conditions.append(table.product == product)
    if buyer is not None:
        conditions.append(table.buyer == buyer)
    return conditions


def _plain(text: str | None, longest: int) -> str | None:
    # Product and client come from the caller: truncated, and free of characters that could forge a line of a report.
    if text is None:
        return None
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)[
        :longest
    ]
