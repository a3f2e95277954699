"""A cluster for the benchmark: a master and two workers of one core and 1 GB each, with an event log."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.settings import CHECKOUT
from tests.bench.spark_jobs import EventLog

WORKERS, CORES, MEMORY = 2, 1, "1g"


@dataclass(frozen=True)
class Up:
    """A running cluster.

    Attributes:
        connect: address of its Connect server, with the token.
        master: ``spark://host:port``.
        secret: by which its parts know each other.
        log: what the Connect server's driver does.
    """

    connect: str
    master: str
    secret: str
    log: EventLog


@contextmanager
def cluster(home: Path) -> Iterator[Up]:
    """Run a cluster with its state under an EXCHANGE_HOME, for the length of the block."""
    os.environ["EXCHANGE_HOME"] = str(home)
    os.environ.setdefault("EXCHANGE_JARS", str(CHECKOUT / ".exchange" / "cluster" / "jars"))
    # Measured is a server that has been started before.
    os.environ.setdefault("EXCHANGE_CLASS_ARCHIVE", "yes")
    from jobs.operate.cluster.rehearsal import prepare

    prepare()
    log = EventLog(home / "events")
    os.environ["JDK_JAVA_OPTIONS"] = log.java_options

    from jobs.operate.cluster.credentials import make_spark_secret
    from jobs.operate.cluster.run import Size, down, environment_file, up
    from jobs.operate.cluster.state import HOST

    try:
        state, _ = up(Size(WORKERS, CORES, MEMORY))
        words = [word for word in shlex.split(environment_file().read_text()) if word != "export"]
        variables = dict(word.split("=", 1) for word in words)
        yield Up(
            connect=variables["EXCHANGE_SPARK"],
            master=f"spark://{HOST}:{state.ports['master']}",
            secret=make_spark_secret(),
            log=log,
        )
    finally:
        down()
        del os.environ["JDK_JAVA_OPTIONS"]
