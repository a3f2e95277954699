"""Serves the tests of the lake a real Spark with Delta, started by the cluster's own code and as small as works."""

from __future__ import annotations

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
from jobs.operate.processes import Mark, end_gently, free_port, last_words, launch
from tests.waiting import is_listening, wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
# Fetched once for all runs of the tests, as they are for all starts of a cluster.
JARS = CHECKOUT / ".exchange" / "cluster" / "jars"
# Engines of tests do everything for the first time, where a thorough compiler is most of the work.
QUICK = {"EXCHANGE_JARS": str(JARS), "JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1"}
# What a query of a few rows costs is code that Spark writes and compiles for it, records of what it did that a page
# would show, and a collector of garbage made for large heaps. The quick compiler's own store is too small for Spark:
# it would throw away what it compiled, and compile it again.
_OF_FEW_ROWS = (
    "-XX:ReservedCodeCacheSize=240m -XX:+UseSerialGC -Dspark.ui.enabled=false"
    " -Dspark.sql.codegen.wholeStage=false -Dspark.sql.codegen.factoryMode=NO_CODEGEN"
)

_HOST = "127.0.0.1"
_PATIENCE_SECONDS = 180.0


def skip_without_java() -> None:
    """Skip, and say so, where Spark cannot run."""
    try:
        find_java()
    except ExchangeError as error:
        pytest.skip(f"NO TEST ON SPARK IS RUN: {error}")


@contextmanager
def served(folder: Path, java_options: str = _OF_FEW_ROWS) -> Iterator[str]:
    """The address of a server that lives as long as the block: one process, whose threads are its workers.

    Args:
        folder: for all that it writes beside the tables.
        java_options: what else its JVM is told.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXCHANGE_HOME", str(folder))
        patch.setenv("EXCHANGE_JARS", QUICK["EXCHANGE_JARS"])
        prepare()
        patch.setenv("JDK_JAVA_OPTIONS", f"{QUICK['JDK_JAVA_OPTIONS']} {java_options}")
        token = secrets.token_urlsafe(24)
        port = free_port(0)
        command = engine.connect(
            engine.Host(_HOST, folder / "connect", secrets.token_hex(16)),
            # Of few rows two partitions are twice the work of one.
            engine.Engine("local[2]", _HOST, port, "1g", 1, engine.Store(), token),
        )
        mark = Mark("EXCHANGE_TESTS_SPARK", str(folder))
        log = folder / "connect.log"
        started = launch(
            command.words, mark=mark, log=log, environment=command.environment, folder=folder, ends_with_parent=True
        )
    try:
        wait_until(
            lambda: started.poll() is not None or is_listening(port),
            _PATIENCE_SECONDS,
            lambda: f"Spark is not ready: {last_words(log)}",
        )
        assert started.poll() is None, f"Spark ended: {last_words(log)}"
        # A token is sent in clear to this name only.
        yield f"sc://localhost:{port}/;token={token}"
    finally:
        end_gently([psutil.Process(started.pid)], signal.SIGTERM, 5.0)
        mark.end_all()
