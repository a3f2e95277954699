"""What the tests of Airflow share: a catalogue of their own, and programs run as a person runs them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

# Prints, as JSON, what Airflow makes of the DAG files, and which modules that took.
_READ_DAGS = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
facts = {
    dag.dag_id: {
        "schedule": str(dag.schedule), "tags": sorted(dag.tags), "doc": dag.doc_md, "title": dag.description,
        "catchup": dag.catchup, "max_active_runs": dag.max_active_runs,
        "assets": sorted(asset.name for asset in getattr(dag.schedule, "objects", ())),
        "tasks": {
            task.task_id: {
                "owner": task.owner,
                "steps": list(getattr(task, "steps", ())),
                "subject": getattr(task, "subject", None),
                "after": sorted(task.upstream_task_ids),
                "outlets": {outlet.name: outlet.uri for outlet in task.outlets},
            } for task in dag.tasks
        },
    } for dag in bag.dags.values()
}
print(json.dumps({"dags": facts, "errors": list(bag.import_errors.values()), "modules": sorted(sys.modules)}))
"""


@dataclass
class Exchange:
    """One EXCHANGE_HOME with a catalogue of its own; whatever was started in it is ended at the end of the test."""

    home: Path
    catalogue: Path
    variables: dict[str, str] = field(default_factory=dict)
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, command: str = "run") -> subprocess.Popen[str]:
        """Start `exchange run` or `exchange up`."""
        started = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", command],
            cwd=CHECKOUT, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._started.append(started)
        return started

    def run(self) -> tuple[int, str]:
        """Run `exchange run` to its end: exit code and all that it printed."""
        started = self.start()
        said, _ = started.communicate(timeout=240)
        return started.returncode, said

    def environment(self) -> dict[str, str]:
        places = {"EXCHANGE_HOME": str(self.home), "EXCHANGE_CATALOGUE": str(self.catalogue)}
        return dict(os.environ) | places | self.variables

    def tables(self) -> dict[str, int]:
        """The checked version of each table."""
        with closing(sqlite3.connect(self.home / "registry.db")) as registry:
            return dict(registry.execute("select table_name, delta_version from pointers").fetchall())

    def services(self) -> Iterator[psutil.Process]:
        """All processes that services of this home started."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("EXCHANGE_SERVICES_OF") == str(self.home):
                    yield process

    def left_running(self) -> list[str]:
        """Command lines of processes that services of this home left behind."""
        found = []
        for process in self.services():
            with suppress(psutil.Error):
                found.append(" ".join(process.cmdline()))
        return found

    def end(self) -> None:
        for started in self._started:
            if started.poll() is None:
                started.kill()
                started.wait()
        for process in self.services():
            with suppress(psutil.Error):
                process.kill()


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Exchange]:
    made = Exchange(tmp_path / "home", tmp_path / "catalogue")
    yield made
    made.end()


@pytest.fixture
def read_dags(tmp_path: Path) -> Callable[[Path], dict[str, Any]]:
    """Reads one DAG file, or all of them, through Airflow's DagBag in a fresh interpreter."""

    def read(catalogue: Path, file: str = "") -> dict[str, Any]:
        environment = dict(os.environ) | {
            "AIRFLOW_HOME": str(tmp_path / "airflow"), "EXCHANGE_HOME": str(tmp_path / "home"),
            "EXCHANGE_CATALOGUE": str(catalogue), "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACKS": "false", "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _READ_DAGS, str(CHECKOUT / "dags" / file)],
            cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return facts

    return read


def wait_until(true: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait for something to become true; fail if it does not."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
