"""Runs the bench: ``python -m tests.bench [--only pipeline,increment,parse,client]``, with ROWS in the environment."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.settings import settings
from tests.bench import client, increment, parse, pipeline
from tests.bench.measure import machine

PARTS = ("pipeline", "increment", "parse", "client")


def main() -> int:
    """Run the chosen parts, print their tables, and keep all figures as JSON under EXCHANGE_HOME/bench."""
    given = _arguments()
    # Wide enough for a table that is written to a file, too.
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


def _part(run: Callable[[Console, Path], dict[str, Any]], console: Console, scratch: Path) -> tuple[dict[str, Any], bool]:
    scratch.mkdir()
    try:
        return run(console, scratch), False
    except RuntimeError as error:
        console.print(f"failed: {error}", style="red", markup=False)
        return {"failed": str(error)}, True


def _runner(part: str, given: argparse.Namespace) -> Callable[[Console, Path], dict[str, Any]]:
    def run(console: Console, scratch: Path) -> dict[str, Any]:
        if part == "pipeline":
            return pipeline.bench(console, scratch, given.rows, given.rounds, given.contenders)
        if part == "increment":
            return increment.bench(console, scratch, given.days, given.step)
        if part == "parse":
            return parse.bench(console, scratch, given.rounds)
        return client.bench(console, scratch, given.client_rows, given.rounds)

    return run


def _arguments() -> argparse.Namespace:
    env = os.environ.get
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", type=_parts, default=PARTS, help="parts to run, such as pipeline,parse")
    parser.add_argument("--rows", type=_count, default=_count(env("ROWS") or "2_000_000"), help="rows of the pipeline (env ROWS)")
    parser.add_argument("--rounds", type=_count, default=_count(env("ROUNDS") or "3"), help="runs of each contender (env ROUNDS)")
    parser.add_argument("--contenders", type=pipeline.contenders, default=pipeline.contenders(env("CONTENDERS")))
    parser.add_argument("--days", type=_days, default=_days(env("DAYS") or "10,100,1000"), help="lengths of history (env DAYS)")
    parser.add_argument("--step", type=_count, default=1, help="days of one seeding run, 1 being the truest and slowest")
    parser.add_argument("--client-rows", type=_count, default=_count(env("CLIENT_ROWS") or "10_000_000"))
    return parser.parse_args()


def _count(text: str) -> int:
    return int(text.replace(",", "").replace("_", ""))


def _days(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(day) for day in text.split(",")))


def _parts(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    unknown = sorted(set(chosen) - set(PARTS))
    if unknown:
        raise argparse.ArgumentTypeError(f"no part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    return chosen


if __name__ == "__main__":
    raise SystemExit(main())
