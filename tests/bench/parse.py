"""Measures how long Airflow takes to parse 600 declarations, and what they import into its scheduler."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.settings import CHECKOUT
from tests.bench.catalogue import declare

_EACH = 300
_LIMIT_SECONDS = 300
_FILES = ("ingest.py", "publish.py", "upkeep.py", "declarations.py")
_HEAVY = ("pyspark", "pysail", "pandas", "great_expectations", "deltalake", "pyarrow")

# Run in a separate process: a scheduler's DAG processor forks from a process that has imported Airflow.
_SCRIPT = """
import json, sys, time
started = time.perf_counter()
from airflow.dag_processing.dagbag import DagBag
import airflow.sdk
imported = time.perf_counter()
before = set(sys.modules)
seconds, processor = {}, {}
for file in sys.argv[2:]:
    begun, spent = time.perf_counter(), time.process_time()
    bag = DagBag(file, safe_mode=False)
    name = file.rsplit("/", 1)[1]
    seconds[name], processor[name + " processor"] = time.perf_counter() - begun, time.process_time() - spent
    if bag.import_errors:
        raise SystemExit(str(bag.import_errors))
    seconds.setdefault("dags", 0)
    # The exchange's own DAG of upkeep has no declaration.
    seconds["dags"] += len(bag.dags) if name in ("ingest.py", "publish.py") else 0
modules = sorted({name.split(".")[0] for name in set(sys.modules) - before})
figures = {"import": imported - started, "modules": modules, **seconds, **processor}
with open(sys.argv[1], "w") as result:
    json.dump(figures, result)
"""


def bench(console: Console, scratch: Path, rounds: int) -> dict[str, Any]:
    """Parse the generated declarations several times, each in a separate process.

    Raises:
        RuntimeError: a declaration does not parse, or DAGs are missing.
    """
    declare(scratch / "catalogue", copies=_EACH)
    env = dict(os.environ) | {
        "EXCHANGE_CATALOGUE": str(scratch / "catalogue"),
        "EXCHANGE_HOME": str(scratch / "home"),
        "AIRFLOW_HOME": str(scratch / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH")))),
    }
    runs = [_parse(scratch / "parse.json", env) for _ in range(rounds)]
    figures = {name: statistics.median(run[name] for run in runs) for name in runs[0] if name != "modules"}
    if figures["dags"] != 2 * _EACH:
        raise RuntimeError(f"{2 * _EACH} declarations gave {figures['dags']} DAGs")
    figures["total"] = sum(figures[file] for file in _FILES)
    figures["processor"] = sum(figures[f"{file} processor"] for file in _FILES)
    figures["heavy"] = sorted(set(_HEAVY) & set(runs[0]["modules"]))
    console.print(
        f"{2 * _EACH} declarations are parsed in {figures['total']:.2f} s (aim: about 2 s;"
        f" {figures['processor']:.2f} s of processor time): sources {figures['ingest.py']:.2f} s,"
        f" products {figures['publish.py']:.2f} s, checking everything with all contracts and rules"
        f" {figures['declarations.py']:.2f} s; importing Airflow itself, not counted, {figures['import']:.1f} s"
    )
    console.print(f"engines imported: {', '.join(figures['heavy']) or 'none'}")
    return figures


def _parse(result: Path, env: dict[str, str]) -> dict[str, Any]:
    files = [str(CHECKOUT / "dags" / name) for name in _FILES]
    command = [sys.executable, "-c", _SCRIPT, str(result), *files]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False)
    if ended.returncode:
        raise RuntimeError(f"the declarations do not parse:\n{(ended.stderr or ended.stdout)[-3000:]}")
    figures: dict[str, Any] = json.loads(result.read_text())
    return figures
