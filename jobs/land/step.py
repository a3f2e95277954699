"""Land: fetch what a publisher offers and keep its bytes, each once."""

from __future__ import annotations

import shutil
from datetime import datetime

from jobs.declared.catalog import Source
from jobs.lake import guard
from jobs.lake.objects import sha256_of
from jobs.land.fetched import Fetched
from jobs.land.landed import store
from jobs.registry.landings import add_landing, landing_of, paths_by_mark
from jobs.registry.models import Landing
from jobs.registry.runs import Counts, StepOutcome
from jobs.settings import settings


def run(source: Source, logical_date: datetime, run_id: str) -> StepOutcome:
    """Fetch the source's files and land those whose bytes are new.

    Raises:
        PublisherError: the publisher or the way to it is at fault; trying again may help.
        ExchangeError: the declaration asks for something that is not there, or the disk is full.
    """
    from jobs.land.connectors import fetch

    scratch = settings().home / "scratch" / source.name
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    new = seen = size = 0
    marks = paths_by_mark(source.name)
    try:
        for fetched in fetch(source.declared.connector, source=source.name, scratch=scratch):
            seen += 1
            if _is_kept(marks.get((fetched.url, fetched.etag))):
                continue
            added = _keep(source, fetched, logical_date, run_id)
            new += added is not None
            size += added or 0
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return StepOutcome(
        status="succeeded" if new else "unchanged",
        counts=Counts(bytes_in=size),
        message=f"{seen} file{'s' if seen != 1 else ''} offered, {new} new",
    )


def _is_kept(path: str | None) -> bool:
    return path is not None and (settings().store / path).exists()


def _keep(source: Source, fetched: Fetched, logical_date: datetime, run_id: str) -> int | None:
    """Land one file unless its bytes landed before; returns its size if they are new."""
    before = landing_of(source.name, sha256_of(fetched.path))
    if before and _is_kept(before.path):
        return None
    landed = store(fetched, source.name, logical_date)
    # What lands is numbered, and builds go by these numbers: two at once could get theirs out of order.
    guard.require_lock()
    is_new = add_landing(
        Landing(
            source=source.name,
            sha256=landed.sha256,
            path=str(landed.path),
            file_name=landed.file_name,
            url=landed.url,
            size=landed.size,
            etag=landed.etag,
            published_at=landed.published_at,
            fetched_at=landed.fetched_at,
            logical_date=landed.logical_date,
            run_id=run_id,
        )
    )
    return landed.size if is_new else None
