"""What goes wrong in a cluster, done to it on purpose: parts that die, a store that fails, and bringing all back."""

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
    """A cluster whose object store is reached through a door."""

    cluster: Cluster
    door: FaultyStore = field(init=False)

    def begin(self) -> Faults:
        """Move the store to another port, and put the door where it was: all that know the store find the door."""
        known = self._port()
        behind = free_port(0)
        self.kill("store")
        self._let_store_be_at(behind)
        self.up()
        self._let_store_be_at(known)
        self.door = FaultyStore(known, behind).open()
        self.up()
        return self

    def end(self) -> None:
        """Put the store back in its place."""
        self.door.close()
        self.kill("store")
        self.up()

    def up(self) -> None:
        """Start what is dead, as a person does."""
        code, said = self.cluster.run("up")
        assert code == 0, said

    def mend(self) -> None:
        """Let the store serve as it should, and start what is dead."""
        self.door.before = self.door.after = None
        self.door.refuse_each, self.door.delay = 0, 0.0
        if not self.door.is_open:
            self.door.open()
        self.up()

    def kill(self, part: str, sign: signal.Signals = signal.SIGKILL) -> None:
        """Kill a part with all that it started; returns when it is gone."""
        process = psutil.Process(self._state()["parts"][part]["pid"])
        struck = [*process.children(recursive=True), process] if sign == signal.SIGKILL else [process]
        for one in struck:
            with suppress(psutil.Error):
                one.send_signal(sign)
        # Its parent has ended, so nobody asks how it ended: a container's first process may leave it as it is.
        psutil.wait_procs([p for p in struck if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], timeout=20)

    def at_commit(self, table: str, version: int, strike: Callable[[], object], *, after: bool = False) -> None:
        """Strike once, in the very moment in which the engine asks the store to keep that version of a table; the store
        has it only with `after`."""
        layer, name = table.split(".")
        self._at(f"/{layer}/{name}/_delta_log/{version:020d}.json", strike, after=after)

    def at_first_file(self, table: str, strike: Callable[[], object]) -> None:
        """Strike once, when a worker asks the store to keep the first file of rows of a table."""
        self._at(f"/{table.replace('.', '/')}/", strike, kind=".parquet")

    def _at(self, place: str, strike: Callable[[], object], *, kind: str = ".json", after: bool = False) -> None:
        def look(method: str, path: str) -> bool:
            found = method == "PUT" and place in path and path.endswith(kind)
            if found:
                self.door.before = self.door.after = None
                strike()
            return found

        if after:
            self.door.after = look
        else:
            self.door.before = look

    def _state(self) -> dict[str, dict[str, dict[str, int]]]:
        return dict(json.loads((self.cluster.folder / "cluster.json").read_text(encoding="utf-8")))

    def _port(self) -> int:
        return int(self._state()["ports"]["store"])

    def _let_store_be_at(self, port: int) -> None:
        state = self._state()
        state["ports"]["store"] = port
        (self.cluster.folder / "cluster.json").write_text(json.dumps(state), encoding="utf-8")
