"""The Airflow that `exchange up` keeps running: clearing, backfills, late runs and failures leave the right tables."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import delta_sharing
import httpx
import psutil
import pytest

from jobs.operate.processes import free_port, is_listening
from jobs.settings import CHECKOUT
from tests.airflow import generated, wire
from tests.airflow.programs import Installation, Template
from tests.airflow.reading import table_rows
from tests.waiting import wait_until

# An unreachable package index: nothing listens on that port.
NO_INDEX = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_TIMEOUT": "1", "PIP_FIND_LINKS": ""}
JANUARY = [("2026-01-01", "north", "1.5"), ("2026-01-02", "north", "2.5"), ("2026-01-01", "south", "4")]
# Rows published on three days; each corrects the day before and adds to it.
DAYS = {
    "2026-01-05": [("2026-01-01", "north", "1"), ("2026-01-01", "south", "4")],
    "2026-01-06": [("2026-01-01", "north", "2"), ("2026-01-02", "north", "5")],
    "2026-01-07": [("2026-01-01", "north", "3"), ("2026-01-02", "south", "6"), ("2026-01-02", "north", "5.5")],
}
SETTLED, IN_ORDER, LATE, BACKFILLED, AWAY, FAILING = range(6)

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]


@dataclass
class Running:
    """A running `exchange up`: its output, its Airflow's REST API, and processes to read tables in."""

    exchange: Installation
    output: str
    airflow: httpx.Client
    readers: Executor
    _numbers: Iterator[int]

    def trigger(self, *runs: tuple[int, str]) -> list[str]:
        """Run sources concurrently, each for a day, and wait for all; returns the ids of the runs."""
        run_ids = [f"by_hand_{next(self._numbers)}" for _ in runs]
        for (i, day), run_id in zip(runs, run_ids, strict=True):
            body = {"dag_run_id": run_id, "logical_date": f"{day}T00:00:00Z"}
            self.post(f"/api/v2/dags/{ingest(i)}/dagRuns", body)
        for (i, _), run_id in zip(runs, run_ids, strict=True):
            wait_until(lambda i=i, run_id=run_id: self.states(ingest(i))[run_id] in ("success", "failed"))
        return run_ids

    def clear(self, dag_id: str, run_id: str, **options: Any) -> None:
        """Clear tasks of a run, and wait until it has ended again."""
        before = self.run(dag_id, run_id)["end_date"]
        body = {"dag_run_id": run_id, "only_failed": False, "dry_run": False, **options}
        self.post(f"/api/v2/dags/{dag_id}/clearTaskInstances", body)
        wait_until(lambda: (self.run(dag_id, run_id)["end_date"] or before) != before)

    def post(self, path: str, body: dict[str, Any]) -> None:
        """Send a request; again while Airflow on SQLite refuses it because something else writes its database."""
        answers: list[httpx.Response] = []

        def is_answered() -> bool:
            answers.append(self.airflow.post(path, json=body))
            return answers[-1].status_code != httpx.codes.SERVICE_UNAVAILABLE and not (
                answers[-1].is_server_error and "Database error" in answers[-1].text
            )

        wait_until(is_answered)
        assert answers[-1].is_success, answers[-1].text

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        run: dict[str, Any] = self.airflow.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}").json()
        return run

    def states(self, dag_id: str) -> dict[str, str]:
        """State of each run of a DAG, by run id."""
        runs = self.airflow.get(f"/api/v2/dags/{dag_id}/dagRuns").json()["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in runs}

    def tasks(self, dag_id: str, run_id: str) -> dict[str, tuple[str, int]]:
        """State and number of tries of each task of a run."""
        tasks = self.airflow.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances").json()["task_instances"]
        return {task["task_id"]: (task["state"], task["try_number"]) for task in tasks}

    def tries(self, dag_id: str, run_id: str, task: str) -> list[dict[str, Any]]:
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}/tries"
        tries: list[dict[str, Any]] = self.airflow.get(path).json()["task_instances"]
        return tries

    def log(self, dag_id: str, run_id: str, task: str) -> str:
        """The log of a task's first try."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}/logs/1"
        return self.airflow.get(path, headers={"Accept": "application/json"}).text

    def published_state(self) -> tuple[dict[str, int], int]:
        """The checked version of each table, and the number of releases."""
        with closing(sqlite3.connect(self.exchange.home / "registry.db")) as registry:
            return self.exchange.tables(), registry.execute("select count(*) from releases").fetchone()[0]

    def rows(self, i: int, *columns: str) -> list[tuple[Any, ...]]:
        """Rows of a source's checked version, sorted; all columns but `_run_id` unless named."""
        table = f"silver.source_{i}"
        place = self.exchange.home / "lake" / table.replace(".", "/")
        rows = self.readers.submit(table_rows, place, self.exchange.tables()[table]).result()
        return sorted((tuple(r[n] for n in columns or sorted(r.keys() - {"_run_id"})) for r in rows), key=str)

    def current(self, i: int) -> list[tuple[Any, ...]]:
        """The current rows of a source that keeps revisions."""
        names = ("read_on", "area_code", "amount_kwh", "_superseded_at")
        return [row[:-1] for row in self.rows(i, *names) if row[-1] is None]


def ingest(i: int) -> str:
    return f"ingest_utility_source_{i}"


@pytest.fixture(scope="module")
def strays() -> Iterator[list[str] | str]:
    """Run this module in a network without a way out; gives the stray packets, or the reason why that is impossible."""
    with ExitStack() as stack:
        try:
            strays: list[str] | str = stack.enter_context(wire.no_way_out())
        except wire.CannotSeparate as error:
            strays = str(error)
        yield strays


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, template: Template, strays: object) -> Iterator[Running]:
    """`exchange up` after its first round: only the settled source has files, and one package index is unreachable."""
    del strays
    root = tmp_path_factory.mktemp("up")
    exchange = Installation(root / "home", root / "catalogue", NO_INDEX | {"EXCHANGE_SHARE_PORT": str(free_port(0))})
    template.copy_to(exchange.home)
    declare(exchange.catalogue)
    generated.drop(exchange.home, SETTLED, "january.csv", JANUARY)
    started = exchange.start("up")
    try:
        output = read_until(started, "Ctrl-C stops Airflow")
        address = re.search(r"Airflow +(http://127\.0\.0\.1:\d+)", output)
        assert address, output
        # Readers keep threads, which would stay in the network they were started in.
        with ProcessPoolExecutor(1, get_context("spawn")) as readers:
            yield Running(exchange, output, log_in(address[1], exchange.home), readers, count())
        assert {ip for ip, _ in listening(started)} == {"127.0.0.1"}
        started.send_signal(signal.SIGINT)
        # As make does, a moment after the terminal.
        started.send_signal(signal.SIGTERM)
        rest, _ = started.communicate(timeout=180)
        assert started.returncode == 0, rest
        assert exchange.left_running() == []
    finally:
        exchange.end()


def declare(catalogue: Path) -> None:
    generated.declare(catalogue, 6)
    sources = [catalogue / f"dags/sources/utility/source_{i}/source.yaml" for i in range(6)]
    for i in (IN_ORDER, LATE, BACKFILLED):
        change(sources[i], "mode: merge", "mode: revisions")
    # A backfill covers the days of a schedule.
    change(sources[BACKFILLED], "cadence: 0 0 29 2 *", "cadence: 0 16 * * 1-5")
    index = 'type: package, package: nothing, version: "1.0", files: ["nothing/*.csv"]'
    change(sources[AWAY], "type: drop, files: ['*.csv']", index)
    for i in (LATE, BACKFILLED, AWAY):
        shutil.rmtree(catalogue / f"dags/products/product_{i}")
    query = catalogue / f"dags/products/product_{IN_ORDER}/query.sql"
    both = "(SELECT * FROM silver.source_1 UNION ALL SELECT * FROM silver.source_2) AS joined"
    change(query, "FROM silver.source_1", f"FROM {both}")


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_up_prints_addresses_and_how_to_log_in(running: Running) -> None:
    assert re.search(r"product_0 +│ 1\.0\.0 ", running.output), running.output
    assert "passwords.json" in running.output
    sharing = re.search(r"Delta Sharing +http://127\.0\.0\.1:(\d+)", running.output)
    assert sharing, running.output
    wait_until(lambda: is_listening(int(sharing[1])))


def test_clearing_a_run_of_a_source_or_a_product_changes_nothing(running: Running) -> None:
    before = running.published_state()
    assert before == ({"silver.source_0": before[0]["silver.source_0"], "gold.product_0": 1}, 1)
    for dag_id in (ingest(SETTLED), "publish_product_0"):
        run_id = next(iter(running.states(dag_id)))
        running.clear(dag_id, run_id)
        # A source that is run again tells its products again, and they find nothing new.
        wait_until(lambda dag_id=dag_id: set(running.states(dag_id).values()) == {"success"})
    assert running.published_state() == before


def test_days_in_order_late_repeated_or_backfilled_give_the_same_tables(running: Running) -> None:
    first, second, third = DAYS
    for day in DAYS:
        generated.drop(running.exchange.home, BACKFILLED, f"{day}.csv", DAYS[day])
    backfill = {"from_date": f"{first}T00:00:00Z", "to_date": f"{third}T23:00:00Z", "max_active_runs": 1}
    running.post("/api/v2/backfills", {"dag_id": ingest(BACKFILLED), "dag_run_conf": {}, **backfill})

    load(running, (IN_ORDER, first))
    wait_until(lambda: [*running.states("publish_product_1").values()] == ["success"])
    assert "gold.product_1" not in running.exchange.tables(), "the other table that it reads is still empty"
    load(running, (IN_ORDER, second))
    load(running, (IN_ORDER, third))
    load(running, (LATE, third))
    load(running, (LATE, first))
    (run_id,) = load(running, (LATE, second))
    # One more version of one input is enough.
    wait_until(lambda: is_built_from_newest(running, "product_1"))
    before = running.published_state()
    running.clear(ingest(LATE), run_id)
    assert running.published_state() == before
    assert running.rows(LATE) == running.rows(IN_ORDER)

    wait_until(lambda: backfilled(running) == ["success"] * 3)
    latest = {row[:2]: row for day in DAYS for row in DAYS[day]}
    expected = sorted((datetime.fromisoformat(d).date(), area, float(kwh)) for d, area, kwh in latest.values())
    assert running.current(BACKFILLED) == running.current(IN_ORDER) == expected


def is_built_from_newest(running: Running, product: str) -> bool:
    """Whether no run of a product is active, and its checked version has the newest versions of its inputs."""
    with closing(sqlite3.connect(running.exchange.home / "registry.db")) as registry:
        found = registry.execute("select inputs from pointers where table_name = ?", (f"gold.{product}",)).fetchone()
    states = running.states(f"publish_{product}").values()
    tables = running.exchange.tables()
    read = json.loads(found[0])["tables"] if found else {"": 0}
    return set(states) == {"success"} and all(tables.get(table) == version for table, version in read.items())


def load(running: Running, *runs: tuple[int, str]) -> list[str]:
    """Drop the files of some sources' days, and run the sources for those days."""
    for i, day in runs:
        generated.drop(running.exchange.home, i, f"{day}.csv", DAYS[day])
    return running.trigger(*runs)


def backfilled(running: Running) -> list[str]:
    states = running.states(ingest(BACKFILLED))
    return [state for run_id, state in states.items() if run_id.startswith("backfill__")]


def test_a_failed_expectation_fails_its_task_without_retry_and_stops_later_ones(running: Running) -> None:
    generated.drop(running.exchange.home, FAILING, "january.csv", JANUARY)
    running.trigger((FAILING, "2026-02-01"))
    wait_until(lambda: [*running.states("publish_product_5").values()] == ["success"])
    before = running.published_state()

    bad = [("2026-02-01", "north", "-7"), ("2026-02-02", "west", "-8")]
    generated.drop(running.exchange.home, FAILING, "february.csv", bad)
    (run_id,) = running.trigger((FAILING, "2026-02-02"))
    assert running.tasks(ingest(FAILING), run_id) == {
        "land": ("success", 1),
        "load": ("success", 1),
        "check": ("failed", 1),
    }
    output = running.log(ingest(FAILING), run_id, "check")
    assert "amounts_positive (error: no amount is below zero): found 2, for example" in output
    assert "north" in output or "west" in output

    # Checking again without a new build must not succeed.
    running.clear(ingest(FAILING), run_id, task_ids=["check"])
    assert running.tasks(ingest(FAILING), run_id)["check"] == ("failed", 2)
    assert running.run(ingest(FAILING), run_id)["state"] == "failed"
    assert running.published_state() == before
    assert len(running.states("publish_product_5")) == 1


def test_an_unreachable_publisher_is_retried_with_growing_delays(running: Running) -> None:
    ((run_id, state),) = running.states(ingest(AWAY)).items()
    assert state == "failed"
    assert running.tasks(ingest(AWAY), run_id)["land"] == ("failed", 2)
    assert {running.tasks(ingest(AWAY), run_id)[task][0] for task in ("load", "check")} == {"upstream_failed"}
    tried = [{name: datetime.fromisoformat(t[name]) for name in ("start_date", "end_date")}
             for t in running.tries(ingest(AWAY), run_id, "land")]  # fmt: skip
    assert (tried[1]["start_date"] - tried[0]["end_date"]).total_seconds() >= 9

    # A scheduled run is retried for longer, since no user waits for it.
    running.post(
        f"/api/v2/dags/{ingest(AWAY)}/dagRuns", {"dag_run_id": "later", "logical_date": "2026-03-01T00:00:00Z"}
    )
    wait_until(lambda: running.tasks(ingest(AWAY), "later").get("land") == ("up_for_retry", 1))
    running.airflow.patch(f"/api/v2/dags/{ingest(AWAY)}/dagRuns/later", json={"state": "failed"})


def test_no_packet_leaves_this_machine(running: Running, strays: list[str] | str) -> None:
    if isinstance(strays, str):
        pytest.skip(f"NOT TESTED whether anything phones home, for lack of a separate network: {strays}")
    profile = running.exchange.home / "profile.share"
    call(running, "grant", "product_0", "--to", "Buyer", "--days", "1", "--out", str(profile))
    shared = running.readers.submit(delta_sharing.load_as_pandas, f"{profile}#exchange.products.product_0").result()
    assert len(shared) == 2
    call(running, "docs")
    assert strays == []
    environments = [process.environ() for process in running.exchange.services()]
    switches = ("GX_ANALYTICS_ENABLED", "SCARF_NO_ANALYTICS", "DO_NOT_TRACK")
    assert {tuple(one[name] for name in switches) for one in environments} == {("false", "true", "1")}

    with pytest.raises(OSError, match="name resolution"):
        socket.getaddrinfo("telemetry.example.org", 443)
    wait_until(lambda: any("port 53" in note and "telemetry.example.org" in note for note in strays), 5)


def call(running: Running, *words: str) -> None:
    """Run a command of the exchange beside `exchange up`."""
    command = [sys.executable, "-m", "jobs.cli", *words]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=running.exchange.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def read_until(started: subprocess.Popen[str], words: str) -> str:
    assert started.stdout is not None
    output = ""
    while words not in output:
        line = started.stdout.readline()
        assert line, output
        output += line
    return output


def listening(started: subprocess.Popen[str]) -> list[tuple[str, int]]:
    return [
        connection.laddr
        for process in psutil.Process(started.pid).children(recursive=True)
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]


def log_in(address: str, home: Path) -> httpx.Client:
    password = json.loads((home / "airflow" / "passwords.json").read_text(encoding="utf-8"))["admin"]
    client = httpx.Client(base_url=address, trust_env=False, timeout=180)
    token = client.post("/auth/token", json={"username": "admin", "password": password}).json()["access_token"]
    client.headers["Authorization"] = f"Bearer {token}"
    return client
