"""Land: fetch what a publisher offers, keep each file's bytes once, and record every arrival."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from jobs.declared.catalog import Source
from jobs.lake import guard
from jobs.land.fetched import Fetched, NotTaken, StillWritten, still_written
from jobs.land.landed import received
from jobs.registry.landings import add_landing, newest_by_address, newest_of_bytes, note_again
from jobs.registry.models import Landing
from jobs.registry.runs import Counts, StepOutcome
from jobs.settings import settings

# Names that a message lists before it only counts them.
_NAMED = 5


@dataclass
class _Tally:
    """What one run of the step found."""

    offered: int = 0
    new: int = 0
    size: int = 0
    not_taken: list[NotTaken] = field(default_factory=list)

    def message(self, place: str | None) -> str:
        """All of it for the user, in one line, with the place that was looked in."""
        files = f"{_files(self.offered)} offered{f' in {place}' if place else ''}, {self.new} new"
        same: dict[tuple[bool, str, str], list[str]] = {}
        for one in self.not_taken:
            same.setdefault((one.is_refused, one.reason, one.next_step), []).append(one.name)
        return "; ".join([files, *(_described(*kind, names) for kind, names in sorted(same.items(), reverse=True))])


def run(source: Source, logical_date: datetime, run_id: str) -> StepOutcome:
    """Fetch the source's files and land those that arrived: what an address serves unless it served the same last.

    Files that the connector does not take are named in the message and stop no other file.

    Raises:
        PublisherError: the publisher or the network is at fault; a retry may help.
        ExchangeError: the declaration asks for something that does not exist, or the disk is full.
    """
    from jobs.land.connectors import fetch

    scratch = settings().home / "scratch" / source.name
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    connector = source.declared.connector
    try:
        tally = _landed(fetch(connector, source=source.name, scratch=scratch), source, logical_date, run_id)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return StepOutcome(
        status="succeeded" if tally.new else "unchanged",
        counts=Counts(bytes_in=tally.size),
        message=tally.message(connector.place(source.name)),
        is_warning=bool(tally.not_taken),
    )


def _landed(fetched: Iterable[Fetched | NotTaken], source: Source, logical_date: datetime, run_id: str) -> _Tally:
    tally, newest = _Tally(), newest_by_address(source.name)
    for one in fetched:
        if isinstance(one, NotTaken):
            tally.not_taken.append(one)
            continue
        tally.offered += 1
        before = newest.get(one.url)
        if before is not None and one.etag and one.etag == before.etag and _is_kept(before.path):
            continue
        try:
            landing = _arrived(source, one, before, logical_date, run_id)
        except StillWritten:
            tally.not_taken.append(still_written(one.facts.get("member", one.file_name)))
            continue
        if landing is not None:
            newest[one.url] = landing
            tally.new += 1
            tally.size += landing.size
    return tally


def _arrived(
    source: Source, fetched: Fetched, before: Landing | None, logical_date: datetime, run_id: str
) -> Landing | None:  # fmt: skip
    """Land one file; returns None if it is what its address served before."""
    with received(fetched, source.name, logical_date) as copy:
        earlier = newest_of_bytes(source.name, copy.sha256)
        path = earlier.path if earlier is not None and _is_kept(earlier.path) else None
        # Builds rely on landings being numbered in order of arrival, which two concurrent runs could break.
        if before is not None and before.sha256 == copy.sha256:
            landed = None if path else copy.keep(arrival=before.arrival)
            guard.require_lock()
            note_again(before, path or str(landed and landed.path), fetched.etag)
            return None
        landed = copy.keep(path, earlier.arrival + 1 if earlier else 1, before.fetched_at if before else None)
    landing = Landing(
        source=source.name, run_id=run_id, sha256=landed.sha256, path=landed.path, file_name=landed.file_name,
        url=landed.url, size=landed.size, etag=landed.etag, published_at=landed.published_at,
        fetched_at=landed.fetched_at, logical_date=landed.logical_date,
    )  # fmt: skip
    guard.require_lock()
    add_landing(landing)
    return landing


def _is_kept(path: str) -> bool:
    return (settings().store / path).exists()


def _described(is_refused: bool, reason: str, next_step: str, names: list[str]) -> str:
    listed = ", ".join(sorted(names)[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return f"{_files(len(names))} {'refused' if is_refused else 'not taken'}: {listed}: {reason} ({next_step})"


def _files(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"
