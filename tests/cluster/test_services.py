"""Airflow on the cluster: it runs the catalogue with nothing in SQLite, and no secret shows anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg
import pytest
from psycopg import sql

from jobs.operate import processes
from jobs.settings import CHECKOUT
from tests.cluster.running import Cluster
from tests.lake.trial import Trial

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(1800)]

READINGS = [("m1", "1.50"), ("m2", "2.25")]
_WATCH_SECONDS = 0.2


@dataclass
class ClusterRun:
    """A finished `exchange run --cluster`, and the command lines seen while it ran."""

    cluster: Cluster
    code: int
    output: str
    commands: set[str]

    @property
    def settings(self) -> dict[str, str]:
        return self.cluster.settings()

    def rows(self, database: str, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query on one of the cluster's databases."""
        name = "EXCHANGE_DATABASE_URL" if database == "exchange" else "EXCHANGE_AIRFLOW_DATABASE_URL"
        with psycopg.connect(self.settings[name].replace("+psycopg", "")) as connection:
            return connection.execute(query).fetchall()

    def objects(self) -> Iterator[tuple[str, bytes]]:
        """All objects of the store, as key and content."""
        settings = self.settings
        with closing(boto3.client(
            "s3", endpoint_url=settings["AWS_ENDPOINT_URL"], region_name=settings["AWS_REGION"],
            aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        )) as store:  # fmt: skip
            for page in store.get_paginator("list_objects_v2").paginate(Bucket="exchange"):
                for item in page.get("Contents", ()):
                    yield item["Key"], store.get_object(Bucket="exchange", Key=item["Key"])["Body"].read()


@dataclass
class Watch:
    """Collects the command lines of all processes on this machine while the block runs."""

    seen: set[str] = field(default_factory=set)
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(_WATCH_SECONDS):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    self.seen.add(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))


@pytest.fixture(scope="module")
def run(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> ClusterRun:
    """A source and a product, loaded and released by Airflow on the cluster."""
    catalogue = tmp_path_factory.mktemp("catalogue")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXCHANGE_HOME", str(cluster.home))
        exchange = Trial(catalogue)
        source = exchange.source({"meter": "STRING", "kwh": "DECIMAL(8,2)"}, ("meter",), name="readings")
        query = "SELECT meter, sum(kwh) AS kwh FROM silver.readings GROUP BY meter"
        exchange.product({"meter": "STRING", "kwh": "DECIMAL(18,2)"}, ("meter",), query, name="load")
        source.drop(READINGS)
    with Watch() as watch:
        done = subprocess.run(
            [sys.executable, "-m", "jobs.cli", "run", "--cluster"], cwd=CHECKOUT,
            env=cluster.environment() | {"EXCHANGE_CATALOGUE": str(catalogue)},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
    return ClusterRun(cluster, done.returncode, done.stdout + done.stderr, watch.seen)


def test_airflow_runs_the_catalogue_on_the_cluster(run: ClusterRun) -> None:
    assert run.code == 0, run.output
    assert "the cluster is up already" in run.output
    assert f"the cluster stays up; to use it:  . {run.cluster.folder / 'env'}" in run.output
    assert {part["state"] for part in run.cluster.parts().values()} == {"up"}
    assert processes.Mark("EXCHANGE_SERVICES_OF", str(run.cluster.home)).carriers() == []

    assert run.rows("exchange", "select table_name from pointers order by 1") == [("gold.load",), ("silver.readings",)]
    assert run.rows("exchange", "select product, major, minor, rows from releases") == [("load", 1, 0, 2)]
    # Upkeep runs on its own schedule, perhaps during the test.
    runs = dict(run.rows("airflow", "select dag_id, state from dag_run where dag_id <> 'upkeep'"))
    assert runs == {"ingest_utility_readings": "success", "publish_load": "success"}
    keys = {key for key, _ in run.objects()}
    for place in ("landing", "lake/bronze/readings", "lake/silver/readings", "lake/gold/load"):
        assert any(key.startswith(f"lake/{place}/") for key in keys), place
    # Upkeep, if it ran, has copied the registry there.
    apart = {run.cluster.folder, run.cluster.home / "backups"}
    files = [file for file in run.cluster.home.rglob("*") if not apart & {file, *file.parents}]
    assert files
    assert [file for file in files if file.suffix in (".db", ".parquet") or file.name == "landing"] == []


def test_no_secret_shows_during_a_run_or_in_what_it_leaves(run: ClusterRun) -> None:
    secrets = run.cluster.secrets()
    secrets += json.loads((run.cluster.home / "airflow" / "secrets.json").read_text(encoding="utf-8")).values()
    assert len(secrets) == 12
    places = dict(_places(run))
    for part in ("airflow worker", "CoarseGrainedExecutorBackend", "SparkConnectServer", "postgres", "weed"):
        assert part in places["process list"], part
    for place in ("airflow task_instance", "airflow serialized_dag", "exchange runs", "page environment/ of connect"):
        assert any(name.startswith(place) and text for name, text in places.items()), place
    assert "airflow rendered_task_instance_fields" in places
    assert sum("_delta_log" in name for name in places) >= 4
    assert [name for name, text in places.items() if any(secret in text for secret in secrets)] == []


def test_a_home_with_an_exchange_in_sqlite_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "registry.db").touch()
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "up", "--cluster"], cwd=CHECKOUT,
        env=dict(os.environ) | {"EXCHANGE_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "this home already holds an exchange, with its records in SQLite" in done.stderr
    assert "exchange lake copy" in done.stderr


def _places(run: ClusterRun) -> Iterator[tuple[str, str]]:
    """All places where no secret may be, as name and text."""
    yield "process list", "\n".join(run.commands)
    yield "output", run.output
    logs = [*(run.cluster.folder / "logs").iterdir(), *(run.cluster.folder / "work").glob("worker-*/*/*/std*")]
    for folder in ("airflow/logs", "logs", "evidence", "releases", "locks"):
        logs += (file for file in (run.cluster.home / folder).rglob("*") if file.is_file())
    for file in (*logs, run.cluster.home / "airflow" / "airflow.cfg", run.cluster.folder / "cluster.json"):
        yield str(file), file.read_text(encoding="utf-8", errors="replace")
    for key, content in run.objects():
        yield key, content.decode(errors="replace")
    for database in ("exchange", "airflow"):
        tables = run.rows(database, "select table_name from information_schema.tables where table_schema = 'public'")
        for (table,) in tables:
            rows = run.rows(database, sql.SQL("select t::text from {} t").format(sql.Identifier(table)))
            yield f"{database} {table}", "\n".join(row[0] for row in rows)
    yield from _pages(run)


def _pages(run: ClusterRun) -> Iterator[tuple[str, str]]:
    """Spark's web pages; they show the driver's settings among others."""
    for part, status in run.cluster.parts().items():
        ports = [c.laddr.port for c in psutil.Process(status["pid"]).net_connections("inet") if c.status == "LISTEN"]
        for port in ports if part in ("master", "connect", "worker-1") else ():
            for page in ("", "environment/", "api/v1/applications"):
                yield f"page {page} of {part} at {port}", _page(f"http://127.0.0.1:{port}/{page}")


def _page(address: str) -> str:
    # Only one of a part's ports serves web pages.
    with suppress(OSError, HTTPException), urllib.request.urlopen(address, timeout=5) as answer:
        return str(answer.read().decode(errors="replace"))
    return ""
