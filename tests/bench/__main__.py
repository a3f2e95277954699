"""Runs the bench: ``python -m tests.bench [--only pipeline,cluster]``, with ROWS in the environment."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.settings import settings
from tests.bench import client, door, increment, parse, pipeline
from tests.bench.contenders import NAMES, ON_CLUSTER
from tests.bench.measure import machine

Part = Callable[[Console, Path], dict[str, Any]]
PARTS = ("pipeline", "increment", "parse", "client", "door", "cluster", "cluster-increment")


def main() -> int:
    """Run the chosen parts, print their tables, and write all figures as JSON under EXCHANGE_HOME/bench."""
    given = _arguments()
    # Also wide enough when the output goes to a file.
    console = Console(width=None if sys.stdout.isatty() else 180)
    folder = settings().home / "bench"
    scratch = folder / f"scratch-{os.getpid()}"
    scratch.mkdir(parents=True)
    report: dict[str, Any] = {"machine": machine()}
    console.print(f"{report['machine']}", style="dim")
    failed = False
    try:
        for part in given.only:
            console.rule(part)
            report[part], failed_part = _part(_runner(part, given), console, scratch / part)
            failed = failed or failed_part
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report["machine_after"] = machine()
    file = folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{'-'.join(given.only)}.json"
    file.write_text(json.dumps(report, indent=1, default=str))
    console.print(f"figures: {file}")
    return int(failed)


def _part(run: Part, console: Console, scratch: Path) -> tuple[dict[str, Any], bool]:
    scratch.mkdir()
    try:
        return run(console, scratch), False
    except RuntimeError as error:
        console.print(f"failed: {error}", style="red", markup=False)
        return {"failed": str(error)}, True


def _runner(part: str, given: argparse.Namespace) -> Part:
    def run(console: Console, scratch: Path) -> dict[str, Any]:
        if part == "pipeline":
            return pipeline.bench(console, scratch, given.rows, given.rounds, given.contenders)
        if part == "increment":
            return increment.bench(console, scratch, given.days, given.step)
        if part == "cluster":
            return pipeline.bench(console, scratch, given.rows, given.rounds, given.cluster_contenders)
        if part == "cluster-increment":
            return increment.bench(console, scratch, given.cluster_days, given.cluster_step, on_cluster=True)
        if part == "door":
            return door.bench(console, scratch, given.buyers, given.door_rows)
        if part == "parse":
            return parse.bench(console, scratch, given.rounds)
        return client.bench(console, scratch, given.client_rows, given.rounds)

    return run


def _arguments() -> argparse.Namespace:
    env = os.environ.get
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", type=_parts, default=PARTS, help="parts to run, e.g. pipeline,parse")
    for name, kind, default, text in (
        ("ROWS", _count, "2_000_000", "rows of the pipeline"),
        ("ROUNDS", _count, "3", "runs of each contender"),
        ("CONTENDERS", _contenders, ",".join(NAMES), "contenders of the pipeline, e.g. ours,duckdb"),
        ("DAYS", _days, "10,100,1000", "lengths of history, in days, at which to time one more day"),
        ("STEP", _count, "10", "days loaded by one run while building history; 1 is most realistic and slowest"),
        ("CLUSTER_CONTENDERS", _on_cluster, ",".join(ON_CLUSTER), "contenders of the pipeline on the cluster"),
        ("CLUSTER_DAYS", _days, "10,1000", "like DAYS, on the cluster"),
        ("CLUSTER_STEP", _count, "50", "like STEP, on the cluster"),
        ("BUYERS", _count, "300", "buyers who read at once"),
        ("DOOR_ROWS", _count, "100_000", "rows of the release that each of them reads"),
        ("CLIENT_ROWS", _count, "10_000_000", "rows of the shared table"),
    ):
        option = "--" + name.lower().replace("_", "-")
        parser.add_argument(option, type=kind, default=kind(env(name) or default), help=f"{text} (or env {name})")
    return parser.parse_args()


def _count(text: str) -> int:
    return int(text.replace(",", "").replace("_", ""))


def _days(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(day) for day in text.split(",")))


def _contenders(text: str) -> tuple[str, ...]:
    return _among(NAMES, text)


def _on_cluster(text: str) -> tuple[str, ...]:
    return _among(ON_CLUSTER, text)


def _parts(text: str) -> tuple[str, ...]:
    return _among(PARTS, text)


def _among(choices: Sequence[str], text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    unknown = sorted(set(chosen) - set(choices))
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; expected some of {', '.join(choices)}")
    return chosen


if __name__ == "__main__":
    raise SystemExit(main())
