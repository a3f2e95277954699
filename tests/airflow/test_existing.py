"""The project in an existing Airflow: the package as a wheel, the DAGs as a bundle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from jobs.settings import CHECKOUT

# Loads the bundle by name, as that Airflow's DAG processor does.
_LOAD = """
import json, jobs
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag
bundle = DagBundlesManager().get_bundle("exchange")
bag = DagBag(bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
print(json.dumps({"jobs": jobs.__file__, "dags": sorted(bag.dags), "errors": list(bag.import_errors.values())}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel, to be imported instead of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    shutil.copytree(CHECKOUT / "jobs", source / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as packed:
        packed.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_contains_the_whole_package_and_its_command(wheel: Path) -> None:
    def files(root: Path) -> set[str]:
        paths = (file for file in (root / "jobs").rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        return {str(file.relative_to(root)) for file in paths}

    assert files(wheel) == files(CHECKOUT)
    (entry_points,) = wheel.glob("*.dist-info/entry_points.txt")
    assert "exchange = jobs.cli:main" in entry_points.read_text(encoding="utf-8")


def test_the_dags_load_as_a_bundle_with_the_package_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    for name in ("dags", "expectations"):
        shutil.copytree(CHECKOUT / name, tmp_path / "catalogue" / name, ignore=shutil.ignore_patterns("__pycache__"))
    bundle = {
        "name": "exchange", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(tmp_path / "catalogue" / "dags")},
    }  # fmt: skip
    environment = dict(os.environ) | {
        "PYTHONPATH": str(wheel), "PYTHONSAFEPATH": "1", "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false", "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
        "EXCHANGE_CATALOGUE": str(tmp_path / "catalogue"), "EXCHANGE_HOME": str(tmp_path / "home"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LOAD], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded["jobs"] == str(wheel / "jobs" / "__init__.py")
    assert loaded["errors"] == []
    sources = {
        f"ingest_{file.parent.parent.name}_{file.parent.name}" for file in CHECKOUT.glob("dags/sources/*/*/*.yaml")
    }
    products = {f"publish_{file.parent.name}" for file in CHECKOUT.glob("dags/products/*/product.yaml")}
    assert set(loaded["dags"]) == sources | products | {"upkeep"}
