"""How a task ends: skipped if nothing is new, retried if the publisher or a lock is at fault, else failed for good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from pyspark.errors import PySparkException
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from jobs.airflow.step import StepOperator, logical_date
from jobs.lake.engine_errors import translate_engine_errors
from jobs.lake.objects import store_unavailable
from jobs.registry.database_errors import database_error
from jobs.registry.locks import hold
from tests.airflow import generated

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path))
    generated.declare(tmp_path, 1)
    yield


def context(*, tries: int | None = None, try_number: int = 1, date: datetime | None = NOW) -> Any:
    run = SimpleNamespace(
        run_id="test", logical_date=date, run_after=NOW, conf=None if tries is None else {"tries": tries}
    )
    return {"dag_run": run, "ti": SimpleNamespace(try_number=try_number)}


def land() -> StepOperator:
    return StepOperator(task_id="land", steps=("land",), subject="source_0")


def test_new_bytes_succeed_and_repeated_ones_are_skipped(tmp_path: Path) -> None:
    generated.drop(tmp_path / "home", 0, "a.csv", [("2026-01-01", "north", "1")])
    land().execute(context())
    again = StepOperator(task_id="load", steps=("bronze", "silver"), subject="source_0")
    again.execute(context())
    StepOperator(task_id="check", steps=("check",), subject="silver.source_0").execute(context())
    with pytest.raises(AirflowSkipException):
        land().execute(context())


def test_a_retry_of_a_check_killed_after_its_record_announces_what_it_checked(tmp_path: Path) -> None:
    generated.drop(tmp_path / "home", 0, "a.csv", [("2026-01-01", "north", "1")])
    land().execute(context())
    StepOperator(task_id="load", steps=("bronze", "silver"), subject="source_0").execute(context())
    check = StepOperator(task_id="check", steps=("check",), subject="silver.source_0")
    check.execute(context())
    check.execute(context(try_number=2))
    later = context()
    later["dag_run"].run_id = "later"
    with pytest.raises(AirflowSkipException):
        check.execute(later)


def test_an_unreachable_publisher_is_retried_until_the_last_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PIP_INDEX_URL", "http://127.0.0.1:9/"), ("PIP_RETRIES", "1"), ("PIP_TIMEOUT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    file = tmp_path / "dags/sources/utility/source_0/source.yaml"
    connector = 'connector: {type: package, package: nothing, version: "1.0", files: ["nothing/*.csv"]}'
    text = file.read_text(encoding="utf-8")
    drop_connector = "connector: {type: drop, files: ['*.csv']}"
    assert drop_connector in text
    file.write_text(text.replace(drop_connector, connector), encoding="utf-8")

    with pytest.raises(AirflowException) as caught:
        land().execute(context(tries=2, try_number=1))
    assert not isinstance(caught.value, AirflowFailException)
    with pytest.raises(AirflowFailException):
        land().execute(context(tries=2, try_number=2))


def test_a_locked_table_is_retried() -> None:
    with hold("source.source_0"), pytest.raises(AirflowException) as caught:
        land().execute(context())
    assert not isinstance(caught.value, AirflowFailException)
    assert "is locked by process" in str(caught.value)


@pytest.mark.parametrize(
    "away",
    [
        lambda: store_unavailable("s3://lake", "ConnectTimeoutError"),
        lambda: PySparkException("StatusCode.UNAVAILABLE"),
        lambda: database_error(OperationalError("select", {}, Exception("refused")), make_url("postgresql://h/d")),
    ],
    ids=["object-store", "engine", "database"],
)
def test_trouble_of_the_platform_is_retried(
    monkeypatch: pytest.MonkeyPatch, away: Callable[[], Exception]
) -> None:
    def attempt(*_: object) -> None:
        with translate_engine_errors("x"):
            raise away()

    monkeypatch.setattr("jobs.flow.run_step", attempt)
    with pytest.raises(AirflowException) as caught:
        land().execute(context())
    assert not isinstance(caught.value, AirflowFailException)


def test_other_errors_fail_without_retry_in_one_line() -> None:
    with pytest.raises(AirflowFailException) as caught:
        StepOperator(task_id="build", steps=("gold",), subject="product_0").execute(context())
    assert "silver.source_0 has no checked version" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_works_on_its_logical_date_or_else_the_time_of_its_run() -> None:
    assert logical_date(context()["dag_run"]) == NOW
    assert logical_date(context(date=None)["dag_run"]) == NOW
