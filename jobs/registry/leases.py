"""The registry's `leases`: which engine may write a lake in an object store, and until when."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from jobs.registry.database import reading, transaction
from jobs.registry.models import Lease


def take_lease(lake: str, writer: str, *, now: datetime, until: datetime) -> bool:
    """Give a lake's lease to a writer, unless another writer holds it at this instant.

    Args:
        lake: the lake's address.
        writer: the engine that asks; one that holds the lease already extends it.
        now: the instant of asking; a lease that ended before it is free.
        until: when the lease ends unless it is taken again.

    Returns:
        Whether the writer holds the lease now.
    """
    free = or_(Lease.writer == writer, Lease.held_until < now)
    with transaction() as session:
        taken = session.execute(
            update(Lease).where(Lease.lake == lake, free).values(writer=writer, held_until=until)
        )
        if cast("CursorResult[Any]", taken).rowcount:
            return True
    try:
        with transaction() as session:
            session.execute(insert(Lease).values(lake=lake, writer=writer, held_until=until))
    except IntegrityError:
        # Another writer has inserted its row.
        return False
    return True


def lease_of(lake: str) -> Lease:
    """The lease of a lake that an engine has written.

    Raises:
        NoResultFound: no engine has taken it.
    """
    with reading() as session:
        return session.scalars(select(Lease).where(Lease.lake == lake)).one()
