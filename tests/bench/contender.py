"""Runs one contender once, in a separate process, and records its times."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
import time
from pathlib import Path

from tests.bench.contenders import NAMES, ON_CLUSTER
from tests.bench.contenders.work import Work


def main() -> None:
    """Run the contender named on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=(*NAMES, *ON_CLUSTER))
    parser.add_argument("csv", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    given = parser.parse_args()
    with given.csv.open("rb") as file:
        work = Work(given.csv, hashlib.file_digest(file, "sha256").hexdigest(), given.folder)
    contender = importlib.import_module(f"tests.bench.contenders.{given.name}")
    started = time.perf_counter()
    engine = contender.start(work)
    ready = time.perf_counter()
    contender.run(engine, work)
    figures = {"start": ready - started, "seconds": work.seconds, "cpu": work.cpu, "spark": work.spark}
    given.result.write_text(json.dumps(figures))
    contender.stop(engine)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
