"""Injects faults into a cluster: kills parts, makes the object store fail, and repairs both."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from jobs.operate.processes import free_port
from tests.cluster.faulty_store import FaultyStore
from tests.cluster.running import Cluster


@dataclass
class Faults:
    """A cluster whose object store is reached through a faulty proxy, the door."""

    cluster: Cluster
    door: FaultyStore = field(init=False)

    def begin(self) -> Faults:
        """Move the store to another port and open the door on its old one, where every client connects."""
        public_port = self._port()
        store_port = free_port(0)
        self.kill("store")
        self._set_store_port(store_port)
        self.up()
        self._set_store_port(public_port)
        self.door = FaultyStore(public_port, store_port).open()
        self.up()
        return self

    def end(self) -> None:
        """Close the door and start the store on its own port again."""
        self.door.close()
        self.kill("store")
        self.up()

    def up(self) -> None:
        """Start dead parts with `exchange cluster up`."""
        code, output = self.cluster.run("up")
        assert code == 0, output

    def repair(self) -> None:
        """Let the store serve normally, and start dead parts."""
        self.door.before = self.door.after = None
        self.door.refuse_each, self.door.delay = 0, 0.0
        if not self.door.is_open:
            self.door.open()
        self.up()

    def kill(self, part: str, sign: signal.Signals = signal.SIGKILL) -> None:
        """Signal a part, with SIGKILL also all its children; returns when they have ended."""
        process = psutil.Process(self._state()["parts"][part]["pid"])
        targets = [*process.children(recursive=True), process] if sign == signal.SIGKILL else [process]
        for target in targets:
            with suppress(psutil.Error):
                target.send_signal(sign)
        # Orphans may stay zombies: a container's first process need not reap them.
        psutil.wait_procs([p for p in targets if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], timeout=20)

    def at_commit(self, table: str, version: int, strike: Callable[[], object], *, after: bool = False) -> None:
        """Strike once when the engine asks the store to write the commit of this version: before the store sees the
        request, which is then lost, or with `after` once it has stored the commit."""
        layer, name = table.split(".")
        self._at(f"/{layer}/{name}/_delta_log/{version:020d}.json", strike, after=after)

    def at_first_file(self, table: str, strike: Callable[[], object]) -> None:
        """Strike once when a worker asks the store to write a table's first data file."""
        self._at(f"/{table.replace('.', '/')}/", strike, suffix=".parquet")

    def _at(self, place: str, strike: Callable[[], object], *, suffix: str = ".json", after: bool = False) -> None:
        def inspect(method: str, path: str) -> bool:
            matches = method == "PUT" and place in path and path.endswith(suffix)
            if matches:
                self.door.before = self.door.after = None
                strike()
            return matches

        if after:
            self.door.after = inspect
        else:
            self.door.before = inspect

    def _state(self) -> dict[str, dict[str, dict[str, int]]]:
        return dict(json.loads((self.cluster.folder / "cluster.json").read_text(encoding="utf-8")))

    def _port(self) -> int:
        return int(self._state()["ports"]["store"])

    def _set_store_port(self, port: int) -> None:
        state = self._state()
        state["ports"]["store"] = port
        (self.cluster.folder / "cluster.json").write_text(json.dumps(state), encoding="utf-8")
