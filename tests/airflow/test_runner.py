"""`exchange run` and `exchange up` as a user runs them: a real Airflow each time, with nothing left running."""

from __future__ import annotations

import json
import re
import signal
import socket

import psutil
import pytest

from tests.airflow import generated
from tests.airflow.programs import Installation
from tests.waiting import wait_until

GOOD = [("2026-01-01", "north", "1.5"), ("2026-01-02", "north", "2.5"), ("2026-01-01", "south", "4")]

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]


def test_a_run_recovers_from_a_kill_repeats_unchanged_and_survives_broken_sources(
    new_exchange: Installation,
) -> None:
    exchange = new_exchange
    generated.declare(exchange.catalogue, 2)
    for i in range(2):
        generated.drop(exchange.home, i, "january.csv", GOOD)
    the_first_start_excludes_others_and_is_killed(exchange)
    the_next_start_releases_everything_and_leaks_no_secret(exchange)

    code, output = exchange.run()
    assert code == 0, output
    assert len(re.findall(r"1\.0\.0 .* unchanged", output)) == 2, output
    assert "bronze" not in output
    assert exchange.left_running() == []

    # One source breaks a rule (its product becomes a draft), one gets new rows, one cannot be read: the second must not
    # be affected.
    generated.drop(exchange.home, 0, "february.csv", [("2026-02-01", "north", "-7"), ("2026-02-02", "north", "-8")])
    generated.drop(exchange.home, 1, "february.csv", [("2026-02-01", "east", "7")])
    draft = exchange.catalogue / "dags/products/product_0/product.yaml"
    draft.write_text(draft.read_text(encoding="utf-8") + "status: draft\n", encoding="utf-8")
    broken = exchange.catalogue / "dags/sources/utility/broken/source.yaml"
    broken.parent.mkdir()
    broken.write_text("title: broken\ncadense: daily\n", encoding="utf-8")

    code, output = exchange.run()
    failed = [line for line in output.splitlines() if line.startswith("failed")]
    assert code == 1, output
    assert len(failed) == 2, output
    assert any("source.yaml:2 (cadense)" in line for line in failed), output
    assert any("utility/source_0" in line and "amounts_positive" in line and "found 2" in line for line in failed), (
        output
    )
    assert re.search(r"product_0 +│ 1\.0\.0 .* a draft, not released", output), output
    assert re.search(r"^draft +product_0: .*product\.yaml:\d+ \(status\): the product is a draft", output, re.M), output
    assert re.search(r"product_1 +│ 1\.1\.0 +│ +3 .* new", output), output
    assert exchange.left_running() == []


def the_first_start_excludes_others_and_is_killed(exchange: Installation) -> None:
    """Killed while tasks run, it leaves their records and some of their processes behind."""
    first = exchange.start()
    wait_until((exchange.home / "locks" / "runner.lock").exists)
    code, output = exchange.run()
    assert code == 1
    assert f"process {first.pid} since" in output
    assert first.poll() is None

    wait_until(lambda: any("LocalExecutor" in line for line in exchange.left_running()))
    first.kill()
    first.wait()


def the_next_start_releases_everything_and_leaks_no_secret(exchange: Installation) -> None:
    started = exchange.start()
    wait_until(lambda: len(psutil.Process(started.pid).children()) >= 3)
    commands = exchange.left_running()
    output, _ = started.communicate(timeout=500)
    assert started.returncode == 0, output
    assert re.search(r"product_0 +│ 1\.0\.0 +│ +2 │ .* │ CC0-1\.0 │ new", output), output
    assert re.search(r"product_1 +│ 1\.0\.0 .* new", output), output
    assert all(way in output for way in ("pandas", "Spark SQL", "shell"))
    assert exchange.left_running() == []

    airflow = exchange.home / "airflow"
    keys = [airflow / "secrets.json", airflow / "passwords.json"]
    assert [file.stat().st_mode & 0o777 for file in keys] == [0o600, 0o600]
    secrets = json.loads(keys[0].read_text(encoding="utf-8"))
    assert len(secrets) == 4
    others = [file for file in exchange.home.rglob("*") if file.is_file() and file not in keys]
    texts = [output, *commands, *(file.read_text(encoding="utf-8", errors="replace") for file in others)]
    assert not [name for name, secret in secrets.items() if any(secret in text for text in texts)]


def test_services_and_their_runner_end_together(exchange: Installation) -> None:
    generated.declare(exchange.catalogue, 1)
    generated.drop(exchange.home, 0, "january.csv", GOOD)
    started = exchange.start()
    wait_until(exchange.left_running)
    started.kill()
    started.wait()
    wait_until(lambda: not exchange.left_running())

    started = exchange.start()

    def schedulers() -> list[psutil.Process]:
        children = psutil.Process(started.pid).children()
        return [child for child in children if "scheduler" in child.cmdline()]

    wait_until(schedulers)
    schedulers()[0].kill()
    output, _ = started.communicate(timeout=400)
    assert started.returncode == 1
    assert "the scheduler ended by itself" in output
    assert "Traceback" not in output
    assert exchange.left_running() == []

    # `exchange up` gets the signals in the other order, at the end of test_schedules.
    started = exchange.start()
    wait_until(lambda: len(exchange.left_running()) >= 3)
    for number in (signal.SIGTERM, signal.SIGINT):
        started.send_signal(number)
    output, _ = started.communicate(timeout=280)
    assert started.returncode == 130, output
    assert "Traceback" not in output
    assert exchange.left_running() == []


def test_an_empty_catalogue_is_explained(new_exchange: Installation) -> None:
    code, output = new_exchange.run()
    assert code == 1
    assert "no source is declared" in output
    assert "exchange source new" in output


def test_up_does_not_start_when_the_sharing_server_s_port_is_in_use(new_exchange: Installation) -> None:
    generated.declare(new_exchange.catalogue, 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        new_exchange.variables["EXCHANGE_SHARE_PORT"] = str(port)
        output, _ = new_exchange.start("up").communicate(timeout=280)
    assert f"port {port} of the sharing server is in use" in output
    assert "EXCHANGE_SHARE_PORT" in output
    assert "starting Airflow" not in output
