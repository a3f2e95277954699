"""Brings a lost registry back: from a copy, or from what was stored beside it (landed files, evidence, releases)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs.check.evidence import digests, read_evidence
from jobs.errors import ExchangeError
from jobs.operate.rebuild import record_landed
from jobs.registry import backup, identity, transaction
from jobs.registry.models import Check
from jobs.registry.releases import releases_of
from jobs.release import archive
from jobs.release.recall import replay
from jobs.release.unrecorded import record_stored, unrecorded_numbers
from jobs.settings import settings

# What is recorded nowhere but in the registry.
LOST = (
    "grants and their revocations: every buyer's token is unknown; grant again what was granted",
    "the meter: what buyers read before",
    "participants",
    "runs, and the pointers to checked versions: the next `exchange run` loads and builds every table again",
)


@dataclass(frozen=True)
class RebuiltRegistry:
    """What was found again, and what could not be; `set_aside` is where the database before was moved, if it was."""

    landings: int
    checks: int
    releases: int
    problems: tuple[str, ...]
    set_aside: Path | None
    lost: tuple[str, ...] = LOST


@dataclass(frozen=True)
class BroughtBack:
    """A copy that is the registry again, and what has landed or been released since it was made."""

    copy: backup.Restored
    landings: int
    releases: int
    problems: tuple[str, ...]


def restore_registry(run_id: str, file: Path | None = None) -> BroughtBack:
    """Bring back a copy of the registry, and record the landed files and releases that are newer than the copy.

    Nothing may be running meanwhile. A registry in SQLite is moved aside first; one in PostgreSQL must be empty.

    Args:
        run_id: the run under which landed files are recorded.
        file: the copy; the newest that upkeep kept if None.

    Raises:
        NotFound: there is no such copy.
        ExchangeError: it is damaged or another exchange's, or the database in PostgreSQL has records of its own.
    """
    restored = backup.restore(file)
    problems: list[str] = []
    for product in archive.stored_products():
        for release in releases_of(product):
            # One that was recalled since the copy was made must not be served again.
            replay(release)
    landings = sum(_landed(source, run_id, problems) for source in _sources())
    return BroughtBack(restored, landings, sum(_releases(problems)), tuple(problems))


def rebuild_registry(run_id: str) -> RebuiltRegistry:
    """Begin a new registry, and record in it what the landing, the evidence and the releases' folders tell.

    Nothing may be running meanwhile. A registry in SQLite is moved aside first; one in PostgreSQL must be empty.

    Args:
        run_id: the run under which landed files are recorded.

    Raises:
        ExchangeError: the registry works and has records, or cannot be created.
    """
    with identity.bringing_back():
        _require_lost()
        set_aside = backup.start_anew()
        problems: list[str] = []
        landings = sum(_landed(source, run_id, problems) for source in _sources())
        checks = sum(_checks(problems))
        releases = sum(_releases(problems))
    return RebuiltRegistry(landings, checks, releases, tuple(problems), set_aside)


def _require_lost() -> None:
    """Refuse to replace a registry that works: it knows more than any rebuilt one."""
    try:
        records = backup.records()
    except ExchangeError:
        return
    if records:
        raise ExchangeError(
            f"the registry works, and has {records:,} records, of which a rebuilt one would lack many",
            where=settings().home.as_posix(),
            expected="a registry that is lost, empty or damaged",
            next_step="exchange doctor examines it. To go back to an earlier one: exchange registry restore",
        )


def _sources() -> list[str]:
    root = settings().landing
    return sorted(folder.name for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []


def _landed(source: str, run_id: str, problems: list[str]) -> int:
    try:
        return record_landed(source, run_id)
    except ExchangeError as error:
        problems.append(str(error))
        return 0


def _checks(problems: list[str]) -> Iterator[int]:
    for sha256 in digests():
        try:
            check = _check(sha256, read_evidence(sha256))
        except (ExchangeError, KeyError, TypeError, ValueError) as error:
            message = str(error) if isinstance(error, ExchangeError) else f"not evidence of a check ({error!r})"
            problems.append(f"evidence {sha256}: {message}")
            continue
        with transaction() as session:
            session.add(check)
        yield 1


def _check(sha256: str, document: dict[str, Any]) -> Check:
    return Check(
        table_name=document["table"], delta_version=document["delta_version"],
        contract_digest=document["contract_sha256"], suite_digest=document["suite_sha256"], result_sha256=sha256,
        passed=document["passed"], score=document["score"], grade=document["grade"],
        dimensions=document["dimensions"], scope=None, run_id=document["run_id"],
        checked_at=datetime.fromisoformat(document["logical_date"]),
    )  # fmt: skip


def _releases(problems: list[str]) -> Iterator[int]:
    for product in archive.stored_products():
        for number in unrecorded_numbers(product):
            try:
                record_stored(product, number)
            except ExchangeError as error:
                problems.append(str(error))
                continue
            yield 1
