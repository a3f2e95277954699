"""`exchange run` and `exchange up` as a person uses them: a real Airflow each time, nothing of it left afterwards."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from pathlib import Path

import generated
import httpx
import psutil
import pytest
from conftest import Exchange, wait_until

GOOD = [("2026-01-01", "north", "1.5"), ("2026-01-02", "north", "2.5"), ("2026-01-01", "south", "4")]

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]


def test_a_catalogue_is_run_then_unchanged_then_partly_broken(exchange: Exchange) -> None:
    generated.declare(exchange.catalogue, 2)
    for i in range(2):
        generated.drop(exchange.home, i, "january.csv", GOOD)

    code, said = exchange.run()
    assert code == 0, said
    assert re.search(r"product_0 +│ 1\.0\.0 +│ +2 │ .* │ CC0-1\.0 │ new", said), said
    assert re.search(r"product_1 +│ 1\.0\.0 .* new", said), said
    assert all(way in said for way in ("pandas", "Spark SQL", "shell"))
    assert exchange.left_running() == []

    code, said = exchange.run()
    assert code == 0, said
    assert len(re.findall(r"1\.0\.0 .* unchanged", said)) == 2, said
    assert "bronze" not in said
    assert exchange.left_running() == []

    # One source breaks a rule, another gets new rows, a third cannot be read: the second must not notice.
    generated.drop(exchange.home, 0, "february.csv", [("2026-02-01", "north", "-7"), ("2026-02-02", "north", "-8")])
    generated.drop(exchange.home, 1, "february.csv", [("2026-02-01", "east", "7")])
    broken = exchange.catalogue / "dags/sources/utility/broken/source.yaml"
    broken.parent.mkdir()
    broken.write_text("title: broken\ncadense: daily\n", encoding="utf-8")

    code, said = exchange.run()
    failed = [line for line in said.splitlines() if line.startswith("failed")]
    assert code == 1, said
    assert len(failed) == 2, said
    assert any("source.yaml:2 (cadense)" in line for line in failed), said
    assert any("utility/source_0" in line and "amounts_positive" in line and "found 2" in line for line in failed), said
    assert re.search(r"product_0 +│ 1\.0\.0 .* unchanged", said), said
    assert re.search(r"product_1 +│ 1\.1\.0 +│ +3 .* new", said), said
    assert exchange.left_running() == []


def test_the_second_of_two_leaves_and_a_killed_one_is_no_obstacle(exchange: Exchange) -> None:
    generated.declare(exchange.catalogue, 1)
    generated.drop(exchange.home, 0, "january.csv", GOOD)
    first = exchange.start()
    wait_until((exchange.home / "locks" / "runner.lock").exists)

    code, said = exchange.run()
    assert code == 1
    assert f"process {first.pid} since" in said
    assert first.poll() is None

    # Killed while tasks are at work: what it started must neither outlive it for long nor stand in the way.
    wait_until(lambda: any("LocalExecutor" in line for line in exchange.left_running()))
    first.kill()
    first.wait()

    code, said = exchange.run()
    assert code == 0, said
    assert re.search(r"product_0 +│ 1\.0\.0 ", said), said
    assert exchange.left_running() == []


def test_services_end_when_their_runner_is_killed(exchange: Exchange) -> None:
    generated.declare(exchange.catalogue, 1)
    first = exchange.start()
    wait_until(exchange.left_running)
    first.kill()
    first.wait()
    wait_until(lambda: not exchange.left_running())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_stops_everything(exchange: Exchange, number: signal.Signals) -> None:
    generated.declare(exchange.catalogue, 1)
    generated.drop(exchange.home, 0, "january.csv", GOOD)
    started = exchange.start()
    wait_until(lambda: len(exchange.left_running()) >= 3)
    started.send_signal(number)
    said, _ = started.communicate(timeout=60)
    assert started.returncode == 130, said
    assert "Traceback" not in said
    assert exchange.left_running() == []


def test_a_service_that_dies_ends_the_run_with_its_name(exchange: Exchange) -> None:
    generated.declare(exchange.catalogue, 1)
    started = exchange.start()

    def schedulers() -> list[psutil.Process]:
        children = psutil.Process(started.pid).children()
        return [child for child in children if "scheduler" in child.cmdline()]

    wait_until(schedulers)
    schedulers()[0].kill()
    said, _ = started.communicate(timeout=120)
    assert started.returncode == 1
    assert "the scheduler ended by itself" in said
    assert "Traceback" not in said
    assert exchange.left_running() == []


def test_an_empty_catalogue_is_explained(exchange: Exchange) -> None:
    code, said = exchange.run()
    assert code == 1
    assert "no source is declared" in said
    assert "exchange source new" in said


@pytest.fixture
def share_port(monkeypatch: pytest.MonkeyPatch) -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    monkeypatch.setenv("EXCHANGE_SHARE_PORT", str(port))
    return port


def test_up_stays_and_clearing_or_backfilling_changes_nothing(exchange: Exchange, share_port: int) -> None:
    generated.declare(exchange.catalogue, 1)
    generated.drop(exchange.home, 0, "january.csv", GOOD)
    started = exchange.start("up")
    said = said_until(started, "Ctrl-C stops everything")
    address = re.search(r"Airflow +(http://127\.0\.0\.1:\d+)", said)
    assert address, said
    assert "passwords.json" in said
    wait_until(lambda: is_listening(share_port))
    assert {ip for ip, _ in listening(started)} == {"127.0.0.1"}

    before = exchange.tables()
    assert before.keys() == {"silver.source_0", "gold.product_0"}
    airflow = log_in(address[1], exchange.home)
    (first,) = airflow.get("/api/v2/dags/ingest_utility_source_0/dagRuns").json()["dag_runs"]
    cleared = airflow.post(
        "/api/v2/dags/ingest_utility_source_0/clearTaskInstances",
        json={"dag_run_id": first["dag_run_id"], "task_ids": ["land"], "include_downstream": True,
              "only_failed": False, "dry_run": False},
    )  # fmt: skip
    assert cleared.is_success, cleared.text
    wait_until(lambda: states(airflow, "ingest_utility_source_0") == {first["dag_run_id"]: "success"})
    backfilled = airflow.post(
        "/api/v2/backfills",
        json={"dag_id": "ingest_utility_source_0", "from_date": "2026-01-05T00:00:00Z",
              "to_date": "2026-01-07T00:00:00Z", "run_backwards": False, "dag_run_conf": {},
              "reprocess_behavior": "none", "max_active_runs": 1},
    )  # fmt: skip
    assert backfilled.is_success, backfilled.text
    wait_until(lambda: backfills(airflow, "ingest_utility_source_0") == ["success"] * 2)
    assert exchange.tables() == before

    started.send_signal(signal.SIGINT)
    rest, _ = started.communicate(timeout=60)
    assert started.returncode == 0, rest
    assert exchange.left_running() == []


def test_secrets_are_their_owners_and_appear_nowhere_else(exchange: Exchange) -> None:
    generated.declare(exchange.catalogue, 1)
    started = exchange.start()
    wait_until(lambda: len(exchange.left_running()) >= 3)
    commands = exchange.left_running()
    said, _ = started.communicate(timeout=240)
    assert started.returncode == 0, said

    airflow = exchange.home / "airflow"
    keys = [airflow / "secrets.json", airflow / "passwords.json"]
    assert [file.stat().st_mode & 0o777 for file in keys] == [0o600, 0o600]
    secrets = json.loads(keys[0].read_text(encoding="utf-8"))
    assert len(secrets) == 4
    others = [file for file in exchange.home.rglob("*") if file.is_file() and file not in keys]
    texts = [said, *commands, *(file.read_text(encoding="utf-8", errors="replace") for file in others)]
    assert not [name for name, secret in secrets.items() if any(secret in text for text in texts)]


def said_until(started: subprocess.Popen[str], words: str) -> str:
    assert started.stdout is not None
    said = ""
    while words not in said:
        line = started.stdout.readline()
        assert line, said
        said += line
    return said


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def listening(started: subprocess.Popen[str]) -> list[tuple[str, int]]:
    return [
        connection.laddr
        for process in psutil.Process(started.pid).children(recursive=True)
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]


def log_in(address: str, home: Path) -> httpx.Client:
    password = json.loads((home / "airflow" / "passwords.json").read_text(encoding="utf-8"))["admin"]
    client = httpx.Client(base_url=address, trust_env=False, timeout=30)
    token = client.post("/auth/token", json={"username": "admin", "password": password}).json()["access_token"]
    client.headers["Authorization"] = f"Bearer {token}"
    return client


def states(airflow: httpx.Client, dag_id: str) -> dict[str, str]:
    runs = airflow.get(f"/api/v2/dags/{dag_id}/dagRuns").json()["dag_runs"]
    return {run["dag_run_id"]: run["state"] for run in runs}


def backfills(airflow: httpx.Client, dag_id: str) -> list[str]:
    return [state for run_id, state in states(airflow, dag_id).items() if run_id.startswith("backfill__")]
