"""Fixtures of the Airflow tests: an exchange with its own catalogue, and DAG files read by Airflow itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.settings import CHECKOUT
from tests.airflow.programs import Installation, Template

# Prints as JSON the DAGs that Airflow reads from the files, and the modules imported for that.
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


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Template:
    """One migrated home for all processes of this test run."""
    base = tmp_path_factory.getbasetemp()
    return Template((base.parent if hasattr(request.config, "workerinput") else base) / "template").make()


@pytest.fixture
def new_exchange(tmp_path: Path) -> Iterator[Installation]:
    """An exchange in a home that does not exist yet."""
    installation = Installation(tmp_path / "home", tmp_path / "catalogue")
    yield installation
    installation.end()


@pytest.fixture
def exchange(new_exchange: Installation, template: Template) -> Installation:
    """An exchange with migrated databases."""
    template.copy_to(new_exchange.home)
    return new_exchange


@pytest.fixture
def read_dags(tmp_path: Path) -> Callable[[Path], dict[str, Any]]:
    """A function that reads one DAG file, or all, with Airflow's DagBag in a fresh interpreter."""

    def read(catalogue: Path, file: str = "") -> dict[str, Any]:
        environment = dict(os.environ) | {
            "AIRFLOW_HOME": str(tmp_path / "airflow"), "EXCHANGE_HOME": str(tmp_path / "home"),
            "EXCHANGE_CATALOGUE": str(catalogue), "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACKS": "false", "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _READ_DAGS, str(CHECKOUT / "dags" / file)],
            cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return facts

    return read
