"""Tests whether the settings work, by doing what every run does on a small scale, and says what to change if not."""

from __future__ import annotations

import os
import platform
import pwd
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
# Certificates and leases depend on clocks; a smaller difference does no harm.
_SKEW_SECONDS = 5.0
_LOW_BYTES = 2 << 30
# By the convention of Linux: users of services are below, nobody is above.
_FIRST_LOGIN_UID, _NOBODY = 1000, 65534
_OLD_COPY_DAYS = 3
# Examinations that write; they would only repeat that nothing can be written.
_WRITING = ("lake", "engine and lake")
Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Diagnosis:
    """The result of one examination.

    Attributes:
        next_step: what to do about it; None if nothing is wrong.
    """

    subject: str
    status: Status
    found: str
    next_step: str | None = None


def examine() -> list[Diagnosis]:
    """Examine everything that a run needs, in turn; a failure does not stop the rest."""
    examinations: tuple[tuple[str, Callable[[], Diagnosis]], ...] = (
        ("settings", _settings),
        ("versions", _versions),
        ("database", _database),
        ("records", _records),
        ("airflow", _airflow),
        ("lake", _lake),
        ("engine", _engine),
        ("engine and lake", _engine_reads_lake),
        ("other users", _other_users),
        ("space", _space),
        ("clock", _clock),
        ("last run", _last_run),
    )
    left_out = _WRITING if _is_read_only() else ()
    return [_diagnose(subject, examination) for subject, examination in examinations if subject not in left_out]


def require_working() -> None:
    """Refuse to start with settings that cannot work.

    Raises:
        ExchangeError: names the first thing that does not work, and what to change.
    """
    for examination in (_settings, _database, _airflow, _lake):
        examination()
    if settings().spark == "embedded":
        # The embedded engine cannot be missing, and takes seconds to start.
        return
    try:
        _engine_reads_lake()
    finally:
        # The caller starts other processes from this one, and an open session would disturb them.
        close()


def _diagnose(subject: str, examination: Callable[[], Diagnosis]) -> Diagnosis:
    from jobs.lake.objects import translate_store_errors

    try:
        with translate_store_errors("EXCHANGE_LAKE"):
            return examination()
    except ExchangeError as error:
        return Diagnosis(subject, "failed", error.finding, error.next_step)


def _settings() -> Diagnosis:
    current = settings()
    message = f"home {current.home}, catalogue {current.catalogue}"
    if not _is_read_only():
        return Diagnosis("settings", "ok", message)
    return Diagnosis(
        "settings", "warning",
        f"{message}; this user can only read that home: lists, `sql`, `quality` and `verify` work; steps, grants, the"
        " sharing server and upkeep do not, and whether lake and engine can write was not tried",
        "nothing, if you only want to read; else work as the home's owner, on a disk that is writable",
    )  # fmt: skip


def _is_read_only() -> bool:
    """Whether the home is there and cannot be written."""
    home = settings().home
    return home.is_dir() and not os.access(home, os.W_OK)


def _versions() -> Diagnosis:
    versions = [f"{name} {_version_of(name)}" for name in _PARTS]
    return Diagnosis("versions", "ok", ", ".join((f"Python {platform.python_version()}", *versions)))


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"


def _database() -> Diagnosis:
    from jobs.registry.database import describe_database

    return Diagnosis("database", "ok", describe_database())


def _records() -> Diagnosis:
    """Look through the whole registry, and say how old its newest copy is."""
    from datetime import UTC, datetime

    from jobs.registry import engine
    from jobs.registry.backup import backups, records
    from jobs.registry.database import require_sound

    require_sound(engine(), thoroughly=True)
    rows, kept = records(), backups()
    if not kept:
        message = f"{rows:,} records, no copy of them"
        if rows:
            return Diagnosis("records", "warning", message, "exchange registry backup; upkeep does it every night")
        return Diagnosis("records", "ok", message)
    age = datetime.now(UTC) - datetime.fromtimestamp(kept[0].stat().st_mtime, UTC)
    message = f"{rows:,} records, copied {age.days} days ago to {kept[0].name}"
    if age.days > _OLD_COPY_DAYS:
        return Diagnosis("records", "warning", message, "exchange registry backup, and see why upkeep does not run")
    return Diagnosis("records", "ok", message)


def _airflow() -> Diagnosis:
    from jobs.registry.airflow import state

    return Diagnosis("airflow", "ok", f"schema {state() or 'not created yet'}")


def _lake() -> Diagnosis:
    """Write a small file, check that it cannot be overwritten, read it back, and remove it."""
    from jobs.lake import objects

    current = settings()
    probe = current.landing / f"_probe-{uuid.uuid4().hex}"
    content = uuid.uuid4().bytes
    if not current.is_remote:
        _require_writable(probe, content)
        return Diagnosis("lake", "ok", f"{current.store}")
    objects.require_bucket(current.store)
    with objects.translate_store_errors(current.store):
        first, second = objects.put_if_absent(probe, content), objects.put_if_absent(probe, b"another")
        kept = probe.read_bytes()
        probe.unlink()
    if not first or second or kept != content:
        raise ExchangeError(
            "the object store overwrites files despite If-None-Match", where=str(current.store),
            expected="a store that honours If-None-Match, as AWS S3 and SeaweedFS do",
            next_step="use such a store: landed bytes must never change",
        )  # fmt: skip
    return Diagnosis("lake", "ok", f"{current.store}")


def _require_writable(probe: Any, content: bytes) -> None:
    from jobs.errors import disk_full

    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(content)
        probe.unlink()
    except OSError as error:
        raise disk_full(error, probe.parent) from error


def _engine() -> Diagnosis:
    from jobs.lake import connect, describe_engine

    connect()
    return Diagnosis("engine", "ok", describe_engine())


def _engine_reads_lake() -> Diagnosis:
    """Have the engine write and read a file in the lake: it reaches the store by its own network and credentials."""
    from jobs import lake

    started = time.perf_counter()
    lake.try_engine()
    return Diagnosis("engine and lake", "ok", f"wrote a table and read it in {time.perf_counter() - started:.1f} s")


def _other_users() -> Diagnosis:
    """Find who else can log in to the machine: Sail 0.7.2 asks for no token, and has no Unix socket."""
    if settings().spark != "embedded":
        return Diagnosis("other users", "ok", "the engine asks for a token")
    others = sorted(
        user.pw_name for user in pwd.getpwall()
        if _FIRST_LOGIN_UID <= user.pw_uid < _NOBODY and user.pw_uid != os.getuid()
        and not user.pw_shell.endswith(("/nologin", "/false"))
    )  # fmt: skip
    if not others:
        return Diagnosis("other users", "ok", "nobody else can log in to this machine")
    return Diagnosis(
        "other users", "warning",
        f"{', '.join(others)} can log in to this machine: whenever a step or `exchange sql` runs, they can read and"
        " write through the embedded engine whatever you can, keys too",
        "give the exchange a machine or a container of its own, or use a cluster, whose engine asks for a token",
    )  # fmt: skip


def _space() -> Diagnosis:
    home = settings().home
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    message = f"{free / (1 << 30):.1f} GiB free under {home}"
    if free < _LOW_BYTES:
        return Diagnosis("space", "warning", message, "free some space: a full disk stops runs")
    return Diagnosis("space", "ok", message)


def _clock() -> Diagnosis:
    from jobs.lake import objects
    from jobs.registry.database import clock_skew

    skews = {"database": clock_skew()}
    if settings().is_remote:
        skews["object store"] = objects.clock_skew(settings().store)
    message = ", ".join(f"{name} {seconds:+.1f} s" for name, seconds in skews.items())
    if any(abs(seconds) > _SKEW_SECONDS for seconds in skews.values()):
        return Diagnosis("clock", "warning", f"clocks differ: {message}", "synchronise the clocks of all machines")
    return Diagnosis("clock", "ok", message)


def _last_run() -> Diagnosis:
    from jobs.registry.runs import latest_runs

    newest = latest_runs(limit=1)
    if not newest:
        return Diagnosis("last run", "ok", "none yet")
    last = newest[0]
    message = f"{last.step} {last.name} {last.status}, {last.started_at:%Y-%m-%d %H:%M:%S} UTC, run {last.run_id}"
    if last.status == "failed":
        return Diagnosis("last run", "warning", message, "`exchange runs` shows why it failed")
    return Diagnosis("last run", "ok", message)
