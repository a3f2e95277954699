"""Starts the parts of a cluster on this machine, in the order in which they need each other, and ends them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from jobs import locks
from jobs.cluster import database as databases
from jobs.cluster import engine as engines
from jobs.cluster import store as stores
from jobs.cluster.jars import fetch_jars
from jobs.cluster.java import find_java
from jobs.cluster.secrets import Secrets, load_secrets
from jobs.cluster.state import Part, State, choose_ports, load, log_of, make_folder, mark
from jobs.errors import ExchangeError
from jobs.processes import end_gently, is_free, last_words, launch, write_private
from jobs.settings import settings

HOST = "127.0.0.1"
_START_SECONDS = 90.0
_STOP_SECONDS = {"connect": 3.0, "worker": 1.0, "master": 1.0, "store": 2.0, "database": 10.0}


@dataclass(frozen=True)
class Size:
    """How large a cluster is wanted; None where it shall be as it was, or else as the machine is.

    Attributes:
        memory: of each worker, such as ``1g``.
        cores: of each worker.
    """

    workers: int | None = None
    cores: int | None = None
    memory: str | None = None


def up(size: Size, say: Callable[[str], None]) -> State:
    """Start every part that is not up, and return when all are ready.

    Args:
        say: told, in one line each, what takes long.

    Raises:
        ExchangeError: something is not installed, or a part ends or is not ready in time; what was started is ended.
        Busy: another `up` or `down` is at it.
    """
    with locks.hold("cluster"):
        return _Start(size, say).go()


def down() -> list[str]:
    """End every process of the cluster, whoever started it and whatever became of that; returns the parts' names.

    Raises:
        Busy: an `up` is at it.
    """
    with locks.hold("cluster"):
        return _end(load())


def environment_file() -> Path:
    """Settings by which this project uses the cluster, to be read by a shell; with secrets, for its owner only."""
    return settings().cluster / "env"


def log_text(part: str, lines: int) -> str:
    """The end of what a part said.

    Raises:
        ExchangeError: there is no such part, or it never started.
    """
    file = log_of(part)
    if not file.exists():
        known = sorted(found.stem for found in file.parent.glob("*.log"))
        raise ExchangeError(
            f"there is no log of a part '{part}'",
            where=str(file.parent),
            expected=", ".join(known) or "a cluster that was started",
            next_step="exchange cluster status",
        )
    return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def is_answering(part: Part) -> bool:
    """Whether the process of a part runs and accepts connections."""
    if part.process() is None:
        return False
    with suppress(OSError), socket.create_connection((HOST, part.port), timeout=1):
        return True
    return False


class _Start:
    """One `up`."""

    def __init__(self, size: Size, say: Callable[[str], None]) -> None:
        self._say = say
        known = load()
        wanted = known or State(workers=2, cores=0, memory="1g")
        workers = size.workers or wanted.workers
        cores = size.cores or (wanted.cores if size.workers is None else 0) or max(1, (os.cpu_count() or 1) // workers)
        self._state = wanted.model_copy(
            update={"workers": workers, "cores": cores, "memory": size.memory or wanted.memory}
        )
        self._new: list[str] = []
        if known and self._running() and (known.workers, known.cores, known.memory) != (
            workers, cores, self._state.memory,
        ):  # fmt: skip
            raise ExchangeError(
                f"the cluster is up with {known.workers} workers of {known.cores} cores and {known.memory} each",
                where=str(settings().cluster),
                next_step="exchange cluster down, then up with the new size",
            )

    def go(self) -> State:
        make_folder()
        self._refuse_what_is_missing()
        self._secrets = load_secrets()
        with _ended_by_signals():
            try:
                self._start_all()
            except BaseException:
                _end(self._state, only=self._new)
                raise
        self._write_environment()
        return self._state.save()

    def _refuse_what_is_missing(self) -> None:
        find_java()
        databases.find_postgres()
        stores.find_weed()
        began = time.monotonic()
        fetch_jars()
        if time.monotonic() - began > 1:
            self._say(f"the jars are there ({time.monotonic() - began:.0f} s)")

    def _start_all(self) -> None:
        running = self._running()
        if not {"master", "connect"} & running and not any(name.startswith("worker") for name in running):
            shutil.rmtree(engines.work_folder(), ignore_errors=True)
        self._choose_ports(running)
        port = self._state.ports
        self._launch("store", lambda: stores.store(port, self._secrets), stores.store_folder)
        self._launch("master", lambda: engines.master(HOST, port["master"], port["master-page"], self._secrets.spark))
        if "database" not in running:
            self._launch_database()
        self._wait("master", lambda: bool(self._alive_workers() is not None))
        for name in self._workers():
            self._launch(name, lambda name=name: self._worker(name))  # type: ignore[misc]
        self._launch("connect", lambda: engines.connect(self._engine()))
        databases.prepare_database(port["database"], self._secrets, lambda: self._check("database"), _START_SECONDS)
        stores.prepare_store(port["store"], self._secrets, lambda: self._check("store"), _START_SECONDS)
        for name in self._workers():
            self._wait(name, lambda name=name: is_answering(self._state.parts[name]))  # type: ignore[misc]
        self._wait("master", lambda: (self._alive_workers() or 0) >= self._state.workers)
        self._wait("connect", lambda: is_answering(self._state.parts["connect"]))

    def _running(self) -> set[str]:
        return {name for name, part in self._state.parts.items() if part.process()}

    def _workers(self) -> list[str]:
        return [f"worker-{number}" for number in range(1, self._state.workers + 1)]

    def _choose_ports(self, running: set[str]) -> None:
        names = [*stores.PORTS, "database", "master", "master-page", *self._workers(), "connect"]
        busy = {name for name in names if name.split("-")[0] in running or name in running}
        self._state = self._state.model_copy(update={"ports": choose_ports(names, self._state.ports, busy)})

    def _worker(self, name: str) -> engines.Command:
        state = self._state
        return engines.worker(
            self._master(), HOST, state.ports[name], state.cores, state.memory, self._secrets.spark,
            engines.work_folder() / name,
        )  # fmt: skip

    def _master(self) -> str:
        return f"spark://{HOST}:{self._state.ports['master']}"

    def _engine(self) -> engines.Engine:
        state = self._state
        return engines.Engine(
            master=self._master(),
            host=HOST,
            port=state.ports["connect"],
            memory=state.memory,
            cores=state.workers * state.cores,
            store=engines.Store(
                f"http://{HOST}:{state.ports['store']}", stores.REGION, self._secrets.access_key,
                self._secrets.secret_key,
            ),
            secret=self._secrets.spark,
            token=self._secrets.token,
        )  # fmt: skip

    def _launch_database(self) -> None:
        with databases.place() as place:
            databases.make_database(place, self._secrets, log_of("database"))
            command = databases.database(place, self._state.ports["database"])
            self._launch("database", lambda: command, lambda: Path("/"), place)

    def _launch(
        self,
        name: str,
        command: Callable[[], engines.Command],
        folder: Callable[[], Path] = engines.work_folder,
        place: databases.Place | None = None,
    ) -> None:
        if name in self._running():
            return
        made = command()
        started = launch(
            made.words,
            mark=mark(),
            log=log_of(name),
            environment=made.environment,
            folder=folder(),
            ends_with_parent=False,
            user=place.user if place else None,
            keep_open=place.descriptors if place else (),
        )
        self._new.append(name)
        created = psutil.Process(started.pid).create_time()
        part = Part(name=name, pid=started.pid, created=created, port=self._state.ports[name])
        self._state = self._state.with_part(part).save()

    def _check(self, name: str) -> None:
        if self._state.parts[name].process() is None:
            raise ExchangeError(
                f"{name} ended while it started: {last_words(log_of(name))}",
                where=str(log_of(name)),
                next_step=f"exchange cluster logs {name} says more; then exchange cluster up again",
            )

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not ready():
            self._check(name)
            if time.monotonic() > deadline:
                raise ExchangeError(
                    f"{name} is not ready after {_START_SECONDS:.0f} seconds: {last_words(log_of(name))}",
                    where=str(log_of(name)),
                    next_step=f"exchange cluster logs {name}",
                )
            time.sleep(0.1)

    def _alive_workers(self) -> int | None:
        page = f"http://{HOST}:{self._state.ports['master-page']}/json/"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with suppress(OSError, ValueError), direct.open(page, timeout=5) as reply:
            return int(json.load(reply)["aliveworkers"])
        return None

    def _write_environment(self) -> None:
        port = self._state.ports
        values = {
            # By this very name Spark's client sends the token without TLS: it never leaves the machine.
            "EXCHANGE_SPARK": f"sc://localhost:{port['connect']}/;token={self._secrets.token}",
            "EXCHANGE_LAKE": f"s3://{stores.BUCKET}/lake",
            "EXCHANGE_DATABASE_URL": databases.database_url(port["database"], "exchange"),
            "AWS_ENDPOINT_URL": f"http://{HOST}:{port['store']}",
            "AWS_REGION": stores.REGION,
            "AWS_ACCESS_KEY_ID": self._secrets.access_key,
            "AWS_SECRET_ACCESS_KEY": self._secrets.secret_key,
        }
        write_private(environment_file(), "".join(f"export {name}='{value}'\n" for name, value in values.items()))


def _end(state: State | None, only: list[str] | None = None) -> list[str]:
    """End parts, those first that need others; with `only` just those, otherwise whatever else is marked too."""
    parts = [part for part in (state.parts.values() if state else ()) if only is None or part.name in only]
    ended = []
    for kind, seconds in _STOP_SECONDS.items():
        mine = [(part.name, part.process()) for part in parts if part.name.split("-")[0] == kind]
        living = [(name, process) for name, process in mine if process]
        # PostgreSQL calls that a fast shutdown; what is asked to end otherwise waits for its clients.
        sign = signal.SIGINT if kind == "database" else signal.SIGTERM
        end_gently([process for _, process in living], sign, seconds)
        ended += [name for name, _ in living]
    if only is None:
        mark().end_all()
    return ended


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM end an `up` as Ctrl-C does, so that what it started is ended too."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


__all__ = ["HOST", "Secrets", "Size", "down", "environment_file", "is_answering", "is_free", "log_text", "up"]
