"""The registry's `releases`: which versions of a product were published, pinned or recalled."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from jobs.registry.database import reading, transaction
from jobs.registry.models import RELEASES_LISTED, Recall, Release

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
class ReleasedVersion:
    """The Delta version that a release is made of, and its files, as paths relative to the table's folder."""

    delta_version: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class ReleaseState:
    """A release's product and version, and its status: ``published`` or ``recalled``."""

    product: str
    delta_version: int
    status: str


@dataclass(frozen=True)
class Standing:
    """How a release stands now.

    Attributes:
        manifest_sha256: of its manifest, as its certificate states it.
        status: ``published`` or ``recalled``.
        superseded: whether a release of a higher number is published.
        recalled_at: when it was recalled; None unless it is.
        reason: why it was recalled.
    """

    manifest_sha256: str
    status: str
    superseded: bool
    recalled_at: datetime | None = None
    reason: str | None = None


def record_release(release: Release) -> bool:
    """Add a release; False if the product already has one of this number, which stays as it is."""
    try:
        with transaction() as session:
            session.add(release)
    except IntegrityError:
        return False
    return True


def set_recalled(release_id: int, event: Recall) -> bool:
    """Record that a release was recalled, or that a recall was lifted; False if it is so already."""
    status = "recalled" if event.recalled else "published"
    with transaction() as session:
        release = session.get_one(Release, release_id)
        if release.status == status:
            return False
        release.status = status
        event.release_id = release_id
        session.add(event)
    return True


def last_recalls() -> dict[int, Recall]:
    """The newest recall, or the newest end of one, by release."""
    with reading() as session:
        # Later rows replace earlier ones.
        return {event.release_id: event for event in session.scalars(select(Recall).order_by(Recall.id))}


def released_manifests(product: str) -> list[dict[str, Any]]:
    """The manifests of a product's releases, recalled ones too, the oldest first."""
    oldest = select(Release.manifest).where(Release.product == product)
    with reading() as session:
        return list(session.scalars(oldest.order_by(Release.major, Release.minor, Release.patch)))


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


def standing_in(session: Session, product: str, number: Number) -> Standing | None:
    """How a release stands; None if there is no such release."""
    major, minor, patch = number
    same = (Release.major == major, Release.minor == minor, Release.patch == patch)
    listed = select(Release).options(*RELEASES_LISTED).where(Release.product == product)
    release = session.scalars(listed.where(*same)).first()
    if release is None:
        return None
    published = _newest_first(product).with_only_columns(Release.major, Release.minor, Release.patch)
    newest = session.execute(published.where(Release.status == "published").limit(1)).first()
    standing = Standing(release.manifest_sha256, release.status, newest is not None and tuple(newest) > number)
    events = select(Recall).where(Recall.release_id == release.id).order_by(Recall.id.desc()).limit(1)
    event = session.scalars(events).first() if release.status == "recalled" else None
    return replace(standing, recalled_at=event.at, reason=event.reason) if event else standing


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


def published_in(session: Session, product: str | None = None) -> list[Published]:
    """Every published release, of one product or of all, by product and number, the oldest of each product first."""
    published = _PUBLISHED if product is None else _PUBLISHED.where(Release.product == product)
    return _published(session, published.order_by(Release.product, *_BY_NUMBER))


def latest_in(session: Session, product: str) -> Published | None:
    """The published release of a product's newest published Delta version."""
    return _one(session, _PUBLISHED.where(Release.product == product).order_by(*_NEWEST_VERSION))


def released_as_in(session: Session, product: str, version: int) -> Published | None:
    """The published release of a Delta version: if there are several, the one of the highest number."""
    # Asked for by a range: by equality, SQLite reads all releases of the product in the order of their numbers.
    at = _PUBLISHED.where(Release.product == product, Release.delta_version.between(version, version))
    return _one(session, at.order_by(*_NEWEST_VERSION))


def latest_by_in(session: Session, product: str, instant: datetime) -> Published | None:
    """The published release that was a product's latest at an instant."""
    until = _PUBLISHED.where(Release.product == product, Release.released_at <= instant)
    return _one(session, until.order_by(Release.released_at.desc(), *_NEWEST_VERSION))


def first_since_in(session: Session, product: str, instant: datetime) -> Published | None:
    """A product's first published release at or after an instant."""
    since = _PUBLISHED.where(Release.product == product, Release.released_at >= instant)
    return _one(session, since.order_by(Release.released_at, *_NEWEST_VERSION))


def latest_before_in(session: Session, product: str, version: int) -> Published | None:
    """The published release of a product's newest published Delta version before another."""
    earlier = _PUBLISHED.where(Release.product == product, Release.delta_version < version)
    return _one(session, earlier.order_by(*_NEWEST_VERSION))


def released_between_in(session: Session, product: str, first: int, last: int) -> list[Published]:
    """The published releases of a product's Delta versions in a range, both ends included, by version and number."""
    within = _PUBLISHED.where(Release.product == product, Release.delta_version.between(first, last))
    return _published(session, within.order_by(Release.delta_version, *_BY_NUMBER))


def newest_versions_in(session: Session, product: str, limit: int) -> list[Published]:
    """A product's published releases with the newest Delta versions, at most ``limit``, by version and number."""
    newest = _PUBLISHED.where(Release.product == product).order_by(*_NEWEST_VERSION).limit(limit)
    return _published(session, newest)[::-1]


def _published(session: Session, query: Select[*tuple[Any, ...]]) -> list[Published]:
    return [Published(*row) for row in session.execute(query)]


def _one(session: Session, query: Select[*tuple[Any, ...]]) -> Published | None:
    row = session.execute(query.limit(1)).first()
    return Published(*row) if row else None


_BY_NUMBER = (Release.major, Release.minor, Release.patch)
_NEWEST_VERSION = (
    Release.delta_version.desc(), Release.major.desc(), Release.minor.desc(), Release.patch.desc()
)  # fmt: skip
_PUBLISHED = select(
    Release.id, Release.product, *_BY_NUMBER, Release.delta_version, Release.released_at
).where(Release.status == "published")


def published_releases(product: str | None = None) -> list[Published]:
    """As `published_in`, in a transaction of its own."""
    with reading() as session:
        return published_in(session, product)


def pinned_versions(product: str) -> set[int]:
    """The Delta versions of ``gold.<product>`` that must stay readable, because a release is made of them."""
    with reading() as session:
        return set(session.scalars(select(Release.delta_version).where(Release.product == product)))


def released_versions(product: str) -> list[ReleasedVersion]:
    """What must stay readable of a product's table, because releases are made of it, recalled ones too."""
    columns = select(Release.delta_version, Release.manifest["files"]).where(Release.product == product)
    with reading() as session:
        return [
            ReleasedVersion(version, tuple(file["path"] for file in files))
            for version, files in session.execute(columns).tuples()
        ]


def pinned(release_id: int) -> Pinned:
    """What the release of this id pins.

    Raises:
        NoResultFound: there is no such release.
    """
    columns = select(Release.product, Release.delta_version, Release.manifest)
    with reading() as session:
        return Pinned(*session.execute(columns.where(Release.id == release_id)).one())


def states_in(session: Session, ids: Collection[int]) -> dict[int, ReleaseState]:
    """Product, version and status of the releases with these ids; missing ones are left out."""
    columns = select(Release.id, Release.product, Release.delta_version, Release.status)
    rows = session.execute(columns.where(Release.id.in_(ids))).tuples()
    return {number: ReleaseState(product, version, status) for number, product, version, status in rows}


def newest_terms(product: str) -> dict[str, Any] | None:
    """The parts of a newest release's manifest that state its terms, published or recalled; None if there is none."""
    # The rest of a manifest lists every file.
    parts = [Release.manifest[name].label(name) for name in ("title", "cautions", "licence", "sources")]
    with reading() as session:
        row = session.execute(_newest_first(product).with_only_columns(*parts).limit(1)).mappings().first()
    return dict(row) if row else None


def _newest_first(product: str) -> Select[Release]:
    return (
        select(Release)
        .where(Release.product == product)
        .order_by(Release.major.desc(), Release.minor.desc(), Release.patch.desc())
    )
