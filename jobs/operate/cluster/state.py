"""What the cluster of this EXCHANGE_HOME consists of, saved so that later commands find it."""

from __future__ import annotations

import secrets
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
    created: float = Field(description="when the process began, in seconds since 1970; a reused pid has another")
    port: int = Field(description="that accepts connections once the part is ready")

    @property
    def began_at(self) -> datetime:
        """When it was started."""
        return datetime.fromtimestamp(self.created, UTC)

    def process(self) -> psutil.Process | None:
        """The process, if it still runs."""
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.created) < 1 and is_alive(process):
                return process
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
        """Names of its workers."""
        return [f"worker-{number}" for number in range(1, self.workers + 1)]

    def running(self) -> set[str]:
        """Names of the parts whose processes run."""
        return {name for name, part in self.parts.items() if part.process()}

    def with_part(self, part: Part) -> State:
        """The same with a part added or replaced."""
        return self.model_copy(update={"parts": {**self.parts, part.name: part}})

    def save(self) -> State:
        """Save it."""
        write_private(_file(), self.model_dump_json(indent=1) + "\n")
        return self


def load() -> State | None:
    """The cluster as it was last started; None if there never was one."""
    try:
        return State.model_validate_json(_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def clear_parts() -> None:
    """Note that no part runs; size and ports stay as they are, for the next start."""
    state = load()
    if state:
        state.model_copy(update={"parts": {}}).save()


def mark() -> Mark:
    """The mark that every process of this cluster carries."""
    return Mark("EXCHANGE_CLUSTER_OF", str(settings().home))


def log_of(part: str) -> Path:
    """Where a part's output goes."""
    return settings().cluster / "logs" / f"{part}.log"


def make_folder() -> Path:
    """Create the folder of the cluster's state, which only its owner can enter."""
    folder = settings().cluster
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def choose_ports(names: list[str], last: dict[str, int], busy: set[str]) -> dict[str, int]:
    """A port for each name: the last one if it is free or its part runs (`busy`), else any free one."""
    chosen: dict[str, int] = {}
    for name in names:
        port = last.get(name, 0)
        while not port or port in chosen.values() or not (name in busy or is_free(port)):
            port = secrets.choice(_PORTS)
        chosen[name] = port
    return chosen


def _file() -> Path:
    return settings().cluster / "cluster.json"
