"""The cluster that `exchange cluster up` starts: what it does, who gets access, and how it stops."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

import boto3
import psutil
import psycopg
import pyarrow as pa
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from jobs.errors import ExchangeError
from jobs.lake import close, connect
from tests.cluster.running import Cluster
from tests.waiting import wait_until

PARTS = {"store", "database", "master", "worker-1", "worker-2", "connect"}


@pytest.fixture
def settings(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The settings of the cluster's env file, set for this process."""
    variables = cluster.settings()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield variables
    close()


def test_a_session_writes_and_reads_delta_tables_in_the_store(settings: dict[str, str]) -> None:
    session = connect()
    table = f"{settings['EXCHANGE_LAKE']}/readings"
    session.sql("select id, timestamp'2026-01-01 00:00:00' as read_at from range(0, 1000, 1, 2)").write.format(
        "delta"
    ).save(table)
    session.sql(f"delete from delta.`{table}` where id < 400")

    assert session.read.format("delta").load(table).count() == 600
    # Under the scheme of Spark's S3 client, and in its previous version.
    other_name = table.replace("s3://", "s3a://")
    assert session.read.format("delta").option("versionAsOf", 0).load(other_name).count() == 1000
    operations = session.sql(f"describe history delta.`{table}`").select("operation").collect()
    assert [row.operation for row in operations] == ["DELETE", "WRITE"]
    store = boto3.client("s3", endpoint_url=settings["AWS_ENDPOINT_URL"], region_name=settings["AWS_REGION"])
    keys = [item["Key"] for item in store.list_objects_v2(Bucket="exchange", Prefix="lake/readings/")["Contents"]]
    assert "lake/readings/_delta_log/00000000000000000001.json" in keys


@pytest.mark.usefixtures("settings")
def test_workers_run_functions_of_this_project() -> None:
    def parse(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import os

        import jobs.bronze.formats

        for batch in batches:
            place = f"{jobs.bronze.formats.__name__} in {Path(os.environ['LOCAL_DIRS']).name}"
            yield pa.RecordBatch.from_pydict({"place": [place] * batch.num_rows})

    spread = connect().range(0, 8, 1, 2).mapInArrow(parse, "place string").distinct().collect()

    assert {row.place for row in spread} == {"jobs.bronze.formats in worker-1", "jobs.bronze.formats in worker-2"}


def test_a_client_with_a_wrong_token_gets_no_session(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    address, _, _ = settings["EXCHANGE_SPARK"].partition(";")
    monkeypatch.setenv("EXCHANGE_SPARK", f"{address};token=guessed")
    with pytest.raises(ExchangeError, match="rejected the token") as refused:
        connect()
    assert "guessed" not in str(refused.value)


def test_a_worker_with_a_wrong_secret_is_not_registered(cluster: Cluster, other_cluster: Cluster) -> None:
    guessed = other_cluster.home.with_name("guessed")
    guessed.write_text("guessed\n")
    master = f"spark://{cluster.parts()['master']['address']}"

    stranger = other_cluster.start("worker", "--master", master, "--memory", "512m", "--secret-file", str(guessed))
    assert stranger.stdout is not None
    output = ""
    while "SaslException" not in output:
        line = stranger.stdout.readline()
        assert line, output
        output += line
    stranger.kill()
    stranger.communicate()

    assert (cluster.folder / "logs" / "master.log").read_text().count("Registering worker") <= 3


def test_a_process_ends_even_if_its_server_is_gone(settings: dict[str, str]) -> None:
    script = """
import os, threading, socket
from jobs.lake import close, connect
from jobs.errors import ExchangeError
port = int(os.environ["EXCHANGE_SPARK"].split(":")[2].split("/")[0])
token = os.environ["EXCHANGE_SPARK"].partition(";")[2]
listener = socket.create_server(("127.0.0.1", 0))
sockets = [listener]

def forward(source, sink):
    while data := source.recv(65536):
        sink.sendall(data)

def accept():
    while True:
        sockets.append(listener.accept()[0])
        sockets.append(socket.create_connection(("127.0.0.1", port)))
        for ends in (sockets[-2:], sockets[:-3:-1]):
            threading.Thread(target=forward, args=ends, daemon=True).start()

threading.Thread(target=accept, daemon=True).start()
os.environ["EXCHANGE_SPARK"] = f"sc://localhost:{listener.getsockname()[1]}/;{token}"
print(connect().range(7).count(), flush=True)
close()
for each in sockets:
    each.shutdown(socket.SHUT_RDWR)
    each.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=dict(os.environ) | settings, capture_output=True, text=True, timeout=400,
        check=False,
    )  # fmt: skip
    assert done.stdout == "7\n", done.stderr


def test_the_database_lets_each_role_into_its_own_database_only(settings: dict[str, str]) -> None:
    address = make_url(settings["EXCHANGE_DATABASE_URL"])
    assert address.password is None
    with create_engine(address).begin() as database:
        database.execute(text("create table orders (id int)"))
        role = database.execute(
            text("select rolsuper or rolcreatedb or rolcreaterole from pg_roles where rolname = current_user")
        )
        assert role.scalar() is False
    where = {"host": address.host, "port": address.port, "user": "exchange", "passfile": str(address.query["passfile"])}
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(**where, dbname="airflow")
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(**where | {"passfile": "/dev/null"}, dbname="exchange")


def test_the_store_serves_signed_requests_only(cluster: Cluster, settings: dict[str, str]) -> None:
    unsigned = Config(signature_version=UNSIGNED)
    stranger = boto3.client("s3", endpoint_url=settings["AWS_ENDPOINT_URL"], region_name="us-east-1", config=unsigned)
    with pytest.raises(ClientError, match="AccessDenied"):
        stranger.list_objects_v2(Bucket="exchange")
    # Nor do the servers behind it accept others.
    ports = _ports(cluster)
    for part in ("store-filer", "store-volume"):
        request = urllib.request.Request(
            f"http://127.0.0.1:{ports[part]}/buckets/exchange/planted", data=b"x", method="PUT"
        )
        with pytest.raises((urllib.error.HTTPError, ConnectionError, urllib.error.URLError)):
            urllib.request.urlopen(request, timeout=5)


def test_status_lists_each_part_and_a_second_up_changes_nothing(cluster: Cluster) -> None:
    parts = cluster.parts()
    assert set(parts) == PARTS
    assert {part["state"] for part in parts.values()} == {"up"}
    code, output = cluster.run("up")
    assert code == 0
    assert "the cluster is up already" in output
    assert {name: part["pid"] for name, part in cluster.parts().items()} == {
        name: part["pid"] for name, part in parts.items()
    }
    code, output = cluster.run("up", "--workers", "3")
    assert code == 2
    assert "exchange cluster down, then up in the new size" in output


def test_everything_listens_on_the_loopback_interface_only(cluster: Cluster) -> None:
    pids = {part["pid"] for part in cluster.parts().values()}
    family = pids | {child.pid for pid in pids for child in psutil.Process(pid).children(recursive=True)}
    listening = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.pid in family]
    assert len(listening) > len(PARTS)
    assert {connection.laddr.ip.removeprefix("::ffff:") for connection in listening} == {"127.0.0.1"}


def test_a_killed_part_is_reported_and_restarted_on_its_address(cluster: Cluster) -> None:
    before = cluster.parts()["worker-2"]
    psutil.Process(before["pid"]).kill()
    wait_until(lambda: cluster.parts()["worker-2"]["state"] == "down", 280)

    code, output = cluster.run("up")

    assert code == 0
    assert "started worker-2\n" in output
    after = cluster.parts()["worker-2"]
    assert (after["state"], after["address"]) == ("up", before["address"])
    assert after["pid"] != before["pid"]


def test_no_secret_is_in_process_lists_logs_or_output(cluster: Cluster) -> None:
    secrets = cluster.secrets()
    assert len(secrets) == 8
    commands = (["up"], ["status"], ["status", "--json"], ["logs", "connect"])
    output = "".join(cluster.run(*words)[1] for words in commands)
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            output += file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    output += "".join(file.read_text(errors="replace") for file in (cluster.folder / "logs").iterdir())
    output += "".join(file.read_text(errors="replace") for file in (cluster.folder / "work").glob("worker-*/*/*/std*"))
    assert "CoarseGrainedExecutorBackend" in output
    assert [secret for secret in secrets if secret in output] == []


def test_files_with_secrets_are_private_to_their_owner(cluster: Cluster) -> None:
    secrets = cluster.secrets()
    for file in cluster.folder.rglob("*"):
        if file.is_file() and file.stat().st_size < 1_000_000 and file.suffix != ".jar":
            text = file.read_bytes().decode(errors="replace")
            if any(secret in text for secret in secrets):
                assert file.stat().st_mode & 0o77 == 0, file
    assert cluster.folder.stat().st_mode & 0o77 == 0


def test_logs_can_be_followed(cluster: Cluster) -> None:
    following = cluster.start("logs", "database", "--follow", "--lines", "1")
    assert following.stdout is not None
    assert following.stdout.readline()
    with (cluster.folder / "logs" / "database.log").open("a") as log:
        log.write("something new\n")
    # PostgreSQL may log lines of its own in between.
    output = next(line for line in following.stdout if "LOG:" not in line)
    following.kill()
    following.communicate()
    assert output == "something new\n"
    code, output = cluster.run("logs", "nothing")
    assert code == 2
    assert "no part 'nothing' was started; expected connect, database" in " ".join(output.split())


@pytest.mark.long
def test_down_stops_what_a_killed_up_has_started(other_cluster: Cluster) -> None:
    starter = other_cluster.start("up")
    wait_until(lambda: {"master", "store", "database"} <= set(_names(other_cluster)), 280)
    starter.kill()
    starter.communicate()
    assert other_cluster.left_running() != []

    code, output = other_cluster.run("down")

    assert code == 0
    assert "stopped" in output
    assert other_cluster.left_running() == []
    assert other_cluster.parts() == {}


@pytest.mark.long
def test_a_part_that_dies_while_starting_is_reported_and_the_rest_stopped(other_cluster: Cluster) -> None:
    data = other_cluster.folder / "database" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("8.4\n")

    code, output = other_cluster.run("up")

    assert code == 2
    assert "database ended while starting" in output
    assert "exchange cluster logs database" in output
    assert "Traceback" not in output
    assert other_cluster.left_running() == []


def _ports(cluster: Cluster) -> dict[str, int]:
    from jobs.operate.cluster.state import State

    return State.model_validate_json((cluster.folder / "cluster.json").read_text()).ports


def _names(cluster: Cluster) -> list[str]:
    return list(cluster.parts()) if (cluster.folder / "cluster.json").exists() else []
