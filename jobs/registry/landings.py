"""The registry's `landings`: which files of each source landed, in the order of their arrival."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from jobs.registry.database import reading
from jobs.registry.models import Landing


@dataclass(frozen=True)
class Landed:
    """How many files of a source landed, and when the last one was fetched."""

    files: int
    last_at: datetime


def landed_by_source() -> dict[str, Landed]:
    """Files that landed of each source, by its name; sources of which nothing landed are left out."""
    newest = select(Landing.source, func.count().label("files"), func.max(Landing.id).label("id"))
    counted = newest.group_by(Landing.source).subquery()
    fetched = select(counted.c.source, counted.c.files, Landing.fetched_at).join(Landing, Landing.id == counted.c.id)
    with reading() as session:
        return {source: Landed(files, last_at) for source, files, last_at in session.execute(fetched)}


def digests_in(session: Session, source: str) -> set[str]:
    """The sha256 of every file of a source that landed."""
    return set(session.scalars(select(Landing.sha256).where(Landing.source == source)))


def digests_up_to(watermarks: Mapping[str, int]) -> set[str]:
    """The sha256 of every file that had landed of some sources.

    Args:
        watermarks: the number of the last landing to include, by source.
    """
    with reading() as session:
        return {
            sha256
            for source, last in watermarks.items()
            for sha256 in session.scalars(select(Landing.sha256).where(Landing.source == source, Landing.id <= last))
        }


def paths_by_digest() -> dict[str, dict[str, str]]:
    """Where every file that landed is kept: its path by its sha256, for each source."""
    paths: dict[str, dict[str, str]] = {}
    with reading() as session:
        for source, sha256, path in session.execute(select(Landing.source, Landing.sha256, Landing.path)):
            paths.setdefault(source, {})[sha256] = path
    return paths
