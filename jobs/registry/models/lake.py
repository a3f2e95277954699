"""Tables of the lake's records: identity, leases, landings, runs, refused batches, checks, pointers and releases."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
    event,
    inspect,
)
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Mapped, Mapper, defer, mapped_column, relationship

from jobs.errors import Tampered
from jobs.registry.models.schema import Base, Sequence64


class Identity(Base):
    """Which registry this is; its one row is made with the table and never changes."""

    __tablename__ = "identity"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)


class Lease(Base):
    """Which engine has the sole right to write a lake in an object store, and until when."""

    __tablename__ = "leases"

    lake: Mapped[str] = mapped_column(String(1024), primary_key=True)
    writer: Mapped[str] = mapped_column(Text)
    held_until: Mapped[datetime]


class Landing(Base):
    """One arrival of a file; ``id`` is its place in the order of arrival.

    The same bytes may arrive several times: under two names or dates, or because a publisher goes back to an earlier
    file. ``arrival`` counts those of one source, from 1, and they share their ``path``. ``loaded_at``, ``rows`` and
    ``rows_refused`` are set once bronze has it; ``fault`` says why a file could not be read to its end.
    The last three are set once staff decided that no table may have it.
    """

    __tablename__ = "landings"
    __table_args__ = (
        UniqueConstraint("source", "sha256", "arrival"),
        Index(None, "source", "id"),
        # Without it, SQLite would reuse the number of a deleted last row.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Sequence64, primary_key=True)
    source: Mapped[str] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(String(64))
    arrival: Mapped[int] = mapped_column(default=1, server_default="1")
    path: Mapped[str] = mapped_column(Text)
    file_name: Mapped[str] = mapped_column(Text)
    url: Mapped[str | None] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    etag: Mapped[str | None] = mapped_column(Text)
    published_at: Mapped[datetime | None]
    fetched_at: Mapped[datetime]
    logical_date: Mapped[datetime]
    run_id: Mapped[str] = mapped_column(String(255))
    loaded_at: Mapped[datetime | None]
    rows: Mapped[int | None] = mapped_column(BigInteger)
    rows_refused: Mapped[int | None] = mapped_column(BigInteger)
    fault: Mapped[str | None] = mapped_column(Text)
    dropped_at: Mapped[datetime | None]
    dropped_by: Mapped[str | None] = mapped_column(String(255))
    drop_reason: Mapped[str | None] = mapped_column(Text)

    @property
    def tag(self) -> str:
        """What the arrival's rows carry in bronze, silver and quarantine: the sha256, with ``.2`` for the second."""
        return self.sha256 if self.arrival in (None, 1) else f"{self.sha256}.{self.arrival}"


class Run(Base):
    """One step of one source or product, with the counts that must balance."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint("kind in ('source', 'product')", name="kind"),
        CheckConstraint("status in ('running', 'succeeded', 'unchanged', 'failed')", name="status"),
        Index(None, "run_id"),
        Index(None, "name", "step", "started_at"),
    )

    id: Mapped[int] = mapped_column(Sequence64, primary_key=True)
    run_id: Mapped[str] = mapped_column(String(255))
    step: Mapped[str] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(255))
    table_name: Mapped[str | None] = mapped_column(String(255))
    logical_date: Mapped[datetime]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    status: Mapped[str] = mapped_column(String(16))
    rows_in: Mapped[int | None] = mapped_column(BigInteger)
    rows_out: Mapped[int | None] = mapped_column(BigInteger)
    rows_quarantined: Mapped[int | None] = mapped_column(BigInteger)
    rows_duplicate: Mapped[int | None] = mapped_column(BigInteger)
    rows_dropped: Mapped[int | None] = mapped_column(BigInteger)
    rows_unchanged: Mapped[int | None] = mapped_column(BigInteger)
    rows_superseded: Mapped[int | None] = mapped_column(BigInteger)
    bytes_in: Mapped[int | None] = mapped_column(BigInteger)
    input: Mapped[dict[str, Any] | None]
    output_version: Mapped[int | None] = mapped_column(BigInteger)
    message: Mapped[str | None] = mapped_column(Text)


class RefusedBatch(Base):
    """The newest batch of a source's landings none of whose rows went into its table; see `refusals.BatchRefusal`."""

    __tablename__ = "refused_batches"

    source: Mapped[str] = mapped_column(String(255), primary_key=True)
    landing_id: Mapped[int] = mapped_column(BigInteger)
    base_version: Mapped[int | None] = mapped_column(BigInteger)
    made_by: Mapped[str] = mapped_column(String(64))


class Check(Base):
    """The result of the expectations for one Delta version of one table."""

    __tablename__ = "checks"
    __table_args__ = (Index(None, "table_name", "delta_version"),)

    id: Mapped[int] = mapped_column(Sequence64, primary_key=True)
    table_name: Mapped[str] = mapped_column(String(255))
    delta_version: Mapped[int] = mapped_column(BigInteger)
    contract_digest: Mapped[str] = mapped_column(String(64))
    suite_digest: Mapped[str] = mapped_column(String(64))
    result_sha256: Mapped[str] = mapped_column(String(64))
    passed: Mapped[bool]
    score: Mapped[float | None] = mapped_column(Float)
    grade: Mapped[str] = mapped_column(String(1))
    dimensions: Mapped[dict[str, Any]]
    scope: Mapped[dict[str, Any] | None]
    run_id: Mapped[str] = mapped_column(String(255))
    checked_at: Mapped[datetime]


class Pointer(Base):
    """The checked version of a table: what the next table, a view and a release may read."""

    __tablename__ = "pointers"

    table_name: Mapped[str] = mapped_column(String(255), primary_key=True)
    delta_version: Mapped[int] = mapped_column(BigInteger)
    head_version: Mapped[int] = mapped_column(BigInteger)
    check_id: Mapped[int | None] = mapped_column(ForeignKey("checks.id"))
    landing_id: Mapped[int | None] = mapped_column(BigInteger)
    inputs: Mapped[dict[str, Any] | None]
    contract_digest: Mapped[str | None] = mapped_column(String(64))
    run_id: Mapped[str | None] = mapped_column(String(255))
    moved_at: Mapped[datetime]

    check: Mapped[Check | None] = relationship()


class Release(Base):
    """A numbered, certified version of a product; only its status ever changes."""

    __tablename__ = "releases"
    __table_args__ = (
        UniqueConstraint("product", "major", "minor", "patch"),
        CheckConstraint("status in ('published', 'recalled')", name="status"),
        # Each request of a buyer asks for the newest release, one of a version, or the one of a time.
        Index(None, "product", "status", "delta_version"),
        Index(None, "product", "status", "released_at"),
    )

    id: Mapped[int] = mapped_column(Sequence64, primary_key=True)
    product: Mapped[str] = mapped_column(String(255))
    major: Mapped[int]
    minor: Mapped[int]
    patch: Mapped[int]
    delta_version: Mapped[int] = mapped_column(BigInteger)
    check_id: Mapped[int | None] = mapped_column(ForeignKey("checks.id"))
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any]]
    credential: Mapped[str] = mapped_column(Text)
    rows: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
    grade: Mapped[str] = mapped_column(String(1))
    licence: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(16), default="published")
    released_at: Mapped[datetime]

    check: Mapped[Check | None] = relationship()

    @property
    def number(self) -> str:
        """The release's semantic version, ``1.2.0``."""
        return f"{self.major}.{self.minor}.{self.patch}"


class Recall(Base):
    """That a release was recalled, or that its recall was lifted: who did it, when and why. Rows are only added."""

    __tablename__ = "recalls"
    __table_args__ = (Index(None, "release_id"),)

    id: Mapped[int] = mapped_column(Sequence64, primary_key=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"))
    recalled: Mapped[bool]
    by: Mapped[str] = mapped_column(String(255))
    at: Mapped[datetime]
    reason: Mapped[str] = mapped_column(Text)


# Manifests list every file of a release, which a list of releases does not need.
RELEASES_LISTED = (defer(Release.manifest, raiseload=True), defer(Release.credential, raiseload=True))


@event.listens_for(Release, "before_update")
def _only_status_moves(_mapper: Mapper[Any], _connection: Connection, release: Release) -> None:
    changed = sorted(
        attribute.key
        for attribute in inspect(release).attrs
        if attribute.key != "status" and attribute.history.has_changes()
    )
    if changed:
        raise Tampered(
            f"a release never changes, but {', '.join(changed)} would",
            where=f"{release.product}@{release.number}",
            next_step="make a new release; this one can only be recalled: exchange recall <product>@<release>",
        )


@event.listens_for(Release, "before_delete")
def _never_deleted(_mapper: Mapper[Any], _connection: Connection, release: Release) -> None:
    raise Tampered(
        "a release is never deleted",
        where=f"{release.product}@{release.number}",
        next_step="recall it instead: exchange recall <product>@<release>",
    )
