"""Starts a real Spark Connect server with Delta for the lake tests, by the cluster's own code, as small as works."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from jobs.errors import ExchangeError
from jobs.operate.cluster import engine
from jobs.operate.cluster.java import find_java
from jobs.operate.cluster.rehearsal import prepare
from jobs.operate.processes import Mark, end_gently, free_port, is_listening, last_words, launch
from jobs.settings import CHECKOUT
from tests.waiting import wait_until

# Fetched once for all test runs, as for all starts of a cluster.
JARS = CHECKOUT / ".exchange" / "cluster" / "jars"
# A test's engine runs most code only once, when thorough compilation would cost more than it saves.
QUICK = {"EXCHANGE_JARS": str(JARS), "JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1"}
# Queries of a few rows mostly pay for generated code and its compilation, for records kept for the web page, and for a
# garbage collector made for large heaps. The quick compiler's default code cache is too small for Spark: it would drop
# compiled code and compile it again.
_FEW_ROWS_OPTIONS = (
    "-XX:ReservedCodeCacheSize=240m -XX:+UseSerialGC -Dspark.ui.enabled=false"
    " -Dspark.sql.codegen.wholeStage=false -Dspark.sql.codegen.factoryMode=NO_CODEGEN"
)

_HOST = "127.0.0.1"
_START_SECONDS = 180.0


def skip_without_java() -> None:
    """Skip, with the reason, where Spark cannot run."""
    try:
        find_java()
    except ExchangeError as error:
        pytest.skip(f"NO TEST ON SPARK IS RUN: {error}")


def packages_of(folder: Path) -> Path:
    """The folder on the import path of a server's Python workers."""
    return folder / "packages"


@contextmanager
def served(folder: Path, java_options: str = _FEW_ROWS_OPTIONS) -> Iterator[str]:
    """Run a server for the length of the block, in one process whose threads are its workers; yields its address.

    Args:
        folder: for everything it writes but tables.
        java_options: further options of its JVM.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXCHANGE_HOME", str(folder))
        patch.setenv("EXCHANGE_JARS", QUICK["EXCHANGE_JARS"])
        prepare()
        # Where a test installs a partner's package, after the server has started.
        patch.setenv("PYTHONPATH", str(packages_of(folder)), prepend=os.pathsep)
        patch.setenv("JDK_JAVA_OPTIONS", f"{QUICK['JDK_JAVA_OPTIONS']} {java_options}")
        token = secrets.token_urlsafe(24)
        port = free_port(0)
        command = engine.connect(
            engine.Host(_HOST, folder / "connect", secrets.token_hex(16)),
            # One shuffle partition: on few rows, two are twice the work.
            engine.Engine("local[2]", _HOST, port, "1g", 1, engine.Store(), token),
        )
        mark = Mark("EXCHANGE_TESTS_SPARK", str(folder))
        log = folder / "connect.log"
        process = launch(
            command.words, mark=mark, log=log, environment=command.environment, folder=folder, ends_with_parent=True
        )
    try:
        wait_until(
            lambda: process.poll() is not None or is_listening(port),
            _START_SECONDS,
            lambda: f"Spark is not ready: {last_words(log)}",
        )
        assert process.poll() is None, f"Spark ended: {last_words(log)}"
        # Spark Connect sends a token unencrypted to this host name only.
        yield f"sc://localhost:{port}/;token={token}"
    finally:
        end_gently([psutil.Process(process.pid)], signal.SIGTERM, 5.0)
        mark.end_all()
