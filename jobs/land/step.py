"""Land: fetch what a publisher offers and keep each file's bytes once."""

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
        PublisherError: the publisher or the network is at fault; a retry may help.
        ExchangeError: the declaration asks for something that does not exist, or the disk is full.
    """
    from jobs.land.connectors import fetch

    scratch = settings().home / "scratch" / source.name
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    new = offered = size = 0
    marks = paths_by_mark(source.name)
    try:
        for fetched in fetch(source.declared.connector, source=source.name, scratch=scratch):
            offered += 1
            if _is_kept(marks.get((fetched.url, fetched.etag))):
                continue
            new_bytes = _keep(source, fetched, logical_date, run_id)
            new += new_bytes is not None
            size += new_bytes or 0
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return StepOutcome(
        status="succeeded" if new else "unchanged",
        counts=Counts(bytes_in=size),
        message=f"{offered} file{'s' if offered != 1 else ''} offered, {new} new",
    )


def _is_kept(path: str | None) -> bool:
    return path is not None and (settings().store / path).exists()


def _keep(source: Source, fetched: Fetched, logical_date: datetime, run_id: str) -> int | None:
    """Land one file unless its bytes landed before; returns its size if they are new."""
    earlier = landing_of(source.name, sha256_of(fetched.path))
    if earlier and _is_kept(earlier.path):
        return None
    landed = store(fetched, source.name, logical_date)
    # Builds rely on landings being numbered in order of arrival, which two concurrent runs could break.
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
