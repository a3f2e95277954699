"""Settings that cannot work on a cluster are reported by the doctor and by every start, without any secret."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from jobs.errors import ExchangeError
from jobs.lake import close, delta_release
from jobs.operate.cluster import engine as engines
from jobs.operate.cluster.jars import spark_home
from jobs.operate.doctor import examine, require_working
from jobs.operate.processes import Mark, free_port, is_listening, launch, write_private
from jobs.registry import engine
from jobs.settings import CHECKOUT
from tests.cluster.authority import certify
from tests.cluster.running import Cluster, skip_without_java
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(1800)

PLANTED = "planted-secret-of-this-test"


@pytest.fixture
def settings(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The cluster's settings, set for this process with another home."""
    variables = cluster.settings() | {"EXCHANGE_HOME": str(tmp_path / "home")}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    close()
    yield variables
    close()


def wrong(settings: dict[str, str], variable: str) -> dict[str, str]:
    """A setting with another password or token."""
    if variable == "EXCHANGE_SPARK":
        return {variable: f"{settings[variable].partition(';')[0]};token={PLANTED}"}
    url = make_url(settings[variable]).set(password=PLANTED).difference_update_query(["passfile"])
    return {variable: url.render_as_string(hide_password=False)}


WRONG = {
    "EXCHANGE_DATABASE_URL": ("database", "password authentication failed"),
    "EXCHANGE_AIRFLOW_DATABASE_URL": ("airflow", "password authentication failed"),
    "EXCHANGE_SPARK": ("engine", "rejected the token"),
}


def test_wrong_passwords_and_tokens_are_reported_by_every_start_and_the_doctor(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {name: value for variable in WRONG for name, value in wrong(settings, variable).items()}
    for variable, (_, message) in WRONG.items():
        monkeypatch.setenv(variable, broken[variable])
        with pytest.raises(ExchangeError, match=message) as refused:
            require_working()
        assert variable in str(refused.value)
        assert PLANTED not in str(refused.value)
        monkeypatch.setenv(variable, settings[variable])

    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "run"], cwd=CHECKOUT,
        env=dict(os.environ) | wrong(settings, "EXCHANGE_SPARK"), capture_output=True, text=True, timeout=400,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    output = " ".join((done.stdout + done.stderr).split())
    assert "rejected the token; expected" in output
    assert PLANTED not in output
    assert "Traceback" not in output

    for variable in WRONG:
        monkeypatch.setenv(variable, broken[variable])
    findings = {finding.subject: finding for finding in examine()}
    for subject, message in WRONG.values():
        assert findings[subject].status == "failed"
        assert message in findings[subject].found
    assert findings["lake"].status == "ok"
    assert PLANTED not in repr(findings)


def test_airflow_and_the_registry_cannot_share_a_database(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCHANGE_AIRFLOW_DATABASE_URL", settings["EXCHANGE_DATABASE_URL"])
    with pytest.raises(ExchangeError, match="need separate databases"):
        require_working()
    monkeypatch.setenv("EXCHANGE_AIRFLOW_DATABASE_URL", f"postgresql+psycopg2://airflow:{PLANTED}@host/airflow")
    with pytest.raises(ExchangeError, match="EXCHANGE_AIRFLOW_DATABASE_URL") as refused:
        require_working()
    assert PLANTED not in str(refused.value)


def test_the_database_is_reached_over_tls_by_clients_that_trust_its_authority(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path
) -> None:
    certified, data = certify(tmp_path), cluster.folder / "database" / "data"
    for file, name in ((certified.certificate, "server.crt"), (certified.key, "server.key")):
        shutil.copy(file, data / name)
        (data / name).chmod(0o600)
        shutil.chown(data / name, data.owner(), data.group())
    address = make_url(settings["EXCHANGE_DATABASE_URL"])
    options = {"sslmode": "verify-full", "sslrootcert": str(certified.authority)}
    try:
        _set_tls(cluster, address.port, "on")
        url = address.update_query_dict(options)
        with engine(url.render_as_string()).connect() as opened:
            assert opened.execute(text("select ssl from pg_stat_ssl where pid = pg_backend_pid()")).scalar() is True
        # An authority that did not certify the server.
        (tmp_path / "other").mkdir()
        other = url.update_query_dict({"sslrootcert": str(certify(tmp_path / "other").authority)})
        with pytest.raises(ExchangeError, match="certificate verify failed"):
            engine(other.render_as_string())
    finally:
        _set_tls(cluster, address.port, "off")


def _set_tls(cluster: Cluster, port: int | None, state: str) -> None:
    from jobs.operate.cluster.credentials import ServiceCredentials

    credentials = ServiceCredentials.model_validate_json((cluster.folder / "secrets.json").read_text(encoding="utf-8"))
    password = credentials.database["postgres"]
    with psycopg.connect(host="127.0.0.1", port=port, user="postgres", password=password, autocommit=True) as server:
        server.execute(f"alter system set ssl = {state}")
        server.execute("select pg_reload_conf()")


@pytest.fixture
def without_delta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Spark Connect server without Delta Lake."""
    skip_without_java()
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    port, mark = free_port(0), Mark("EXCHANGE_CLUSTER_OF", str(tmp_path / "home"))
    bare = {
        "spark.master": "local[1]", "spark.driver.memory": "512m", "spark.ui.enabled": "false",
        "spark.connect.grpc.binding.address": "127.0.0.1", "spark.connect.grpc.binding.port": str(port),
    }  # fmt: skip
    file = tmp_path / "bare.conf"
    write_private(file, engines.properties(bare))
    words = [str(spark_home() / "bin" / "spark-submit"), "--properties-file", str(file)]
    words += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"]
    environment = {"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1", "SPARK_LOCAL_IP": "127.0.0.1"}
    process = launch(
        words, mark=mark, log=tmp_path / "bare.log", environment=environment, folder=tmp_path, ends_with_parent=True
    )
    wait_until(lambda: process.poll() is not None or is_listening(port))
    assert process.poll() is None, (tmp_path / "bare.log").read_text(encoding="utf-8")
    yield f"sc://localhost:{port}"
    close()
    mark.end_all()
    process.wait()


@pytest.mark.long
def test_every_start_reports_an_engine_without_delta(without_delta: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EXCHANGE_LAKE", "EXCHANGE_DATABASE_URL", "EXCHANGE_AIRFLOW_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EXCHANGE_SPARK", without_delta)
    release = re.escape(delta_release())
    with pytest.raises(ExchangeError, match=f"the engine has no Delta Lake; expected .* with delta-spark {release},"):
        require_working()
    findings = {finding.subject: finding for finding in examine()}
    assert findings["engine"].status == "ok"
    assert "the engine has no Delta Lake" in findings["engine and lake"].found


def test_machines_that_start_on_an_empty_database_together_migrate_it_once(cluster: Cluster, tmp_path: Path) -> None:
    place = cluster.place("met_at_once", tmp_path)
    program = "from jobs.registry import reading\nwith reading(): print('ready')"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=dict(os.environ) | place | {"EXCHANGE_HOME": str(tmp_path / str(number))},
        )
        for number in range(6)
    ]  # fmt: skip
    output = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, output
