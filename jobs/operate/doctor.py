"""Tries whether the settings can work, by doing in small what every run does, and says what to change where not."""

from __future__ import annotations

import platform
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from jobs.errors import ExchangeError
from jobs.lake import close
from jobs.settings import settings

_PARTS = ("pyspark", "pysail", "deltalake", "great-expectations", "apache-airflow", "delta-sharing", "sqlalchemy")
# Certificates and leases are told apart by time; less than this nobody notices.
_SKEW_SECONDS = 5.0
_LOW_BYTES = 2 << 30
Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """What one look found.

    Attributes:
        next_step: what to do about it; None where all is well.
    """

    subject: str
    status: Status
    found: str
    next_step: str | None = None


def examine() -> list[Finding]:
    """Look at everything that a run needs, one after the other; what fails keeps nothing else from being looked at."""
    looks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("settings", _settings),
        ("versions", _versions),
        ("database", _database),
        ("airflow", _airflow),
        ("lake", _lake),
        ("engine", _engine),
        ("engine and lake", _engine_reads_lake),
        ("space", _space),
        ("clock", _clock),
        ("last run", _last_run),
    )
    return [_tried(subject, look) for subject, look in looks]


def require_working() -> None:
    """Refuse to start with settings that cannot work.

    Raises:
        ExchangeError: the first thing that does not work, and what to change.
    """
    for look in (_settings, _database, _airflow, _lake):
        look()
    if settings().spark == "embedded":
        # It cannot be missing, and takes seconds to start.
        return
    try:
        _engine_reads_lake()
    finally:
        # Whoever asked starts other processes from this one.
        close()


def _tried(subject: str, look: Callable[[], Finding]) -> Finding:
    from jobs.lake.objects import translate_store_errors

    try:
        with translate_store_errors("EXCHANGE_LAKE"):
            return look()
    except ExchangeError as error:
        return Finding(subject, "failed", error.finding, error.next_step)


def _settings() -> Finding:
    now = settings()
    return Finding("settings", "ok", f"home {now.home}, catalogue {now.catalogue}")


def _versions() -> Finding:
    found = [f"{name} {_version_of(name)}" for name in _PARTS]
    return Finding("versions", "ok", ", ".join((f"Python {platform.python_version()}", *found)))


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"


def _database() -> Finding:
    from jobs.registry.database import describe_database

    return Finding("database", "ok", describe_database())


def _airflow() -> Finding:
    from jobs.registry.airflow import state

    return Finding("airflow", "ok", f"schema {state() or 'not made yet'}")


def _lake() -> Finding:
    """Put a small file, see that it cannot be put twice, read it back, and take it away."""
    from jobs.lake import objects

    now = settings()
    probe = now.landing / f"_probe-{uuid.uuid4().hex}"
    content = uuid.uuid4().bytes
    if not now.is_remote:
        _try_folder(probe, content)
        return Finding("lake", "ok", f"{now.store}")
    objects.require_bucket(now.store)
    with objects.translate_store_errors(now.store):
        first, second = objects.put_if_absent(probe, content), objects.put_if_absent(probe, b"another")
        kept = probe.read_bytes()
        probe.unlink()
    if not first or second or kept != content:
        raise ExchangeError(
            "the object store lets one file be put over another", where=str(now.store),
            expected="a store that honours If-None-Match, as AWS S3 and SeaweedFS do",
            next_step="use such a store: landed bytes must never change",
        )  # fmt: skip
    return Finding("lake", "ok", f"{now.store}")


def _try_folder(probe: Any, content: bytes) -> None:
    from jobs.errors import disk_full

    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(content)
        probe.unlink()
    except OSError as error:
        raise disk_full(error, probe.parent) from error


def _engine() -> Finding:
    from jobs.lake import connect, describe_engine

    connect()
    return Finding("engine", "ok", describe_engine())


def _engine_reads_lake() -> Finding:
    """Let the engine itself write and read a file where tables are: it reaches the store with rights of its own."""
    from jobs import lake

    started = time.perf_counter()
    lake.try_engine()
    return Finding("engine and lake", "ok", f"wrote a table and read it in {time.perf_counter() - started:.1f} s")


def _space() -> Finding:
    home = settings().home
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    told = f"{free / (1 << 30):.1f} GiB free under {home}"
    if free < _LOW_BYTES:
        return Finding("space", "warning", told, "free some space: a run that fills the disk stops, and loses nothing")
    return Finding("space", "ok", told)


def _clock() -> Finding:
    from jobs.lake import objects
    from jobs.registry.database import clock_skew

    skews = {"database": clock_skew()}
    if settings().is_remote:
        skews["object store"] = objects.clock_skew(settings().store)
    told = ", ".join(f"{name} {seconds:+.1f} s" for name, seconds in skews.items())
    if any(abs(seconds) > _SKEW_SECONDS for seconds in skews.values()):
        return Finding("clock", "warning", f"other clocks go differently: {told}", "let all machines follow one clock")
    return Finding("clock", "ok", told)


def _last_run() -> Finding:
    from jobs.registry.runs import latest_runs

    newest = latest_runs(limit=1)
    if not newest:
        return Finding("last run", "ok", "none yet")
    last = newest[0]
    told = f"{last.step} {last.name} {last.status}, {last.started_at:%Y-%m-%d %H:%M:%S} UTC, run {last.run_id}"
    return Finding("last run", "warning" if last.status == "failed" else "ok", told, _after(last.status))


def _after(status: str) -> str | None:
    return "exchange runs tells why it failed" if status == "failed" else None
