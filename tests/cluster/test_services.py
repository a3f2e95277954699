"""Airflow on the cluster: the catalogue goes through it with nothing in SQLite, and no secret shows anywhere."""

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
from tests.cluster.running import CHECKOUT, Cluster
from tests.lake.trial import Trial

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(1800)]

READINGS = [("m1", "1.50"), ("m2", "2.25")]
WATCHED_EVERY = 0.2


@dataclass
class Ran:
    """One `exchange run --cluster` to its end, and what could be seen of it meanwhile."""

    cluster: Cluster
    code: int
    said: str
    commands: set[str]

    @property
    def settings(self) -> dict[str, str]:
        return self.cluster.settings()

    def rows(self, database: str, query: str) -> list[tuple[Any, ...]]:
        """What a query finds in one of the cluster's databases."""
        name = "EXCHANGE_DATABASE_URL" if database == "exchange" else "EXCHANGE_AIRFLOW_DATABASE_URL"
        with psycopg.connect(self.settings[name].replace("+psycopg", "")) as connection:
            return connection.execute(query).fetchall()

    def objects(self) -> Iterator[tuple[str, bytes]]:
        """All objects of the store: key, bytes."""
        told = self.settings
        with closing(boto3.client(
            "s3", endpoint_url=told["AWS_ENDPOINT_URL"], region_name=told["AWS_REGION"],
            aws_access_key_id=told["AWS_ACCESS_KEY_ID"], aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
        )) as store:  # fmt: skip
            for page in store.get_paginator("list_objects_v2").paginate(Bucket="exchange"):
                for found in page.get("Contents", ()):
                    yield found["Key"], store.get_object(Bucket="exchange", Key=found["Key"])["Body"].read()


@dataclass
class Watch:
    """Notes the command lines of all processes of this machine, again and again."""

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
        while not self._done.wait(WATCHED_EVERY):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    self.seen.add(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))


@pytest.fixture(scope="module")
def ran(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A source and a product, brought in and released through Airflow on the cluster."""
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
    return Ran(cluster, done.returncode, done.stdout + done.stderr, watch.seen)


def test_airflow_runs_the_catalogue_on_the_cluster(ran: Ran) -> None:
    assert ran.code == 0, ran.said
    assert "the cluster is up already" in ran.said
    assert f"the cluster stays up; to use it:  . {ran.cluster.folder / 'env'}" in ran.said
    assert {part["state"] for part in ran.cluster.parts().values()} == {"up"}
    assert processes.Mark("EXCHANGE_SERVICES_OF", str(ran.cluster.home)).carriers() == []

    assert ran.rows("exchange", "select table_name from pointers order by 1") == [("gold.load",), ("silver.readings",)]
    assert ran.rows("exchange", "select product, major, minor, rows from releases") == [("load", 1, 0, 2)]
    # Upkeep has a schedule of its own, and the test may run at that time of the night.
    runs = dict(ran.rows("airflow", "select dag_id, state from dag_run where dag_id <> 'upkeep'"))
    assert runs == {"ingest_utility_readings": "success", "publish_load": "success"}
    keys = {key for key, _ in ran.objects()}
    for place in ("landing", "lake/bronze/readings", "lake/silver/readings", "lake/gold/load"):
        assert any(key.startswith(f"lake/{place}/") for key in keys), place
    files = [file for file in ran.cluster.home.rglob("*") if ran.cluster.folder not in file.parents]
    assert files
    assert [file for file in files if file.suffix in (".db", ".parquet") or file.name == "landing"] == []


def test_no_secret_shows_during_a_run_or_in_what_it_leaves(ran: Ran) -> None:
    secrets = ran.cluster.secrets()
    secrets += json.loads((ran.cluster.home / "airflow" / "secrets.json").read_text(encoding="utf-8")).values()
    assert len(secrets) == 12
    places = dict(_places(ran))
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


def _places(ran: Ran) -> Iterator[tuple[str, str]]:
    """Wherever a secret must not be: a name of the place, and all the text there."""
    yield "process list", "\n".join(ran.commands)
    yield "output", ran.said
    logs = [*(ran.cluster.folder / "logs").iterdir(), *(ran.cluster.folder / "work").glob("worker-*/*/*/std*")]
    for folder in ("airflow/logs", "logs", "evidence", "releases", "locks"):
        logs += (file for file in (ran.cluster.home / folder).rglob("*") if file.is_file())
    for file in (*logs, ran.cluster.home / "airflow" / "airflow.cfg", ran.cluster.folder / "cluster.json"):
        yield str(file), file.read_text(encoding="utf-8", errors="replace")
    for key, content in ran.objects():
        yield key, content.decode(errors="replace")
    for database in ("exchange", "airflow"):
        tables = ran.rows(database, "select table_name from information_schema.tables where table_schema = 'public'")
        for (table,) in tables:
            found = ran.rows(database, sql.SQL("select t::text from {} t").format(sql.Identifier(table)))
            yield f"{database} {table}", "\n".join(row[0] for row in found)
    yield from _pages(ran)


def _pages(ran: Ran) -> Iterator[tuple[str, str]]:
    """Spark's own pages, with the settings of the driver among them."""
    for part, told in ran.cluster.parts().items():
        doors = [c.laddr.port for c in psutil.Process(told["pid"]).net_connections("inet") if c.status == "LISTEN"]
        for door in doors if part in ("master", "connect", "worker-1") else ():
            for page in ("", "environment/", "api/v1/applications"):
                yield f"page {page} of {part} at {door}", _page(f"http://127.0.0.1:{door}/{page}")


def _page(address: str) -> str:
    # Of a part's doors only one is for browsers.
    with suppress(OSError, HTTPException), urllib.request.urlopen(address, timeout=5) as answer:
        return str(answer.read().decode(errors="replace"))
    return ""
