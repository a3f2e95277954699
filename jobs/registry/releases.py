"""The registry's `releases`: which versions of a product were published, pinned or recalled."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from jobs.registry.database import reading, transaction
from jobs.registry.models import RELEASES_LISTED, Release

Number = tuple[int, int, int]


@dataclass(frozen=True)
class Published:
    """A published release without its manifest and certificate."""

    id: int
    product: str
    major: int
    minor: int
    patch: int
    delta_version: int
    released_at: datetime

    @property
    def number(self) -> str:
        """The release's semantic version, ``1.2.0``."""
        return f"{self.major}.{self.minor}.{self.patch}"


@dataclass(frozen=True)
class Pinned:
    """What a release pins: a Delta version of its product's table, and the manifest of that version's files."""

    product: str
    delta_version: int
    manifest: dict[str, Any]


@dataclass(frozen=True)
class ReleaseState:
    """A release's product and version, and its status: ``published`` or ``recalled``."""

    product: str
    delta_version: int
    status: str


def record_release(release: Release) -> bool:
    """Add a release; False if the product already has one of this number, which stays as it is."""
    try:
        with transaction() as session:
            session.add(release)
    except IntegrityError:
        return False
    return True


def recall_published(product: str) -> int:
    """Recall every published release of a product; returns how many there were."""
    published = select(Release).where(Release.product == product, Release.status == "published")
    with transaction() as session:
        releases = list(session.scalars(published))
        for release in releases:
            release.status = "recalled"
    return len(releases)


def releases_of(product: str) -> list[Release]:
    """A product's releases, newest first, without manifests and certificates."""
    with reading() as session:
        return list(session.scalars(_newest_first(product).options(*RELEASES_LISTED)))


def newest_release(product: str) -> Release | None:
    """A product's newest release, published or recalled; None if it has none."""
    with reading() as session:
        return session.scalars(_newest_first(product).limit(1)).first()


def newest_published_in(session: Session, product: str) -> Release | None:
    """A product's newest release that is not recalled."""
    return session.scalars(_newest_first(product).where(Release.status == "published").limit(1)).first()


def release_numbered_in(session: Session, product: str, number: Number) -> Release | None:
    """The release of a product that has this number, whatever its status."""
    major, minor, patch = number
    same = (Release.major == major, Release.minor == minor, Release.patch == patch)
    return session.scalars(select(Release).where(Release.product == product, *same)).first()


def release_numbered(product: str, number: Number) -> Release | None:
    """As `release_numbered_in`, in a transaction of its own."""
    with reading() as session:
        return release_numbered_in(session, product, number)


def numbers_in(session: Session, product: str) -> list[Number]:
    """The numbers of a product's releases, newest first."""
    numbers = _newest_first(product).with_only_columns(Release.major, Release.minor, Release.patch)
    return [(major, minor, patch) for major, minor, patch in session.execute(numbers)]


def release_of_version(product: str, delta_version: int) -> Release | None:
    """The first release made of a Delta version of the product's table."""
    same = (Release.product == product, Release.delta_version == delta_version)
    with reading() as session:
        return session.scalars(select(Release).where(*same).order_by(Release.id).limit(1)).first()


def releases_with_changes(product: str | None = None) -> list[tuple[Release, dict[str, Any]]]:
    """Releases by product, newest first, each with its manifest's ``diff``, empty if it has none.

    Args:
        product: only those of this product.
    """
    # The rest of a manifest lists every file.
    listed = select(Release, Release.manifest["diff"]).options(*RELEASES_LISTED)
    listed = listed.order_by(Release.product, Release.major.desc(), Release.minor.desc(), Release.patch.desc())
    if product is not None:
        listed = listed.where(Release.product == product)
    with reading() as session:
        return [(release, changes or {}) for release, changes in session.execute(listed).tuples()]


def newest_published() -> dict[str, Release]:
    """Each product's newest published release, without its manifest and certificate."""
    published = select(Release).where(Release.status == "published").options(*RELEASES_LISTED)
    with reading() as session:
        # Later rows replace earlier ones.
        return {
            release.product: release
            for release in session.scalars(published.order_by(Release.major, Release.minor, Release.patch))
        }


def published_in(session: Session, products: Collection[str] | None = None) -> list[Published]:
    """Published releases by product and number, the oldest of each product first.

    Args:
        session: the transaction to read in.
        products: only those of these products.
    """
    by_number = (Release.product, Release.major, Release.minor, Release.patch)
    columns = select(Release.id, *by_number, Release.delta_version, Release.released_at)
    published = columns.where(Release.status == "published").order_by(*by_number)
    if products is not None:
        published = published.where(Release.product.in_(products))
    return [Published(*row) for row in session.execute(published)]


def published_releases() -> list[Published]:
    """Every published release, by product and number, the oldest of each product first."""
    with reading() as session:
        return published_in(session)


def pinned_versions(product: str) -> set[int]:
    """The Delta versions of ``gold.<product>`` that must stay readable, because a release is made of them."""
    with reading() as session:
        return set(session.scalars(select(Release.delta_version).where(Release.product == product)))


def pinned(release_id: int) -> Pinned:
    """What the release of this id pins.

    Raises:
        NoResultFound: there is no such release.
    """
    columns = select(Release.product, Release.delta_version, Release.manifest)
    with reading() as session:
        return Pinned(*session.execute(columns.where(Release.id == release_id)).one())


def state_in(session: Session, release_id: int) -> ReleaseState | None:
    """Product, version and status of the release of this id; None if there is no such release."""
    columns = select(Release.product, Release.delta_version, Release.status)
    row = session.execute(columns.where(Release.id == release_id)).one_or_none()
    return ReleaseState(*row) if row else None


def is_released(product: str) -> bool:
    """Whether a product has any release, published or recalled."""
    with reading() as session:
        return session.scalars(select(Release.id).where(Release.product == product).limit(1)).first() is not None


def _newest_first(product: str) -> Select[Release]:
    return (
        select(Release)
        .where(Release.product == product)
        .order_by(Release.major.desc(), Release.minor.desc(), Release.patch.desc())
    )
