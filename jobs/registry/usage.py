"""The registry's old `usage`: folds requests past their retention into sums per day, so that it stays small."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from jobs.registry.database import reading, transaction
from jobs.registry.models import RefusedRequests, Usage, UsageDay

# Rows folded in one transaction: the sharing server's meter waits for its end.
_BATCH = 5_000


def count_old_usage(before: datetime) -> int:
    """How many rows `fold_old_usage` would fold."""
    end = _midnight(before)
    with reading() as session:
        requests = session.scalars(select(func.count(Usage.id)).where(Usage.at < end)).one()
        return requests + session.scalars(select(func.count(RefusedRequests.id)).where(_ended(end))).one()


def fold_old_usage(before: datetime) -> int:
    """Replace requests and refusals of the days that ended before an instant by sums per day; returns how many rows.

    Sums keep grant, buyer, product, version and operation, and lose address, client and reason. Each batch is one
    transaction, so a request is counted once whenever this is killed.
    """
    end = _midnight(before)
    folded = 0
    while rows := _fold_requests(end) + _fold_refusals(end):
        folded += rows
    return folded


def _midnight(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _ended(end: datetime) -> Any:
    return RefusedRequests.first_at < end


def _fold_requests(end: datetime) -> int:
    with transaction() as session:
        rows = session.scalars(select(Usage).where(Usage.at < end).order_by(Usage.at).limit(_BATCH)).all()
        _add(session, [
            UsageDay(
                day=row.at.date(), grant_id=row.grant_id, buyer=row.buyer, operation=row.operation,
                product=row.product, version=row.version, requests=1, denied=int(not row.allowed),
                files=row.files, bytes=row.bytes, first_at=row.at, last_at=row.at,
            )
            for row in rows
        ])  # fmt: skip
        session.execute(delete(Usage).where(Usage.id.in_([row.id for row in rows])), execution_options=_UNSEEN)
        session.expunge_all()
        return len(rows)


def _fold_refusals(end: datetime) -> int:
    with transaction() as session:
        old = select(RefusedRequests).where(_ended(end)).order_by(RefusedRequests.first_at).limit(_BATCH)
        rows = session.scalars(old).all()
        _add(session, [
            UsageDay(
                day=row.first_at.date(), grant_id=None, buyer=None, operation=row.operation, product=None, version=None,
                requests=row.requests, denied=row.requests, files=0, bytes=0, first_at=row.first_at,
                last_at=row.last_at,
            )
            for row in rows
        ])  # fmt: skip
        ids = [row.id for row in rows]
        session.execute(delete(RefusedRequests).where(RefusedRequests.id.in_(ids)), execution_options=_UNSEEN)
        session.expunge_all()
        return len(rows)


# The session's objects are dropped right after, so they need not follow the deletion.
_UNSEEN = {"synchronize_session": False}


def _add(session: Session, parts: Sequence[UsageDay]) -> None:
    """Add sums of parts of days to the days' sums."""
    days = {part.day for part in parts}
    sums = {_key(row): row for row in session.scalars(select(UsageDay).where(UsageDay.day.in_(days)))}
    for part in parts:
        known = sums.get(_key(part))
        if known is None:
            sums[_key(part)] = part
            session.add(part)
            continue
        known.requests += part.requests
        known.denied += part.denied
        known.files += part.files
        known.bytes += part.bytes
        known.first_at = min(known.first_at, part.first_at)
        known.last_at = max(known.last_at, part.last_at)
    session.flush()


def _key(row: UsageDay) -> tuple[Hashable, ...]:
    return (row.day, row.grant_id, row.buyer, row.operation, row.product, row.version)
