"""Measures whether a day still costs a day after years: real daily runs, timed at 10, 100 and 1,000 days of history."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from jobs.lake import close
from jobs.settings import CHECKOUT
from tests.bench.catalogue import PRODUCT, SOURCE, declare
from tests.bench.measure import watched
from tests.bench.on_cluster import cluster
from tests.bench.readings import write_readings
from tests.bench.spark_jobs import EventLog

METERS = 500
_TIMED = 7
_LATE_HOURS = 2
_FIRST = datetime(2023, 1, 1)
_LIMIT_SECONDS = 6 * 3600.0
_STEPS = (
    ("land", SOURCE), ("bronze", SOURCE), ("silver", SOURCE), ("check", SOURCE),
    ("gold", PRODUCT), ("check", PRODUCT), ("release", PRODUCT),
)  # fmt: skip


def bench(
    console: Console, scratch: Path, days: tuple[int, ...], step: int, *, on_cluster: bool = False
) -> dict[str, Any]:
    """Build up history by real runs, and time some more days at each length.

    Args:
        console: where the table goes.
        scratch: an empty folder.
        days: lengths of history at which to time.
        step: days loaded by one seeding run; 1 makes as many versions of every table as there are days.
        on_cluster: run on Apache Spark instead of the embedded engine, and count its jobs and tasks too.

    Raises:
        RuntimeError: a run failed.
    """
    result = scratch / "increment.json"
    command = [sys.executable, "-m", "tests.bench.increment", str(scratch), str(step), str(result), str(on_cluster)]
    command += map(str, days)
    ended = watched(command, log=scratch / "log", env=dict(os.environ), cwd=CHECKOUT, limit=_LIMIT_SECONDS)
    if ended.code:
        raise RuntimeError(f"the daily runs ended with {ended.code}:\n{ended.output[-3000:]}")
    figures: dict[str, Any] = json.loads(result.read_text()) | {"peak": ended.peak}
    _show(console, figures, step)
    return figures


def _show(console: Console, figures: dict[str, Any], step: int) -> None:
    points = figures["points"]
    labels = list(points[0]["seconds"])
    work = list(points[0]["spark"])
    title = f"one more day ({figures['rows_a_day']:,} rows), medians of {_TIMED}"
    table = Table(title=f"{title}, milliseconds of wall (processor) time")
    for heading in ("days before", "silver versions", "files", *labels, "day", *work):
        table.add_column(heading, justify="right")
    for point in points:
        cells = [f"{1000 * point['seconds'][x]:.0f} ({1000 * point['cpu'][x]:.0f})" for x in labels]
        whole = f"{1000 * point['day']:.0f} ({1000 * point['day_cpu']:.0f})"
        done = [f"{point['spark'][x]:,.0f}" for x in work]
        table.add_row(str(point["days"]), str(point["versions"]), str(point["files"]), *cells, whole, *done)
    first, last = points[0], points[-1]
    figures["ratio"], figures["cpu_ratio"] = last["day"] / first["day"], last["day_cpu"] / first["day_cpu"]
    console.print(table)
    console.print(
        f"day {last['days']} costs {figures['ratio']:.2f} × day {first['days']}"
        f" ({figures['cpu_ratio']:.2f} × in processor time; aim: at most 1.1);"
        f" seeded by real runs of {step} day{'s' if step > 1 else ''} each"
    )


class _History:
    """Days that arrive one after another at the same source."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.days = 0

    def arrive(self, count: int) -> datetime:
        """Write the files of the next days to the drop folder; returns the date of the last."""
        folder = self.home / "drop" / SOURCE
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            date = _FIRST + timedelta(days=self.days)
            file = folder / f"{date:%Y-%m-%d}.csv"
            write_readings(file, METERS * 24, meters=METERS, first=date, seed=self.days)
            if self.days:
                self._add_late(file, date)
            # Old enough not to look like a file still being written.
            os.utime(file, (time.time() - 60, time.time() - 60))
            self.days += 1
        return (_FIRST + timedelta(days=self.days - 1)).replace(tzinfo=UTC)

    def _add_late(self, file: Path, date: datetime) -> None:
        """Repeat some hours of the day before with corrected values, as meters do."""
        late = self.home / "late.csv"
        before, seed = date - timedelta(days=1), 100_000 + self.days
        write_readings(late, METERS * _LATE_HOURS, meters=METERS, first=before, seed=seed, faults=False)
        with file.open("ab") as out:
            out.write(late.read_bytes().split(b"\n", 1)[1])
        late.unlink()


def _daily_run(date: datetime) -> tuple[dict[str, float], dict[str, float]]:
    from jobs.flow import run_step

    own = psutil.Process()
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}
    for step, name in _STEPS:
        label = f"check {'silver' if name == SOURCE else 'gold'}" if step == "check" else step
        started, spent = time.perf_counter(), sum(own.cpu_times()[:2])
        result = run_step(step, name, date, f"day-{date:%Y-%m-%d}")
        seconds[label], cpu[label] = time.perf_counter() - started, sum(own.cpu_times()[:2]) - spent
        if result.status != "succeeded":
            raise RuntimeError(f"{step} {name}: {result.status}, {result.message}")
    return seconds, cpu


def _timed(history: _History, events: EventLog | None) -> dict[str, Any]:
    from jobs import lake

    before = history.days
    with events.counted() if events else nullcontext() as work:
        runs = [_daily_run(history.arrive(1)) for _ in range(_TIMED)]
    counted = {"jobs": work.jobs, "files read": work.files_read, "tasks": work.tasks} if work else {}
    table = f"silver.{SOURCE}"

    def medians(place: int) -> dict[str, float]:
        return {label: statistics.median(run[place][label] for run in runs) for label in runs[0][place]}

    return {
        "days": before,
        "versions": lake.version(table),
        "files": len(lake.files(table)),
        "seconds": medians(0),
        "cpu": medians(1),
        "day": statistics.median(sum(run[0].values()) for run in runs),
        "spark": {name: count / _TIMED for name, count in counted.items()},
        "day_cpu": statistics.median(sum(run[1].values()) for run in runs),
    }


def main() -> None:
    """Run the days, in a separate process."""
    scratch, step, result = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    on_cluster, lengths = sys.argv[4] == "True", [int(days) for days in sys.argv[5:]]
    os.environ["EXCHANGE_HOME"] = str(scratch / "home")
    os.environ["EXCHANGE_CATALOGUE"] = str(scratch / "catalogue")
    declare(scratch / "catalogue", by_day=True)
    history = _History(scratch / "home")
    history.home.mkdir()
    with ExitStack() as stack:
        events = None
        if on_cluster:
            up = stack.enter_context(cluster(history.home))
            os.environ["EXCHANGE_SPARK"], events = up.connect, up.log
            stack.callback(close)
        points = _points(history, step, lengths, events)
    result.write_text(json.dumps({"rows_a_day": METERS * (24 + _LATE_HOURS), "points": points}))


def _points(history: _History, step: int, lengths: list[int], events: EventLog | None) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    for length in lengths:
        while history.days < length:
            _daily_run(history.arrive(min(step, length - history.days)))
            if history.days % 50 == 0:
                print(f"{history.days} days", flush=True)
        points.append(_timed(history, events))
        print(points[-1], flush=True)
    return points


if __name__ == "__main__":
    main()
