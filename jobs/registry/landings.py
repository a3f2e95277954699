"""The registry's `landings`: every arrival of a source's files, in order, and what bronze holds of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from jobs.registry.database import reading, transaction
from jobs.registry.models import Landing

_NOT_DROPPED = Landing.dropped_at.is_(None)


@dataclass(frozen=True)
class LandingSummary:
    """How many files of a source landed, and when the last one was fetched."""

    files: int
    last_at: datetime


def landed_by_source() -> dict[str, LandingSummary]:
    """Files that landed of each source, by its name; sources of which nothing landed are left out."""
    newest = select(Landing.source, func.count().label("files"), func.max(Landing.id).label("id"))
    counted = newest.group_by(Landing.source).subquery()
    fetched = select(counted.c.source, counted.c.files, Landing.fetched_at).join(Landing, Landing.id == counted.c.id)
    with reading() as session:
        return {source: LandingSummary(files, last_at) for source, files, last_at in session.execute(fetched)}


def landings_in(session: Session, source: str) -> list[Landing]:
    """Every arrival of a source, in order."""
    return list(session.scalars(select(Landing).where(Landing.source == source).order_by(Landing.id)))


def digests_up_to(watermarks: Mapping[str, int]) -> set[str]:
    """The sha256 of every file that had landed of some sources.

    Args:
        watermarks: the number of the last landing to include, by source.
    """
    with reading() as session:
        return {
            sha256
            for source, last in watermarks.items()
            for sha256 in session.scalars(
                select(Landing.sha256).where(Landing.source == source, Landing.id <= last, _NOT_DROPPED)
            )
        }


def paths_by_digest() -> dict[str, dict[str, str]]:
    """Where every file that landed is kept: its path by its sha256, for each source."""
    paths: dict[str, dict[str, str]] = {}
    with reading() as session:
        for source, sha256, path in session.execute(select(Landing.source, Landing.sha256, Landing.path)):
            paths.setdefault(source, {})[sha256] = path
    return paths


@dataclass(frozen=True)
class Loaded:
    """What bronze holds of a landing: records, those of them refused, and why the file broke off, if it did."""

    rows: int
    rows_refused: int
    fault: str | None


def newest_by_address(source: str) -> dict[str | None, Landing]:
    """The newest arrival of each address of a source."""
    newest = select(func.max(Landing.id)).where(Landing.source == source).group_by(Landing.url)
    with reading() as session:
        return {landing.url: landing for landing in session.scalars(select(Landing).where(Landing.id.in_(newest)))}


def newest_of_bytes(source: str, sha256: str) -> Landing | None:
    """The newest arrival of a source's file by the digest of its bytes; None if they never landed."""
    with reading() as session:
        return session.scalars(_of_bytes(source, sha256).order_by(Landing.arrival.desc()).limit(1)).first()


def add_landing(landing: Landing) -> None:
    """Record an arrival; if its bytes arrived before, it gets the next number, and all share where they are kept."""
    with transaction() as session:
        add_arrival(session, landing)


def add_arrival(session: Session, landing: Landing) -> None:
    """Record an arrival, as `add_landing` does."""
    last = session.scalars(_of_bytes(landing.source, landing.sha256).with_only_columns(func.max(Landing.arrival))).one()
    if last:
        _keep_at(session, landing.source, landing.sha256, landing.path)
        # Bytes that no table may have are still the same when they arrive again.
        before = session.scalars(_of_bytes(landing.source, landing.sha256).where(Landing.arrival == last)).one()
        landing.dropped_at, landing.dropped_by = before.dropped_at, before.dropped_by
        landing.drop_reason = before.drop_reason
    landing.arrival = (last or 0) + 1
    session.add(landing)
    session.flush()


def note_again(landing: Landing, path: str, etag: str | None) -> None:
    """Record that an address still serves what arrived last: where it is kept now, and the publisher's newest mark."""
    with transaction() as session:
        _keep_at(session, landing.source, landing.sha256, path)
        session.get_one(Landing, landing.id).etag = etag


def newest_landing(source: str) -> int | None:
    """Number of the last file that landed of a source; None if nothing did."""
    with reading() as session:
        return session.scalars(select(func.max(Landing.id)).where(Landing.source == source)).one()


def waiting_landings(source: str) -> list[Landing]:
    """Files of a source that bronze does not hold yet, in the order of their arrival."""
    waiting = select(Landing).where(Landing.source == source, Landing.loaded_at.is_(None), _NOT_DROPPED)
    with reading() as session:
        return list(session.scalars(waiting.order_by(Landing.id)))


def loaded_landings(
    source: str, after: int, again: Literal["later", "same or later"] | None, *, empty_counts: bool = False
) -> tuple[Landing, ...]:
    """Files of a source that bronze holds and that arrived after one, by logical date and then by arrival.

    Args:
        source: the source's name.
        after: number of the last landing to leave out.
        again: which earlier arrivals to include: those with a later logical date than the earliest of the new ones, or
            also those with the same. A new landing without one good row has no say in that.
        empty_counts: a new landing without any row has a say.
    """
    loaded = select(Landing).where(Landing.source == source, Landing.loaded_at.is_not(None), _NOT_DROPPED)
    new = Landing.id > after
    with reading() as session:
        has_good = Landing.rows != Landing.rows_refused
        good = loaded.where(new, has_good | (Landing.rows == 0) if empty_counts else has_good)
        first = session.scalars(good.with_only_columns(func.min(Landing.logical_date))).one()
        chosen = new
        if first is not None and again == "later":
            chosen = new | (Landing.logical_date > first)
        elif first is not None and again == "same or later":
            chosen = new | (Landing.logical_date >= first)
        return tuple(session.scalars(loaded.where(chosen).order_by(Landing.logical_date, Landing.id)))


def note_loaded(loaded: Mapping[int, Loaded]) -> None:
    """Record what bronze holds of landings, by their numbers."""
    now = datetime.now(UTC)
    with transaction() as session:
        for number, content in loaded.items():
            landing = session.get_one(Landing, number)
            landing.loaded_at = now
            landing.rows, landing.rows_refused, landing.fault = content.rows, content.rows_refused, content.fault


def forget_loaded(source: str) -> None:
    """Have bronze load every file of a source again."""
    unloaded = update(Landing).where(Landing.source == source, _NOT_DROPPED)
    with transaction() as session:
        session.execute(unloaded.values(loaded_at=None, rows=None, rows_refused=None))


def _keep_at(session: Session, source: str, sha256: str, path: str) -> None:
    session.execute(update(Landing).where(Landing.source == source, Landing.sha256 == sha256).values(path=path))


def landings_like(prefix: str, source: str | None = None) -> list[Landing]:
    """Landings whose sha256 begins with some characters, in the order of arrival."""
    alike = select(Landing).where(Landing.sha256.startswith(prefix, autoescape=True)).order_by(Landing.id)
    if source is not None:
        alike = alike.where(Landing.source == source)
    with reading() as session:
        return list(session.scalars(alike))


def landings_of(source: str) -> list[Landing]:
    """All landings of a source, in the order of arrival."""
    with reading() as session:
        return list(session.scalars(select(Landing).where(Landing.source == source).order_by(Landing.id)))


def drop_landings(source: str, sha256: str, by: str, reason: str) -> bool:
    """Record that no table may have a source's file any more; False if it was dropped, or is the only one in use."""
    own = (Landing.source == source, _NOT_DROPPED)
    with transaction() as session:
        arrivals = list(session.scalars(select(Landing).where(*own, Landing.sha256 == sha256)))
        others = session.scalars(select(Landing.id).where(*own, Landing.sha256 != sha256).limit(1)).first()
        is_last = others is None and any(arrival.loaded_at is not None for arrival in arrivals)
        if not arrivals or is_last:
            return False
        for arrival in arrivals:
            arrival.dropped_at, arrival.dropped_by, arrival.drop_reason = datetime.now(UTC), by, reason
    return True


def dropped_landings(source: str, *, still_loaded: bool = False) -> list[Landing]:
    """A source's dropped landings of which bronze has, or had, rows.

    Args:
        source: the source's name.
        still_loaded: only those of which bronze still has rows.
    """
    had = Landing.loaded_at.is_not(None) if still_loaded else Landing.rows.is_not(None)
    dropped = select(Landing).where(Landing.source == source, Landing.dropped_at.is_not(None), had)
    with reading() as session:
        return list(session.scalars(dropped.order_by(Landing.id)))


def note_unloaded(numbers: Collection[int]) -> None:
    """Record that bronze has no rows of some dropped landings any more; how many it had is kept."""
    with transaction() as session:
        session.execute(update(Landing).where(Landing.id.in_(numbers)).values(loaded_at=None))


def _of_bytes(source: str, sha256: str) -> Select[Landing]:
    return select(Landing).where(Landing.source == source, Landing.sha256 == sha256)
