"""Makes the archive of `classes`: a small Spark does once what a pipeline does, and dumps the classes it has loaded."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from jobs.lake import close, connect
from jobs.operate.cluster import engine as engines
from jobs.operate.cluster.classes import classes_file
from jobs.operate.cluster.jars import fetch_jars
from jobs.operate.cluster.state import HOST, log_of, make_folder, mark
from jobs.operate.processes import end_gently, free_port, is_free, launch
from jobs.settings import settings

_START_SECONDS = 120.0
_WORK_SECONDS = 240.0
_WRITE_SECONDS = 240.0
# Nothing listens on this port: the store's client is loaded and set up, and gives up immediately.
_NO_STORE = engines.Store(endpoint=f"http://{HOST}:9", access_key="none", secret_key="none")  # noqa: S106 - no key
_NO_RETRIES = {"fs.s3a.attempts.maximum": "1", "fs.s3a.retry.limit": "0"}


def prepare() -> None:
    """Fetch missing jars; with the setting ``class_archive`` also make a missing archive, which takes about a minute.

    If it cannot be made (a read-only folder, a Java without the feature), everything works without it. The log
    ``classes`` says why, and an empty file stops later starts from trying again; remove it to retry.

    Raises:
        PublisherError: the jars cannot be fetched.
        Tampered: a jar differs from the lock.
    """
    make_folder()
    fetch_jars()
    archive = classes_file()
    if not settings().class_archive or archive.exists():
        return
    with suppress(OSError), archive.with_name(".classes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists() and not _make(archive):
            archive.touch()


def rehearse(folder: str) -> None:
    """Do what a pipeline does, with a few rows, in the engine that EXCHANGE_SPARK names.

    Args:
        folder: where it writes a table.
    """
    from pyspark.errors import PySparkException

    session = connect()
    table = f"delta.`{folder}/table`"
    rows = session.range(1000).selectExpr(
        "CAST(id AS STRING) id", "id % 7 part", "CAST(id / 3 AS DECIMAL(18, 4)) amount", "current_timestamp() at"
    )
    rows.write.format("delta").partitionBy("part").save(f"{folder}/table")
    newest = "row_number() OVER (PARTITION BY part, id ORDER BY amount DESC) = 1 newest"
    session.sql(f"SELECT *, {newest} FROM {table}").where("newest").drop("newest").createOrReplaceTempView("news")
    session.sql(
        f"MERGE INTO {table} t USING news n ON t.id = n.id AND t.part = n.part AND t.part IN (1, 2)"
        " WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *"
    ).collect()
    counts = "count(*), count_if(id IS NULL), sum(n.amount), approx_count_distinct(id)"
    session.sql(f"SELECT t.part, {counts} FROM {table} t JOIN news n USING (id) GROUP BY t.part").collect()
    session.sql(f"DESCRIBE HISTORY {table}").collect()

    def same(batches: Iterable[object]) -> Iterable[object]:
        yield from batches

    session.table("news").mapInArrow(same, session.table("news").schema).toPandas()
    with suppress(PySparkException):
        session.read.format("delta").options(**_NO_RETRIES).load("s3a://nowhere/table").count()
    close()


def _make(archive: Path) -> bool:
    draft = archive.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    token, port = secrets.token_urlsafe(24), free_port(0)
    # The next start removes what a killed one leaves there.
    work = settings().cluster / "work"
    work.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rehearsal-", dir=work) as folder:
        host = engines.Host(HOST, Path(folder) / "rehearsal", secrets.token_hex(16))
        size = engines.Engine("local[1]", HOST, port, "1g", 1, _NO_STORE, token)
        command = engines.connect(host, size)
        options = f"{command.environment['SPARK_DAEMON_JAVA_OPTS']} -XX:ArchiveClassesAtExit={draft}"
        started = launch(
            command.words,
            mark=mark(),
            log=log_of("classes"),
            environment=command.environment | {"SPARK_DAEMON_JAVA_OPTS": options},
            folder=Path(folder),
            ends_with_parent=True,
        )
        try:
            if not _is_up(started, port) or not _rehearsed(f"sc://localhost:{port}/;token={token}", folder):
                return False
            started.send_signal(signal.SIGTERM)
            # Java writes the archive as it exits; a partial one is discarded.
            started.wait(_WRITE_SECONDS)
            if not draft.exists():
                return False
            draft.replace(archive)
        except subprocess.TimeoutExpired:
            return False
        finally:
            if started.poll() is None:
                end_gently([psutil.Process(started.pid)], signal.SIGKILL, 5.0)
            draft.unlink(missing_ok=True)
    return True


def _is_up(started: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while is_free(port):
        if started.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _rehearsed(address: str, folder: str) -> bool:
    """Rehearse in a process of its own: a session here would disturb the processes that this one starts later."""
    with log_of("classes").open("ab") as log:
        ended = subprocess.run(  # noqa: S603 - this module
            [sys.executable, "-m", __name__, folder],
            env=dict(os.environ) | {"EXCHANGE_SPARK": address},
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=_WORK_SECONDS,
            check=False,
        )
    return ended.returncode == 0


if __name__ == "__main__":
    rehearse(sys.argv[1])
