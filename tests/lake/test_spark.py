"""The session is opened once, reopened after closing, and always pyspark's active session."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql.connect.session import SparkSession

from jobs.check import evaluate
from jobs.errors import ExchangeError
from jobs.lake import close, connect, session
from jobs.operate.cluster.engine import _MEMORY
from jobs.operate.cluster.java import find_java
from jobs.registry import reading
from jobs.registry.models import Check
from tests.lake.spark_server import served
from tests.lake.trial import Trial


@pytest.mark.both_engines("the active session", "lake.engine")
@pytest.mark.usefixtures("exchange")
def test_the_session_stays_active_after_another_has_broken_off() -> None:
    first = connect()
    assert connect() is first
    other = SparkSession.builder.remote(f"sc://{first.client.host}").create()
    SparkSession._default_session = SparkSession._active_session.session = other
    other.client.close()
    assert connect() is first
    assert SparkSession.active() is first
    close()
    second = connect()
    assert second is not first
    assert SparkSession.active() is second
    assert second.sql("SELECT 1 AS one").collect()[0]["one"] == 1


@pytest.mark.both_engines("one catalogue for all clients of a server")
@pytest.mark.parametrize("engine", ["spark"], indirect=True)  # Each process has its own embedded engine.
def test_lakes_on_one_server_may_have_tables_of_the_same_name(
    exchange: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = exchange.source({"id": "INT"}, ["id"], name="of_one_name")
    for home, value in (("one", 1), ("other", 2)):
        monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / home))
        source.take([(str(value),)])
        assert [row[0] for row in session().sql(f"SELECT id FROM {source.table}").collect()] == [value]


@pytest.mark.both_engines("a server that is killed")
@pytest.mark.parametrize("engine", ["spark"], indirect=True)
def test_a_check_that_loses_its_engine_fails_quickly_and_records_no_result(
    exchange: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = exchange.source({"id": "INT", "name": "STRING"}, ["id"])
    decide = evaluate._decide

    def kill_and_decide(*arguments: Any) -> Any:
        for process in psutil.process_iter(["cmdline"]):
            if str(tmp_path / "server") in " ".join(process.info["cmdline"] or ()):
                process.kill()
        return decide(*arguments)

    with served(tmp_path / "server") as address:
        monkeypatch.setenv("EXCHANGE_SPARK", address)
        source.land([("1", "one")])
        for step in ("bronze", "silver"):
            source.step(step)
        monkeypatch.setattr(evaluate, "_decide", kill_and_decide)
        began = time.monotonic()
        with pytest.raises(ExchangeError, match="the engine went away during the work"):
            source.step("check")
        # Spark's own client would retry for ten minutes.
        assert time.monotonic() - began < 120
        with reading() as db:
            assert db.query(Check).count() == 0
        close()


@pytest.mark.both_engines("the memory of a server")
@pytest.mark.parametrize("engine", ["spark"], indirect=True)
@pytest.mark.usefixtures("exchange")
def test_a_server_caches_only_as_many_tables_as_configured(spark_server: str, tmp_path: Path) -> None:
    jcmd = shutil.which("jcmd", path=str(find_java().parent))
    if jcmd is None:
        pytest.skip("THE MEMORY OF A SERVER IS NOT TESTED: this Java has no jcmd")
    port = int(spark_server.split(":")[2].split("/")[0])
    (server,) = {x.pid for x in psutil.net_connections("tcp") if x.status == "LISTEN" and x.laddr.port == port}

    def cached_tables() -> int:
        words = [jcmd, str(server), "GC.class_histogram"]
        counted = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
        return sum(int(line.split()[1]) for line in counted if line.endswith(" org.apache.spark.sql.delta.DeltaLog"))

    def read_tables(numbers: range) -> None:
        for number in numbers:
            write_deltalake(tmp_path / f"t{number}", pa.table({"id": [number]}))
            assert connect().sql(f"SELECT id FROM delta.`{tmp_path}/t{number}`").columns == ["id"]

    # The server also holds tables that sessions of other tests still reference, until they are collected. Their number
    # is unknown, so the test looks at growth.
    room = int(_MEMORY["spark.databricks.delta.delta.log.cacheSize"])
    read_tables(range(room))
    full = cached_tables()
    read_tables(range(room, 2 * room))
    assert full > 1
    assert cached_tables() - full < room // 2
