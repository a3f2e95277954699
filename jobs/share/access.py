"""Authenticates a request and finds what its buyer may read at that moment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING

from jobs.exchange.grants import Standing, grant_of, grants_numbered, grants_of_buyer, standing
from jobs.exchange.usage import Request
from jobs.registry import reading
from jobs.registry.models import Grant
from jobs.registry.releases import published_in, state_in
from jobs.share.errors import ShareError, forbidden, invalid, missing, unauthenticated
from jobs.share.tickets import Ticket

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

SHARE = "exchange"
SCHEMA = "products"

_LONGEST_TOKEN = 512


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
    """A product that a buyer may read now."""

    name: str
    token_grant: int
    product_grant: int
    versions: tuple[Version, ...]

    @property
    def latest(self) -> Version:
        """The newest published release."""
        return self.versions[-1]

    def at(self, version: int) -> Version:
        """Return the release at a Delta version.

        Raises:
            ShareError: no published release has this version.
        """
        for release in self.versions:
            if release.delta_version == version:
                return release
        raise invalid(f"version {version} of {self.name} is not shared; {self.shared_versions}")

    def as_of(self, instant: datetime) -> Version:
        """Return the release that was the latest at an instant.

        Raises:
            ShareError: the first release is later.
        """
        earlier = [version for version in self.versions if version.released_at <= instant]
        if not earlier:
            raise invalid(f"{self.name} had no release by {instant.isoformat()}; {self.shared_versions}")
        return earlier[-1]

    def since(self, instant: datetime) -> Version:
        """Return the first release at or after an instant.

        Raises:
            ShareError: there has been no release since.
        """
        for version in self.versions:
            if version.released_at >= instant:
                return version
        raise invalid(f"{self.name} has had no release since {instant.isoformat()}; {self.shared_versions}")

    @property
    def shared_versions(self) -> str:
        """The versions that can be read, for messages."""
        versions = ", ".join(
            f"{v.delta_version} (release {v.number} of {v.released_at:%Y-%m-%d %H:%M:%S} UTC)" for v in self.versions
        )
        return f"the shared versions are {versions}"


@dataclass(frozen=True)
class Visitor:
    """A buyer whose token is valid now."""

    buyer: str
    token_grant: int
    tables: dict[str, SharedTable]
    lapsed: dict[str, str]

    def table(self, share: str, schema: str, name: str) -> SharedTable:
        """Return a table by its names, which are case-insensitive.

        Raises:
            ShareError: no such table is shared with this buyer, or its grant has ended.
        """
        require_schema(share, schema)
        key = name.casefold()
        if key in self.tables:
            return self.tables[key]
        if key in self.lapsed:
            raise forbidden(self.lapsed[key])
        raise missing(f"no table {share}.{schema}.{name[:255]} is shared with {self.buyer}")


def require_share(share: str) -> None:
    """Raise unless a share is the only one there is."""
    if share.casefold() != SHARE:
        raise missing(f"there is no share {share[:255]}; the only one is {SHARE}")


def require_schema(share: str, schema: str) -> None:
    """Raise unless a schema is the only one there is."""
    require_share(share)
    if schema.casefold() != SCHEMA:
        raise missing(f"there is no schema {share[:255]}.{schema[:255]}; the only one is {SCHEMA}")


def authenticate(authorization: str | None, entry: Request) -> Visitor:
    """Find the buyer behind a request's ``Authorization`` header, and record them on its meter entry.

    Raises:
        ShareError: there is no token, or it is unknown, expired or revoked.
    """
    token = _bearer(authorization)
    now = datetime.now(UTC)
    with reading() as session:
        own = grant_of(session, token)
        if own is None:
            raise unauthenticated("unknown token; check bearerToken in the profile")
        entry.buyer, entry.grant_id = own.buyer.name, own.id
        if standing(own, now) is not Standing.LIVE:
            raise _token_refused(own, now)
        held = grants_of_buyer(session, own.buyer_id)
        return _visitor(session, own, held, now)


def require_live(ticket: Ticket, entry: Request) -> None:
    """Check the grants and the release behind a file's ticket as they are now, and record the buyer on its meter entry.

    Raises:
        ShareError: the token's grant or the product's grant has ended, or the release is recalled.
    """
    now = datetime.now(UTC)
    with reading() as session:
        grants = grants_numbered(session, (ticket.token_grant, ticket.product_grant))
        covering = grants.get(ticket.product_grant)
        if covering is None or ticket.token_grant not in grants:
            raise forbidden("this ticket belongs to a grant that does not exist")
        entry.buyer, entry.grant_id, entry.product = covering.buyer.name, covering.id, covering.product
        for grant in grants.values():
            if standing(grant, now) is not Standing.LIVE:
                raise forbidden(_why_not_live(grant, now))
        release = state_in(session, ticket.release)
    if release is None or release.product != covering.product:
        raise forbidden("this ticket belongs to a release that its grant does not cover")
    entry.version = release.delta_version
    if release.status != "published":
        raise forbidden(f"version {release.delta_version} of {release.product} was recalled")


def _visitor(session: Session, own: Grant, held: list[Grant], now: datetime) -> Visitor:
    versions = _published(session, {grant.product for grant in held})
    tables: dict[str, SharedTable] = {}
    lapsed: dict[str, str] = {}
    for grant in held:
        key = grant.product.casefold()
        if standing(grant, now) is not Standing.LIVE:
            lapsed.setdefault(key, _why_not_live(grant, now))
        elif grant.product not in versions:
            lapsed[key] = (
                f"every release of {grant.product} has been recalled; ask the exchange when the next one is due"
            )
        elif key not in tables:
            tables[key] = SharedTable(grant.product, own.id, grant.id, versions[grant.product])
    return Visitor(own.buyer.name, own.id, tables, lapsed)


def _published(session: Session, products: set[str]) -> dict[str, tuple[Version, ...]]:
    by_product: dict[str, dict[int, Version]] = {}
    # The sort is stable: releases of one version stay in the order of their numbers.
    for release in sorted(published_in(session, products), key=attrgetter("delta_version")):
        # Two releases may pin the same version of the table; buyers see it once, under the later number.
        by_product.setdefault(release.product, {})[release.delta_version] = Version(
            release.id, release.number, release.delta_version, release.released_at
        )
    return {product: tuple(by_version.values()) for product, by_version in by_product.items()}


def _bearer(authorization: str | None) -> str:
    if not authorization:
        raise unauthenticated("the request has no token; send the header `Authorization: Bearer <bearerToken>`")
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or len(token) > _LONGEST_TOKEN:
        raise unauthenticated("the Authorization header is malformed; expected `Bearer <bearerToken>`")
    return token


def _token_refused(grant: Grant, now: datetime) -> ShareError:
    answer = forbidden if standing(grant, now) is Standing.REVOKED else unauthenticated
    return answer(_why_not_live(grant, now))


def _why_not_live(grant: Grant, now: datetime) -> str:
    state = standing(grant, now)
    if state is Standing.REVOKED and grant.revoked_at is not None:
        return f"the grant of {grant.product} was revoked on {grant.revoked_at:%Y-%m-%d %H:%M:%S} UTC; ask the exchange"
    if state is Standing.EARLY:
        return f"the grant of {grant.product} begins on {grant.not_before:%Y-%m-%d %H:%M:%S} UTC"
    return f"the grant of {grant.product} expired on {grant.expires_at:%Y-%m-%d %H:%M:%S} UTC; ask for a new one"
