"""`exchange run` and `exchange up` as a person uses them: a real Airflow each time, nothing of it left afterwards."""

from __future__ import annotations

import json
import re
import signal
import socket

import generated
import psutil
import pytest
from programs import Exchange, wait_until

GOOD = [("2026-01-01", "north", "1.5"), ("2026-01-02", "north", "2.5"), ("2026-01-01", "south", "4")]

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]


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
    # What make does on the way, a moment after the terminal.
    started.send_signal(signal.SIGTERM)
    said, _ = started.communicate(timeout=280)
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
    said, _ = started.communicate(timeout=400)
    assert started.returncode == 1
    assert "the scheduler ended by itself" in said
    assert "Traceback" not in said
    assert exchange.left_running() == []


def test_an_empty_catalogue_is_explained(exchange: Exchange) -> None:
    code, said = exchange.run()
    assert code == 1
    assert "no source is declared" in said
    assert "exchange source new" in said


def test_up_does_not_begin_where_the_port_of_the_sharing_server_is_taken(exchange: Exchange) -> None:
    generated.declare(exchange.catalogue, 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        exchange.variables["EXCHANGE_SHARE_PORT"] = str(port)
        said, _ = exchange.start("up").communicate(timeout=280)
    assert f"port {port} of the sharing server is in use" in said
    assert "EXCHANGE_SHARE_PORT" in said
    assert "starting Airflow" not in said


def test_secrets_are_their_owners_and_appear_nowhere_else(exchange: Exchange) -> None:
    generated.declare(exchange.catalogue, 1)
    started = exchange.start()
    wait_until(lambda: len(exchange.left_running()) >= 3)
    commands = exchange.left_running()
    said, _ = started.communicate(timeout=500)
    assert started.returncode == 0, said

    airflow = exchange.home / "airflow"
    keys = [airflow / "secrets.json", airflow / "passwords.json"]
    assert [file.stat().st_mode & 0o777 for file in keys] == [0o600, 0o600]
    secrets = json.loads(keys[0].read_text(encoding="utf-8"))
    assert len(secrets) == 4
    others = [file for file in exchange.home.rglob("*") if file.is_file() and file not in keys]
    texts = [said, *commands, *(file.read_text(encoding="utf-8", errors="replace") for file in others)]
    assert not [name for name, secret in secrets.items() if any(secret in text for text in texts)]
