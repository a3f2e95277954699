"""Brings the cluster of this EXCHANGE_HOME up and takes it down."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import ExchangeError
from jobs.operate.cluster.credentials import ServiceCredentials, load_credentials, make_spark_secret
from jobs.operate.cluster.database import database_url, find_postgres
from jobs.operate.cluster.java import find_java
from jobs.operate.cluster.rehearsal import prepare
from jobs.operate.cluster.start import Start
from jobs.operate.cluster.state import HOST, State, clear_parts, load, mark
from jobs.operate.cluster.store import BUCKET, REGION, find_weed, leftovers
from jobs.operate.processes import end_gently, write_private
from jobs.operate.signals import ended_by_signals
from jobs.registry import locks
from jobs.settings import settings

# Each part comes before those that it needs. For PostgreSQL, SIGINT is a fast shutdown, which waits for no client. The
# store takes fifteen seconds to end by itself; whatever it has acknowledged is on disk.
_STOPS = (
    ("connect", signal.SIGTERM, 3.0),
    ("worker", signal.SIGTERM, 2.0),
    ("master", signal.SIGTERM, 2.0),
    ("store", signal.SIGTERM, 0.5),
    ("database", signal.SIGINT, 10.0),
)


@dataclass(frozen=True)
class Size:
    """Requested size of a cluster; None keeps the last size, or takes what this machine allows.

    Attributes:
        cores: of each worker.
        memory: of each worker, for example ``1g``.
    """

    workers: int | None = None
    cores: int | None = None
    memory: str | None = None


def up(size: Size) -> tuple[State, list[str]]:
    """Start every part that is down, and wait until all are ready.

    Returns:
        the cluster, and the names of the parts that had to be started.

    Raises:
        ExchangeError: a program is not installed, the size differs from that of the running parts, or a part ends
            or is not ready in time; parts started by then are ended.
        Locked: another `up` or `down` is running.
    """
    with locks.hold("cluster", shared=False):
        state = _sized(load(), size)
        find_java()
        find_postgres()
        find_weed()
        prepare()
        credentials = load_credentials()
        start = Start(state, credentials, make_spark_secret())
        with ended_by_signals():
            try:
                state = start.go()
                _write_environment(_variables(state, credentials))
            except BaseException:
                _end(start.state, start.new)
                raise
        return state, start.new


def use(size: Size) -> list[str]:
    """Bring the cluster up as `up` does, and let this process and those it starts work on it.

    Returns:
        the names of the parts that had to be started.

    Raises:
        ExchangeError: as `up`; or this EXCHANGE_HOME holds an exchange outside the cluster: releases and evidence of
            the two would mix.
    """
    if (settings().home / "registry.db").exists() and settings().evidence.exists():
        raise ExchangeError(
            "this home already holds an exchange, with its records in SQLite",
            where=str(settings().home),
            expected="a separate home for the exchange on the cluster",
            next_step="set EXCHANGE_HOME to one; `exchange lake copy` there brings in this exchange",
        )
    state, started = up(size)
    os.environ.update(_variables(state, load_credentials()))
    return started


def down() -> list[str]:
    """End every process of the cluster, whoever started it; returns the names of the parts that ran.

    Raises:
        Locked: an `up` is running.
    """
    with locks.hold("cluster", shared=False):
        state = load()
        ended = _end(state, state.parts) if state else []
        mark().end_all()
        clear_parts()
        return ended


def environment_file() -> Path:
    """File with this cluster's settings, for a shell to source; it holds secrets, so only its owner can read it."""
    return settings().cluster / "env"


def _sized(last: State | None, size: Size) -> State:
    before = last or State(workers=min(2, os.cpu_count() or 1), cores=0, memory="1g")
    workers = size.workers or before.workers
    cores_before = before.cores if workers == before.workers else 0
    cores = size.cores or cores_before or max(1, (os.cpu_count() or 1) // workers)
    new = before.model_copy(update={"workers": workers, "cores": cores, "memory": size.memory or before.memory})
    same = (new.workers, new.cores, new.memory) == (before.workers, before.cores, before.memory)
    if last and last.running() and not same:
        raise ExchangeError(
            f"the cluster is up with {before.workers} workers, each of {before.cores} cores and {before.memory}",
            where=str(settings().cluster),
            next_step="exchange cluster down, then up in the new size",
        )
    return new if same else new.model_copy(update={"parts": {}})


def _variables(state: State, credentials: ServiceCredentials) -> dict[str, str]:
    return {
        "EXCHANGE_HOME": str(settings().home),
        # Spark's client sends a token without TLS to a server of this name only.
        "EXCHANGE_SPARK": f"sc://localhost:{state.ports['connect']}/;token={credentials.token}",
        "EXCHANGE_LAKE": f"s3://{BUCKET}/lake",
        "EXCHANGE_DATABASE_URL": database_url(state.ports["database"], "exchange"),
        "EXCHANGE_AIRFLOW_DATABASE_URL": database_url(state.ports["database"], "airflow"),
        "AWS_ENDPOINT_URL": f"http://{HOST}:{state.ports['store']}",
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
    }


def _write_environment(values: Mapping[str, str]) -> None:
    write_private(environment_file(), "".join(f"export {name}={shlex.quote(v)}\n" for name, v in values.items()))


def _end(state: State, names: Collection[str]) -> list[str]:
    ended: list[str] = []
    for kind, sign, seconds in _STOPS:
        mine = [part for part in state.parts.values() if part.name in names and part.name.split("-")[0] == kind]
        living = {part.name: process for part in mine if (process := part.process())}
        end_gently(list(living.values()), sign, seconds)
        ended += living
    if "store" in ended:
        for file in leftovers(state.ports):
            with suppress(OSError):
                file.unlink()
    return ended
