"""Tables of participants, grants, usage and refused requests."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from jobs.registry.models.schema import Base, Sequence64


class Participant(Base):
    """A participant of the exchange: a name and a role."""

    __tablename__ = "participants"
    __table_args__ = (
        UniqueConstraint("name"),
        CheckConstraint("role in ('provider', 'broker', 'buyer', 'assessor', 'staff')", name="role"),
    )

    id: Mapped[int] = mapped_column(Sequence64, primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]


class Grant(Base):
    """A buyer's right to read one product for some time, and the hash of the token that proves it."""

    __tablename__ = "grants"
    __table_args__ = (
        UniqueConstraint("token_sha256"),
        CheckConstraint("not_before < expires_at", name="period"),
        Index(None, "buyer_id", "product"),
    )

    id: Mapped[int] = mapped_column(Sequence64, primary_key=True)
    product: Mapped[str] = mapped_column(String(255))
    buyer_id: Mapped[int] = mapped_column(ForeignKey("participants.id"))
    token_sha256: Mapped[str] = mapped_column(String(64))
    not_before: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    revoked_reason: Mapped[str | None] = mapped_column(String(512))
    created_at: Mapped[datetime]

    buyer: Mapped[Participant] = relationship(lazy="joined", innerjoin=True)


class Usage(Base):
    """One request to the sharing server by the holder of a token or ticket, allowed or not."""

    __tablename__ = "usage"
    __table_args__ = (
        UniqueConstraint("request_id"),
        CheckConstraint("operation in ('list', 'version', 'metadata', 'query', 'changes', 'file')", name="operation"),
        Index(None, "at"),
        Index(None, "buyer", "product"),
    )

    id: Mapped[int] = mapped_column(Sequence64, primary_key=True)
    request_id: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime]
    grant_id: Mapped[int | None] = mapped_column(ForeignKey("grants.id"))
    buyer: Mapped[str | None] = mapped_column(String(255))
    operation: Mapped[str] = mapped_column(String(16))
    product: Mapped[str | None] = mapped_column(String(255))
    version: Mapped[int | None] = mapped_column(BigInteger)
    files: Mapped[int] = mapped_column(default=0)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    status: Mapped[int]
    allowed: Mapped[bool]
    reason: Mapped[str | None] = mapped_column(Text)
    client: Mapped[str | None] = mapped_column(Text)


class UsageDay(Base):
    """The sum of a day's requests that are too old to be kept one by one; the day is UTC's."""

    __tablename__ = "usage_days"
    __table_args__ = (Index(None, "day"), Index(None, "buyer", "product"))

    id: Mapped[int] = mapped_column(Sequence64, primary_key=True)
    day: Mapped[date]
    grant_id: Mapped[int | None] = mapped_column(ForeignKey("grants.id"))
    buyer: Mapped[str | None] = mapped_column(String(255))
    operation: Mapped[str] = mapped_column(String(16))
    product: Mapped[str | None] = mapped_column(String(255))
    version: Mapped[int | None] = mapped_column(BigInteger)
    requests: Mapped[int] = mapped_column(BigInteger)
    denied: Mapped[int] = mapped_column(BigInteger)
    files: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]


class RefusedRequests(Base):
    """How often one address was refused for one reason within a minute; these requests have no row in `usage`."""

    __tablename__ = "refused_requests"
    __table_args__ = (Index(None, "first_at"),)

    id: Mapped[int] = mapped_column(Sequence64, primary_key=True)
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    address: Mapped[str] = mapped_column(String(64))
    operation: Mapped[str] = mapped_column(String(16))
    status: Mapped[int]
    reason: Mapped[str] = mapped_column(Text)
    requests: Mapped[int] = mapped_column(BigInteger)
