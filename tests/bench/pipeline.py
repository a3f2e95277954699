"""Compares our steps with the same work on other engines: interleaved, each run in a separate process."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.settings import CHECKOUT
from tests.bench.contenders import ON_CLUSTER
from tests.bench.measure import watched
from tests.bench.outcome import Outcome, outcome
from tests.bench.readings import write_readings

_LIMIT_SECONDS = 3600.0
_UNCOUNTED = ("land",)


@dataclass(frozen=True)
class Run:
    """One run of one contender: seconds of wall time and of processor time by step, and peak memory in bytes.

    On a cluster `spark` has what Spark did in each step.
    """

    start: float
    seconds: dict[str, float]
    cpu: dict[str, float]
    peak: int
    spark: dict[str, dict[str, Any]]

    @property
    def total(self) -> float:
        """The time compared: every step but landing, which no peer has."""
        return sum(took for step, took in self.seconds.items() if step not in _UNCOUNTED)

    @property
    def processor(self) -> float:
        """The processor time compared."""
        return sum(took for step, took in self.cpu.items() if step not in _UNCOUNTED)


def bench(console: Console, scratch: Path, rows: int, rounds: int, names: tuple[str, ...]) -> dict[str, Any]:
    """Run the contenders in turn, round after round; the others are compared with the first.

    Raises:
        RuntimeError: a contender failed, or its tables are not those of the others.
    """
    csv = scratch / "readings.csv"
    written = write_readings(csv, rows)
    console.print(f"{written.rows:,} rows, {written.bytes / 1e6:,.0f} MB of CSV")
    runs: dict[str, list[Run]] = {name: [] for name in names if _is_there(name, console)}
    agreed: Outcome | None = None
    for number in range(rounds):
        for name, done in runs.items():
            run, outcome = _run(name, csv, scratch / name)
            agreed = agreed or outcome
            if outcome != agreed:
                raise RuntimeError(f"{name} did different work.\n  before: {agreed}\n  {name}: {outcome}")
            done.append(run)
            took = f"{run.total:.2f} s, {run.processor:.1f} s of processor time"
            console.print(f"round {number + 1}: {name} {took}", style="dim")
    csv.unlink()
    console.print(f"All agree: {agreed}")
    return _report(console, written.rows, runs, agreed)


def _is_there(name: str, console: Console) -> bool:
    if name in ("spark", *ON_CLUSTER) and not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        console.print(f"{name} is left out: there is no Java", style="yellow")
        return False
    return True


def _run(name: str, csv: Path, folder: Path) -> tuple[Run, Outcome]:
    folder.mkdir(parents=True)
    result, log = folder.with_suffix(".json"), folder.with_suffix(".log")
    command = [sys.executable, "-m", "tests.bench.contender", name, str(csv), str(folder), str(result)]
    ended = watched(command, log=log, env=dict(os.environ), cwd=CHECKOUT, limit=_LIMIT_SECONDS)
    if ended.code or not result.exists():
        raise RuntimeError(f"{name} ended with {ended.code}:\n{ended.output[-3000:]}")
    figures = json.loads(result.read_text())
    left = outcome(folder / "lake")
    shutil.rmtree(folder)
    result.unlink()
    return Run(figures["start"], figures["seconds"], figures["cpu"], ended.peak, figures["spark"]), left


def _report(console: Console, rows: int, runs: dict[str, list[Run]], agreed: Outcome | None) -> dict[str, Any]:
    figures = {name: _median(done) for name, done in runs.items()}
    ours = next((figures[name] for name in ("ours", "ours_on_cluster") if name in figures), None)
    steps = list(next(iter(figures.values()))["steps"])
    table = Table(title=f"{rows:,} rows, medians of {len(next(iter(runs.values())))} rounds, seconds")
    for heading in ("", "start", *steps, "total", "÷ ours", "processor", "÷ ours", "peak MiB", "rows/s"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, row in figures.items():
        row["ratio"] = row["total"] / ours["total"] if ours else None
        row["cpu_ratio"] = row["cpu"] / ours["cpu"] if ours else None
        table.add_row(
            name, f"{row['start']:.1f}", *(f"{row['steps'].get(step, 0):.2f}" for step in steps), f"{row['total']:.2f}",
            _times(row["ratio"]), f"{row['cpu']:.1f}", _times(row["cpu_ratio"]), f"{row['peak'] / 2**20:,.0f}",
            f"{rows / row['total']:,.0f}",
        )  # fmt: skip
    console.print(table)
    _show_spark(console, {name: done[-1].spark for name, done in runs.items() if done[-1].spark})
    report: dict[str, Any] = {"rows": rows, "contenders": figures, "outcome": str(agreed)}
    if ours:
        checks = sum(took for step, took in ours["steps"].items() if step.startswith("check"))
        report["expectations_share"] = checks / ours["total"]
        console.print(f"expectations take {report['expectations_share']:.0%} of our time (aim: at most 25 %)")
    console.print("start (imports, engine) and landing are not in the total", style="dim")
    return report


def _show_spark(console: Console, work: dict[str, dict[str, dict[str, Any]]]) -> None:
    """What Spark did for each step of the last round."""
    if not work:
        return
    table = Table(title="Spark's jobs (tasks; MB spilled to disk) by step")
    steps = [step for step in next(iter(work.values())) if step not in _UNCOUNTED]
    for heading in ("", *steps):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, done in work.items():
        cells = [done[step] for step in steps]
        table.add_row(name, *(f"{c['jobs']} ({c['tasks']:,}; {c['spilled'] / 1e6:,.0f})" for c in cells))
    console.print(table)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f} ×"


def _median(runs: list[Run]) -> dict[str, Any]:
    counted = [step for step in runs[0].seconds if step not in _UNCOUNTED]
    steps = {step: statistics.median(run.seconds[step] for run in runs) for step in counted}
    return {
        "start": statistics.median(run.start for run in runs),
        "steps": steps,
        "total": statistics.median(run.total for run in runs),
        "totals": [run.total for run in runs],
        "cpu": statistics.median(run.processor for run in runs),
        "cpu_steps": {step: statistics.median(run.cpu[step] for run in runs) for step in steps},
        "peak": statistics.median(run.peak for run in runs),
        "land": statistics.median(run.seconds.get("land", 0.0) for run in runs),
        "spark": runs[-1].spark,
    }
