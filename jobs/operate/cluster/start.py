"""Starts the parts of a cluster in the order of their dependencies, and waits until each is ready."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from jobs.errors import ExchangeError
from jobs.operate.cluster import database as databases
from jobs.operate.cluster import engine as engines
from jobs.operate.cluster import store as stores
from jobs.operate.cluster.credentials import ServiceCredentials
from jobs.operate.cluster.state import HOST, Part, State, choose_ports, log_of, mark
from jobs.operate.cluster.watch import is_answering
from jobs.operate.processes import last_words, launch
from jobs.settings import settings

_SECONDS = 240.0
_PAUSE = 0.1


class Start:
    """One start: `state` is what runs, `new` the parts that this start added."""

    def __init__(self, state: State, credentials: ServiceCredentials, spark_secret: str) -> None:
        self.state = state
        self.new: list[str] = []
        self._credentials = credentials
        self._spark_secret = spark_secret

    def go(self) -> State:
        """Start the parts that are down; returns when all are ready.

        Raises:
            ExchangeError: a part ended, or was not ready in time.
        """
        self._clear_work()
        self._choose_ports()
        ports = self.state.ports
        # The slowest parts are started first and waited for last.
        self._launch("master", lambda: engines.master(self._host("master"), ports["master"], ports["master-page"]))
        self._launch("store", lambda: stores.store(ports, self._credentials), stores.store_folder)
        self._launch_database()
        self._wait("master", lambda: self._registered() is not None)
        for name in self.state.worker_names:
            self._launch(name, partial(self._worker, name))
        self._launch("connect", lambda: engines.connect(self._host("connect"), self._engine()))
        databases.prepare_database(ports["database"], self._credentials, lambda: self._check("database"), _SECONDS)
        stores.prepare_store(ports["store"], self._credentials, lambda: self._check("store"), _SECONDS)
        for name in self.state.worker_names:
            self._wait(name, lambda: (self._registered() or 0) >= self.state.workers)
        self._wait("connect", lambda: is_answering(self.state.parts["connect"]))
        return self.state

    def _clear_work(self) -> None:
        running = self.state.running()
        if not any(name in running for name in ("master", "connect", *self.state.worker_names)):
            shutil.rmtree(_work(), ignore_errors=True)

    def _choose_ports(self) -> None:
        running = self.state.running()
        names = [*stores.PORTS, "database", "master", "master-page", *self.state.worker_names, "connect"]
        taken = {name for name in names if name in running or name.split("-")[0] in running}
        self.state = self.state.model_copy(update={"ports": choose_ports(names, self.state.ports, taken)})

    def _host(self, name: str) -> engines.Host:
        return engines.Host(HOST, _work() / name, self._spark_secret)

    def _worker(self, name: str) -> engines.Command:
        state = self.state
        return engines.worker(self._host(name), state.ports[name], state.cores, state.memory, self._master, self._store)

    @property
    def _master(self) -> str:
        return f"spark://{HOST}:{self.state.ports['master']}"

    @property
    def _store(self) -> engines.Store:
        credentials, endpoint = self._credentials, f"http://{HOST}:{self.state.ports['store']}"
        return engines.Store(endpoint, stores.REGION, credentials.access_key, credentials.secret_key)

    def _engine(self) -> engines.Engine:
        return engines.Engine(
            master=self._master,
            listen=HOST,
            port=self.state.ports["connect"],
            memory=self.state.memory,
            cores=self.state.workers * self.state.cores,
            store=self._store,
            token=self._credentials.token,
        )

    def _launch_database(self) -> None:
        if "database" in self.state.running():
            return
        with databases.place() as place:
            databases.make_database(place, self._credentials, log_of("initdb"))
            port = self.state.ports["database"]
            self._launch("database", lambda: databases.database(place, port), lambda: Path("/"), place)

    def _launch(
        self,
        name: str,
        command: Callable[[], engines.Command],
        folder: Callable[[], Path] | None = None,
        place: databases.Place | None = None,
    ) -> None:
        if name in self.state.running():
            return
        program = command()
        log = log_of(name)
        if log.exists():
            # Old output must not be mistaken for new.
            log.replace(log.with_suffix(".log.1"))
        started = launch(
            program.words,
            mark=mark(),
            log=log,
            environment=program.environment,
            folder=folder() if folder else _work(),
            ends_with_parent=False,
            user=place.user if place else None,
            keep_open=place.descriptors if place else (),
        )
        self.new.append(name)
        created = psutil.Process(started.pid).create_time()
        part = Part(name=name, pid=started.pid, created=created, port=self.state.ports[name])
        # Saved immediately, so that `down` finds it even if this process is killed now.
        self.state = self.state.with_part(part).save()

    def _check(self, name: str) -> None:
        if self.state.parts[name].process() is None:
            raise ExchangeError(
                f"{name} ended while starting: {last_words(log_of(name))}",
                where=str(log_of(name)),
                next_step=f"exchange cluster logs {name} shows its whole log; then run exchange cluster up again",
            )

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _SECONDS
        while not ready():
            self._check(name)
            if time.monotonic() > deadline:
                raise ExchangeError(
                    f"{name} is not ready after {_SECONDS:.0f} seconds: {last_words(log_of(name))}",
                    where=str(log_of(name)),
                    next_step=f"exchange cluster logs {name} shows its whole log; then run exchange cluster up again",
                )
            time.sleep(_PAUSE)

    def _registered(self) -> int | None:
        """How many workers have registered with the master; None while it does not answer."""
        page = f"http://{HOST}:{self.state.ports['master-page']}/json/"
        # The environment's proxy does not lead to this machine.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with suppress(OSError, ValueError), direct.open(page, timeout=5) as reply:
            return int(json.load(reply)["aliveworkers"])
        return None


def _work() -> Path:
    folder = settings().cluster / "work"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
