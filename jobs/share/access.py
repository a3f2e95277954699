"""Authenticates a request and finds what its buyer may read at that moment."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from jobs.exchange.grants import (
    Right,
    Standing,
    right_of,
    rights_numbered,
    rights_on,
    rights_with_release,
    standing,
)
from jobs.exchange.usage import Request
from jobs.registry import reading
from jobs.registry.releases import (
    Published,
    ReleaseState,
    first_since_in,
    latest_before_in,
    latest_by_in,
    latest_in,
    newest_versions_in,
    released_as_in,
    released_between_in,
    states_in,
)
from jobs.share.errors import ShareError, forbidden, invalid, missing, unauthenticated
from jobs.share.tickets import Ticket

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

SHARE = "exchange"
SCHEMA = "products"

# A buyer gets 503 within two seconds if the registry is locked: a request waits for the registry at most twice.
PATIENCE_SECONDS = 0.8

_LONGEST_TOKEN = 512
_VERSIONS_NAMED = 5


@dataclass(frozen=True)
class Version:
    """A published release, as a version of its table."""

    release: int
    number: str
    delta_version: int
    released_at: datetime

    @property
    def milliseconds(self) -> int:
        """When it was released, in milliseconds since 1970."""
        return int(self.released_at.timestamp() * 1000)


@dataclass(frozen=True)
class SharedTable:
    """A product that a buyer may read now; each release is looked up when it is asked for."""

    name: str
    token_grant: int
    product_grant: int
    latest: Version

    def at(self, version: int) -> Version:
        """Return the release at a Delta version.

        Raises:
            ShareError: no published release has this version.
        """
        found = self._find(partial(released_as_in, product=self.name, version=version))
        if found is None:
            raise invalid(f"version {version} of {self.name} is not shared; {self.shared_versions()}")
        return found

    def as_of(self, instant: datetime) -> Version:
        """Return the release that was the latest at an instant.

        Raises:
            ShareError: the first release is later.
        """
        found = self._find(partial(latest_by_in, product=self.name, instant=instant))
        if found is None:
            raise invalid(f"{self.name} had no release by {instant.isoformat()}; {self.shared_versions()}")
        return found

    def since(self, instant: datetime) -> Version:
        """Return the first release at or after an instant.

        Raises:
            ShareError: there has been no release since.
        """
        found = self._find(partial(first_since_in, product=self.name, instant=instant))
        if found is None:
            raise invalid(f"{self.name} has had no release since {instant.isoformat()}; {self.shared_versions()}")
        return found

    def before(self, version: int) -> Version | None:
        """Return the newest release of an earlier Delta version; None if there is none."""
        return self._find(partial(latest_before_in, product=self.name, version=version))

    def between(self, first: int, last: int) -> list[Version]:
        """Return the releases of a range of Delta versions, both ends included."""
        with reading(PATIENCE_SECONDS) as session:
            releases = released_between_in(session, self.name, first, last)
        # Two releases may pin the same version of the table; buyers see it once, under the later number.
        return list({release.delta_version: _version(release) for release in releases}.values())

    def shared_versions(self) -> str:
        """The newest versions that can be read, for messages."""
        with reading(PATIENCE_SECONDS) as session:
            newest = newest_versions_in(session, self.name, _VERSIONS_NAMED + 1)
        which = "the newest shared versions" if len(newest) > _VERSIONS_NAMED else "the shared versions"
        versions = ", ".join(
            f"{v.delta_version} (release {v.number} of {v.released_at:%Y-%m-%d %H:%M:%S} UTC)"
            for v in newest[-_VERSIONS_NAMED:]
        )
        return f"{which} are {versions}"

    def _find(self, find: Callable[[Session], Published | None]) -> Version | None:
        with reading(PATIENCE_SECONDS) as session:
            found = find(session)
        return _version(found) if found else None


@dataclass(frozen=True)
class Visitor:
    """A buyer whose token is valid now."""

    buyer: str
    buyer_id: int
    token_grant: int


def require_share(share: str) -> None:
    """Raise unless a share is the only one there is."""
    if share.casefold() != SHARE:
        raise missing(f"there is no share {share[:255]}; the only one is {SHARE}")


def require_schema(share: str, schema: str) -> None:
    """Raise unless a schema is the only one there is."""
    require_share(share)
    if schema.casefold() != SCHEMA:
        raise missing(f"there is no schema {share[:255]}.{schema[:255]}; the only one is {SCHEMA}")


def bearer(authorization: str | None) -> str:
    """Return the token of a request's ``Authorization`` header.

    Raises:
        ShareError: there is none.
    """
    if not authorization:
        raise unauthenticated("the request has no token; send the header `Authorization: Bearer <bearerToken>`")
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or len(token) > _LONGEST_TOKEN:
        raise unauthenticated("the Authorization header is malformed; expected `Bearer <bearerToken>`")
    return token


def authenticate(session: Session, authorization: str | None, entry: Request) -> Visitor:
    """Find the buyer behind a request's ``Authorization`` header, and record them on its meter entry.

    Raises:
        ShareError: there is no token, or it is unknown, expired or revoked.
    """
    now = datetime.now(UTC)
    own = right_of(session, bearer(authorization))
    if own is None:
        raise unauthenticated("unknown token; check bearerToken in the profile")
    entry.buyer, entry.grant_id = own.buyer, own.id
    if standing(own, now) is not Standing.LIVE:
        raise _token_refused(own, now)
    return Visitor(own.buyer, own.buyer_id, own.id)


def tables_of(session: Session, visitor: Visitor) -> dict[str, int]:
    """List the products that a buyer may read now, each with the grant that says so."""
    now = datetime.now(UTC)
    rights = rights_with_release(session, visitor.buyer_id)
    # The first of several on one product lasts longest.
    return {right.product: right.id for right in reversed(rights) if standing(right, now) is Standing.LIVE}


def shared_table(session: Session, visitor: Visitor, share: str, schema: str, name: str) -> SharedTable:
    """Find a table by its names, which are case-insensitive, for a buyer.

    Asks for the grants on this product and its newest release only, so that the cost depends neither on the buyer's
    other products nor on the number of releases.

    Raises:
        ShareError: no such table is shared with the buyer, or its grant has ended.
    """
    require_schema(share, schema)
    # Names of products are in lower case.
    product = name.casefold()
    rights = rights_on(session, visitor.buyer_id, product) if product.isidentifier() else []
    if not rights:
        raise missing(f"no table {share}.{schema}.{name[:255]} is shared with {visitor.buyer}")
    now = datetime.now(UTC)
    live = next((right for right in rights if standing(right, now) is Standing.LIVE), None)
    if live is None:
        raise forbidden(_why_not_live(rights[0], now))
    latest = latest_in(session, product)
    if latest is None:
        raise forbidden(f"every release of {product} has been recalled; ask the exchange when the next one is due")
    return SharedTable(product, visitor.token_grant, live.id, _version(latest))


def require_live(session: Session, ticket: Ticket, entry: Request) -> None:
    """Check the grants and the release behind a file's ticket as they are now, and record the buyer on its meter entry.

    Raises:
        ShareError: the token's grant or the product's grant has ended, or the release is recalled.
    """
    rights = rights_numbered(session, (ticket.token_grant, ticket.product_grant))
    covering = rights.get(ticket.product_grant)
    if covering is not None and ticket.token_grant in rights:
        entry.buyer, entry.grant_id, entry.product = covering.buyer, covering.id, covering.product
    releases = states_in(session, (ticket.release,))
    release = releases.get(ticket.release)
    if release is not None and covering is not None and release.product == covering.product:
        entry.version = release.delta_version
    reason = _why_not_served(ticket, rights, releases, datetime.now(UTC))
    if reason is not None:
        raise forbidden(reason)


def ended(tickets: Collection[Ticket]) -> dict[Ticket, str]:
    """Return those tickets that serve nothing any more as grants and releases are now, and why."""
    with reading(PATIENCE_SECONDS) as session:
        grants = {number for ticket in tickets for number in (ticket.token_grant, ticket.product_grant)}
        rights = rights_numbered(session, grants)
        releases = states_in(session, {ticket.release for ticket in tickets})
    now = datetime.now(UTC)
    reasons = {ticket: _why_not_served(ticket, rights, releases, now) for ticket in tickets}
    return {ticket: reason for ticket, reason in reasons.items() if reason is not None}


def _why_not_served(
    ticket: Ticket, rights: dict[int, Right], releases: dict[int, ReleaseState], now: datetime
) -> str | None:
    covering = rights.get(ticket.product_grant)
    if covering is None or ticket.token_grant not in rights:
        return "this ticket belongs to a grant that does not exist"
    for right in (rights[ticket.token_grant], covering):
        if standing(right, now) is not Standing.LIVE:
            return _why_not_live(right, now)
    release = releases.get(ticket.release)
    if release is None or release.product != covering.product:
        return "this ticket belongs to a release that its grant does not cover"
    if release.status != "published":
        return f"version {release.delta_version} of {release.product} was recalled"
    return None


def _version(release: Published) -> Version:
    return Version(release.id, release.number, release.delta_version, release.released_at)


def _token_refused(grant: Right, now: datetime) -> ShareError:
    answer = forbidden if standing(grant, now) is Standing.REVOKED else unauthenticated
    return answer(_why_not_live(grant, now))


def _why_not_live(grant: Right, now: datetime) -> str:
    state = standing(grant, now)
    if state is Standing.REVOKED and grant.revoked_at is not None:
        return f"the grant of {grant.product} was revoked on {grant.revoked_at:%Y-%m-%d %H:%M:%S} UTC; ask the exchange"
    if state is Standing.EARLY:
        return f"the grant of {grant.product} begins on {grant.not_before:%Y-%m-%d %H:%M:%S} UTC"
    return f"the grant of {grant.product} expired on {grant.expires_at:%Y-%m-%d %H:%M:%S} UTC; ask for a new one"
