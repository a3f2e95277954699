"""The input and required output of every contender, so that their times are comparable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import psutil

from tests.bench.spark_jobs import EventLog

FILE_NAME = "readings.csv"
RUN_ID = "bench"
LOGICAL_DATE = datetime(2025, 1, 1, tzinfo=UTC)
KEY = ("meter_code", "read_at")
CODES = ("A", "E", "S")
# The rules of the contract; the first broken one in this order is the reason.
REASONS = (
    "read_at.type", "energy_kwh.type", "meter_code.required", "meter_code.pattern", "read_at.required", "read_at.range",
    "energy_kwh.required", "energy_kwh.range", "status_code.enum", "table.on_the_hour",
)  # fmt: skip
CONTRADICTION = "key.contradiction"


@dataclass
class Work:
    """One run of one contender.

    Attributes:
        csv: the landed file.
        sha256: of its bytes.
        folder: for everything it writes; `tables` finds its four Delta tables.
        seconds: wall time of each step, in order.
        cpu: processor time of each step, in seconds, of the process and all it started; unlike wall time it does not
            mind neighbours.
        events: what Spark's driver writes down of its work, if that is to be counted.
        spark: what it did in each step.
    """

    csv: Path
    sha256: str
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    events: EventLog | None = None
    spark: dict[str, dict[str, Any]] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step."""
        with self.events.counted() if self.events else nullcontext() as work:
            started, spent = time.perf_counter(), _processor_seconds()
            yield
            self.seconds[name] = time.perf_counter() - started
            self.cpu[name] = _processor_seconds() - spent
        if work:
            self.spark[name] = asdict(work)

    def table(self, layer: str) -> Path:
        """The path of a layer's Delta table: bronze, silver, quarantine or gold."""
        return self.folder / "lake" / layer


def _processor_seconds() -> float:
    own = psutil.Process()
    spent = [own.cpu_times(), *(child.cpu_times() for child in own.children(recursive=True))]
    return float(sum(times.user + times.system for times in spent))


class Contender(Protocol):
    """A module of this package."""

    def start(self, work: Work) -> Any:
        """Import what it needs and start the engine."""

    def run(self, engine: Any, work: Work) -> None:
        """Do the work, each step within ``work.step``."""

    def stop(self, engine: Any) -> None:
        """Release the engine."""


class BrokenRule(Exception):
    """A newly written table breaks its contract."""


def hold(table: str, broken: dict[str, int]) -> None:
    """Refuse a table that breaks any rule; `broken` counts rows by rule, or is 1 for rules of the whole table."""
    failed = {rule: count for rule, count in broken.items() if count}
    if failed:
        raise BrokenRule(f"{table}: {failed}")
