"""Parts of one cluster on several hosts: two network namespaces, connected by one virtual cable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobs.settings import CHECKOUT
from tests.cluster.running import QUICK, skip_without_java
from tests.waiting import wait_until

# Prints the addresses of the executors that took part in a job with a shuffle.
_ASK = """
from collections.abc import Iterable
import pyarrow as pa
from jobs.lake import engine

def where(batches):
    import os
    for batch in batches:
        yield pa.RecordBatch.from_pydict({"host": [os.environ["SPARK_LOCAL_IP"]] * batch.num_rows})

counts = engine.connect().range(0, 1000, 1, 4).mapInArrow(where, "host string").groupBy("host").count().collect()
print(sorted(row.host for row in counts), sum(row["count"] for row in counts))
engine.close()
"""


@dataclass
class Host:
    """A namespace with its own EXCHANGE_HOME."""

    name: str
    address: str
    home: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        host = {"EXCHANGE_HOME": str(self.home), "SPARK_CONNECT_AUTHENTICATE_TOKEN": "t0ken"}
        return dict(os.environ) | QUICK | host

    def start(self, part: str, *words: str) -> Path:
        """Start `exchange cluster <part> …` on the host; returns its log."""
        log = self.home.with_name(f"{self.home.name}-{part}-{len(self.started)}.log")
        command = ["ip", "netns", "exec", self.name, sys.executable, "-m", "jobs.cli", "cluster", part, *words]
        with log.open("wb") as output:
            self.started.append(
                subprocess.Popen(command, cwd=CHECKOUT, env=self.environment(), stdout=output, stderr=output)
            )
        return log

    def python(self, script: str, **variables: str) -> str:
        command = ["ip", "netns", "exec", self.name, sys.executable, "-c", script]
        done = subprocess.run(
            command, cwd=CHECKOUT, env=self.environment() | variables, capture_output=True, text=True, timeout=400,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    skip_without_java()
    both = tuple(
        Host(f"exchange-{os.getpid()}-{side}", f"10.231.77.{number}", tmp_path / side)
        for number, side in ((1, "a"), (2, "b"))
    )
    one, two = both
    try:
        _join(one, two)
        yield one, two
    finally:
        for host in both:
            for process in host.started:
                process.terminate()
        for host in both:
            for process in host.started:
                process.wait(30)
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, check=False)


@pytest.mark.long
def test_workers_on_two_hosts_serve_one_connect_server(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    master_log = here.start("master", "--host", here.address, "--port", "7077", "--page-port", "8080")
    _wait_for(master_log, "I have been elected leader")
    secret = here.home / "cluster" / "spark.secret"
    assert secret.stat().st_mode & 0o77 == 0
    master = ["--master", f"spark://{here.address}:7077"]
    copied = there.home / "cluster" / "spark.secret"
    copied.parent.mkdir(parents=True)
    shutil.copy(secret, copied)
    size = ["--cores", "1", "--memory", "512m"]
    here.start("worker", *master, "--host", here.address, *size)
    there.start("worker", *master, "--host", there.address, *size)
    connect_log = here.start("connect", *master, "--host", here.address, "--memory", "512m", "--cores", "2")
    _wait_for(master_log, f"Registering worker {here.address}")
    _wait_for(master_log, f"Registering worker {there.address}")
    _wait_for(connect_log, "is now RUNNING", times=2)

    _wait_until_served(here, 15002)

    output = here.python(_ASK, EXCHANGE_SPARK="sc://localhost:15002/;token=t0ken")

    assert output == f"['{here.address}', '{there.address}'] 1000\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--master", "spark://10.0.0.1:7077"], "could not reach this part at 127.0.0.1"),
        (["--master", "10.0.0.1"], "expected spark://host:port"),
        (["--master", "spark://10.0.0.1:7077", "--host", "10.0.0.2"], "copy spark.secret from there to here"),
    ],
)
def test_a_misconfigured_worker_explains_why_it_does_not_start(words: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "cluster", "worker", *words],
        cwd=CHECKOUT, env=dict(os.environ) | {"EXCHANGE_HOME": str(tmp_path)}, capture_output=True, text=True,
        timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr


def _join(one: Host, two: Host) -> None:
    for host in (one, two):
        _ip("netns", "add", host.name)
    ends = ("exa0", "exb0")
    _ip("link", "add", ends[0], "netns", one.name, "type", "veth", "peer", "name", ends[1], "netns", two.name)
    for host, end in zip((one, two), ends, strict=True):
        _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", end)
        _ip("-n", host.name, "link", "set", end, "up")
        _ip("-n", host.name, "link", "set", "lo", "up")


def _ip(*words: str) -> None:
    if shutil.which("ip") is None:
        pytest.skip("NOT RUN: several hosts need the program ip (iproute2)")
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT RUN: several hosts need network namespaces; cannot create them ({done.stderr.strip()})")


def _wait_for(log: Path, text: str, times: int = 1) -> None:
    wait_until(
        lambda: log.read_text(errors="replace").count(text) >= times, 280, lambda: f"{log}: {log.read_text()[-3000:]}"
    )


def _wait_until_served(host: Host, port: int) -> None:
    ask = f"import socket; socket.create_connection(('localhost', {port}), 1).close()"
    command = ["ip", "netns", "exec", host.name, sys.executable, "-c", ask]
    wait_until(
        lambda: not subprocess.run(command, capture_output=True, check=False).returncode,
        280,
        lambda: f"nothing listens on port {port}",
    )
