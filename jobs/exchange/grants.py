"""Grants buyers access to products for a time, and issues the tokens that prove it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from sqlalchemy import Select, exists, select
from sqlalchemy.orm import Session

from jobs.errors import ExchangeError, NotFound
from jobs.exchange.participants import enrol_in
from jobs.registry.database import reading, transaction
from jobs.registry.models import Grant, Participant, Release
from jobs.settings import settings

# The path under which the sharing server answers; every profile's endpoint ends with it.
PREFIX = "/delta-sharing"
MAX_DAYS = 3650
MAX_REASON = 512


class Standing(Enum):
    """The state of a grant at one instant."""

    LIVE = "live"
    EARLY = "not valid yet"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Right:
    """A grant as a request needs it: who may read what, and when."""

    id: int
    product: str
    buyer: str
    buyer_id: int
    not_before: datetime
    expires_at: datetime
    revoked_at: datetime | None


def standing(grant: Grant | Right, at: datetime) -> Standing:
    """Return a grant's state at an instant; a revocation outweighs the period."""
    if grant.revoked_at is not None:
        return Standing.REVOKED
    if at < grant.not_before:
        return Standing.EARLY
    if at >= grant.expires_at:
        return Standing.EXPIRED
    return Standing.LIVE


def token_digest(token: str) -> str:
    """Return what is stored of a token: its sha256 as 64 hexadecimal characters.

    Slow, salted hashes protect passwords, which people choose and reuse. A token is 256 random bits, which no fast hash
    makes guessable, and with a plain hash the database can look the grant up in an index.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def create_grant(product: str, buyer: str, days: int, endpoint: str | None = None) -> tuple[Grant, dict[str, Any]]:
    """Let a buyer read a product for some days from now.

    Args:
        product: the product's name; it must have a published release.
        buyer: the buyer's name; enrolled with the role buyer if the name is new.
        days: how long, 1 to 3650 days.
        endpoint: address of the sharing server as the buyer sees it; by default this machine's own.

    Returns:
        The grant, and the Delta Sharing profile (version 1) to hand to the buyer. The profile holds the only copy
        of the token.

    Raises:
        NotFound: the product has no published release.
        ExchangeError: the days are out of range, or the participant is not a buyer.
    """
    if not 1 <= days <= MAX_DAYS:
        raise ExchangeError(f"a grant cannot last {days} days", expected=f"1 to {MAX_DAYS} days")
    token = secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    with transaction() as session:
        _require_release(session, product)
        grant = Grant(
            product=product,
            buyer=enrol_in(session, buyer, "buyer"),
            token_sha256=token_digest(token),
            not_before=now,
            expires_at=now + timedelta(days=days),
            created_at=now,
        )
        session.add(grant)
    return grant, {
        "shareCredentialsVersion": 1,
        "endpoint": (endpoint or default_endpoint()).rstrip("/"),
        "bearerToken": token,
        "expirationTime": grant.expires_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


def default_endpoint() -> str:
    """Return the address under which buyers reach the sharing server; by default this machine's own."""
    here = settings()
    if here.share_url:
        return here.share_url
    host = f"[{here.share_host}]" if ":" in here.share_host else here.share_host
    return f"http://{host}:{here.share_port}{PREFIX}"


def revoke(
    reason: str, *, grant_id: int | None = None, product: str | None = None, buyer: str | None = None
) -> list[Grant]:
    """Revoke one grant by its number, or all grants of a buyer on a product; the next request is refused.

    Returns:
        The grants that this call revoked.

    Raises:
        NotFound: there is no such grant, or all are revoked or expired already.
        ExchangeError: there is no reason, or neither a number nor a product and buyer.
    """
    if not reason.strip() or len(reason) > MAX_REASON:
        raise ExchangeError("a revocation needs a reason", expected=f"1 to {MAX_REASON} characters")
    if grant_id is None and (product is None or buyer is None):
        raise ExchangeError("the grant to revoke is ambiguous", expected="its number, or a product and a buyer")
    now = datetime.now(UTC)
    selected = select(Grant).order_by(Grant.id)
    if grant_id is not None:
        selected = selected.where(Grant.id == grant_id)
    if product is not None:
        selected = selected.where(Grant.product == product)
    if buyer is not None:
        selected = selected.where(Grant.buyer.has(name=buyer))
    with transaction() as session:
        matching = list(session.scalars(selected))
        revocable = [grant for grant in matching if standing(grant, now) in (Standing.LIVE, Standing.EARLY)]
        if not revocable:
            raise _nothing_to_revoke(matching, now)
        for grant in revocable:
            grant.revoked_at = now
            grant.revoked_reason = reason.strip()
    return revocable


def grants(*, product: str | None = None, buyer: str | None = None) -> list[Grant]:
    """List grants in any state, oldest first."""
    matching = select(Grant).order_by(Grant.id)
    if product is not None:
        matching = matching.where(Grant.product == product)
    if buyer is not None:
        matching = matching.where(Grant.buyer.has(name=buyer))
    with reading() as session:
        return list(session.scalars(matching))


def right_of(session: Session, token: str) -> Right | None:
    """Return the right that a token proves, in any state."""
    rights = _rights(session, _RIGHTS.where(Grant.token_sha256 == token_digest(token)))
    return rights[0] if rights else None


def rights_numbered(session: Session, ids: Collection[int]) -> dict[int, Right]:
    """Return the rights of the grants with these numbers, in any state; missing ones are left out."""
    return {right.id: right for right in _rights(session, _RIGHTS.where(Grant.id.in_(ids)))}


def rights_on(session: Session, buyer_id: int, product: str) -> list[Right]:
    """List a buyer's rights on a product in any state, the one that lasts longest first."""
    held = _RIGHTS.where(Grant.buyer_id == buyer_id, Grant.product == product)
    return _rights(session, held.order_by(*_LONGEST_FIRST))


def rights_with_release(session: Session, buyer_id: int) -> list[Right]:
    """List a buyer's rights, in any state, on products that have a published release; the longest first."""
    published = exists().where(Release.product == Grant.product, Release.status == "published")
    return _rights(session, _RIGHTS.where(Grant.buyer_id == buyer_id, published).order_by(*_LONGEST_FIRST))


_LONGEST_FIRST = (Grant.expires_at.desc(), Grant.id.desc())
_RIGHTS = select(
    Grant.id, Grant.product, Participant.name, Grant.buyer_id, Grant.not_before, Grant.expires_at, Grant.revoked_at
).join(Participant, Participant.id == Grant.buyer_id)


def _rights(session: Session, query: Select[*tuple[Any, ...]]) -> list[Right]:
    return [Right(*row) for row in session.execute(query)]


def _require_release(session: Session, product: str) -> None:
    released = exists().where(Release.product == product, Release.status == "published")
    if session.scalar(select(released)):
        return
    others = session.scalars(select(Release.product).where(Release.status == "published").distinct())
    names = ", ".join(sorted(others)) or "none yet"
    raise NotFound(
        f"the product {product} has no published release",
        expected=f"a released product: {names}",
        next_step=f"release it with `exchange release {product}`, or choose another",
    )


def _nothing_to_revoke(matching: list[Grant], now: datetime) -> NotFound:
    if not matching:
        return NotFound("there is no such grant", next_step="`exchange grants` lists the grants")
    last = matching[-1]
    since = last.revoked_at or last.expires_at
    return NotFound(
        f"grant {last.id} of {last.product} to {last.buyer.name} is {standing(last, now).value} already, "
        f"since {since:%Y-%m-%d %H:%M} UTC"
    )
