"""Enrols participants of the exchange, each with a name and a role."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.errors import ExchangeError
from jobs.registry.database import reading, transaction
from jobs.registry.models import Participant

ROLES = ("provider", "broker", "buyer", "assessor", "staff")


def enrol(name: str, role: str) -> Participant:
    """Add a participant, or return the existing one of this name and role.

    Raises:
        ExchangeError: the name is invalid, the role is unknown, or the name has another role.
    """
    with transaction() as session:
        return enrol_in(session, name, role)


def enrol_in(session: Session, name: str, role: str) -> Participant:
    """Do what ``enrol`` does, within the caller's transaction."""
    if role not in ROLES:
        raise ExchangeError(f"there is no role {role!r}", expected=f"one of {', '.join(ROLES)}")
    _require_name(name)
    participant = session.scalar(select(Participant).where(Participant.name == name))
    if participant is None:
        participant = Participant(name=name, role=role, created_at=datetime.now(UTC))
        session.add(participant)
        session.flush()
    if participant.role != role:
        raise ExchangeError(
            f"{name} takes part as {participant.role}, not as {role}",
            expected=f"a participant with the role {role}, or a new name",
            next_step=f"enrol the organisation under another name as {role}",
        )
    return participant


def participants() -> list[Participant]:
    """List all participants by name."""
    with reading() as session:
        return list(session.scalars(select(Participant).order_by(Participant.name)))


def _require_name(name: str) -> None:
    if name.strip() != name or not 0 < len(name) <= 255 or not name.isprintable():
        raise ExchangeError(
            f"{name!r} is not a valid name for a participant",
            expected="1 to 255 printable characters without spaces at either end",
        )
