"""What the cluster of this EXCHANGE_HOME consists of, written down so that any later command finds it again."""

from __future__ import annotations

import secrets as random
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field

from jobs.operate.processes import Mark, is_alive, is_free, write_private
from jobs.settings import settings

# Below the ports that Linux gives to outgoing connections, so that a part finds its port free when it starts again.
_PORTS = range(20_000, 32_000)

# All parts of a cluster on one machine listen here and nowhere else.
HOST = "127.0.0.1"


class Part(BaseModel):
    """One process of the cluster, as it was started."""

    model_config = ConfigDict(frozen=True)

    name: str
    pid: int
    created: float = Field(description="when the process began, in seconds since 1970: tells it from a later pid")
    port: int = Field(description="on which it is ready when it accepts connections")

    @property
    def began_at(self) -> datetime:
        """When it was started."""
        return datetime.fromtimestamp(self.created, UTC)

    def process(self) -> psutil.Process | None:
        """The process, if it still runs."""
        with suppress(psutil.Error):
            found = psutil.Process(self.pid)
            if abs(found.create_time() - self.created) < 1 and is_alive(found):
                return found
        return None


class State(BaseModel):
    """The whole cluster; without secrets."""

    model_config = ConfigDict(frozen=True)

    workers: int
    cores: int
    memory: str
    ports: dict[str, int] = Field(default_factory=dict)
    parts: dict[str, Part] = Field(default_factory=dict)

    @property
    def worker_names(self) -> list[str]:
        """What its workers are called."""
        return [f"worker-{number}" for number in range(1, self.workers + 1)]

    def running(self) -> set[str]:
        """The parts whose processes live."""
        return {name for name, part in self.parts.items() if part.process()}

    def with_part(self, part: Part) -> State:
        """The same with one part more, or started again."""
        return self.model_copy(update={"parts": {**self.parts, part.name: part}})

    def save(self) -> State:
        """Write it down."""
        write_private(_file(), self.model_dump_json(indent=1) + "\n")
        return self


def load() -> State | None:
    """The cluster as it was last started; None if there never was one."""
    try:
        return State.model_validate_json(_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def forget() -> None:
    """Note that no part runs; size and ports stay as they are, for the next start."""
    known = load()
    if known:
        known.model_copy(update={"parts": {}}).save()


def mark() -> Mark:
    """What every process of this cluster carries."""
    return Mark("EXCHANGE_CLUSTER_OF", str(settings().home))


def log_of(part: str) -> Path:
    """Where a part's output goes."""
    return settings().cluster / "logs" / f"{part}.log"


def make_folder() -> Path:
    """The folder of the cluster's state, which only its owner can enter."""
    folder = settings().cluster
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def choose_ports(names: list[str], known: dict[str, int], busy: set[str]) -> dict[str, int]:
    """A port for each name: the known one if it is free or its part is up (`busy`), else any free one."""
    chosen: dict[str, int] = {}
    for name in names:
        port = known.get(name, 0)
        while not port or port in chosen.values() or not (name in busy or is_free(port)):
            port = random.choice(_PORTS)
        chosen[name] = port
    return chosen


def _file() -> Path:
    return settings().cluster / "cluster.json"
