"""Keeps rows for as long as a step needs them: computed once, read several times, then gone."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.declared.sql import quote
from jobs.errors import ExchangeError
from jobs.lake.engine import connect
from jobs.lake.engine_errors import no_delta
from jobs.lake.objects import Listed, listed
from jobs.lake.place import address, is_embedded
from jobs.settings import settings

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_STAGE, _SHOWN = "_stage", "_shown"


def stage(view: str, query: str, *, constants: Mapping[str, Column] | None = None) -> None:
    """Compute a query once and give its rows a name, because no engine here keeps a computed frame by itself.

    The rows lie under the lake as Parquet until the next stage of that name; each process has its own.

    Args:
        view: the name.
        query: SELECT of the rows.
        constants: columns known to be the same in all rows, as literals, which need not be written and read.
    """
    known = constants or {}
    folder = _own_folder() / view
    spark = connect()
    frame = spark.sql(query).drop(*known)
    _remove(folder)
    # It is read a few times and then removed: stronger compression and finer statistics cost more than they save, and
    # so does Spark's care for who reads it half written.
    writer = frame.write.mode("overwrite").option("compression", "snappy").option("statistics_enabled", "chunk")
    writer.option("mapreduce.fileoutputcommitter.algorithm.version", "2").parquet(address(folder))
    # Of no rows no file is written, from which columns could be read back; and to look into one is a job for Spark.
    told = not is_embedded() or not any(folder.glob("*.parquet"))
    rows = (spark.read.schema(frame.schema) if told else spark.read).parquet(address(folder))
    (rows.withColumns(dict(known)) if known else rows).createOrReplaceTempView(view)


def _own_folder() -> Path:
    return settings().lake / _STAGE / f"{socket.gethostname()}-{os.getpid()}"


def _remove(folder: Path) -> None:
    if not settings().is_remote:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        folder.rmdir(recursive=True)  # type: ignore[call-arg]  # a folder of an object store is what lies under it


def try_engine() -> None:
    """Let the engine write a Delta table where tables are, and read it back.

    Raises:
        ExchangeError: it cannot; the message says what it reaches with whose rights.
    """
    from pyspark.errors import PySparkException

    folder = _own_folder() / "trial"
    try:
        connect().range(3).write.format("delta").mode("overwrite").save(address(folder))
        seen = connect().read.format("delta").load(address(folder)).count()
    except PySparkException as error:
        raise no_delta(error) or ExchangeError(
            f"the engine cannot keep a Delta table there: {str(error).strip().splitlines()[0][:300]}",
            where=str(settings().lake),
            expected="an engine with Delta Lake, and rights and address of the object store of its own",
            next_step="see what infra/README.md says of the engine's settings and rights",
        ) from error
    finally:
        clear_stages()
    if seen != 3:
        raise ExchangeError(f"the engine wrote 3 rows and read {seen}", where=str(settings().lake))


def counts(view: str, column: str) -> dict[Any, int]:
    """Number of rows of a view for each value of a column."""
    return {r[0]: r[1] for r in connect().sql(f"SELECT {quote(column)}, count(*) FROM {view} GROUP BY 1").collect()}


def show(name: str, frame: DataFrame, *, key: str) -> None:
    """Make rows that are in no table readable under a name such as ``ops.runs``.

    Args:
        name: database and view.
        frame: the rows.
        key: names this content: Spark, whose named views see no temporary one, gets it as files, written once.
    """
    spark = connect()
    if is_embedded():
        view = name.replace(".", "_")
        frame.createOrReplaceTempView(view)
        spark.sql(f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM {view}").collect()
        return
    folder = settings().lake / _SHOWN / f"{name}-{key}"
    if not (folder / "_SUCCESS").exists():
        frame.coalesce(1).write.mode("overwrite").parquet(address(folder))
    spark.sql(f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM parquet.`{address(folder)}`").collect()


def leftovers(since: datetime) -> Iterator[tuple[str, int]]:
    """Files that were staged or shown, and that nobody can need any more.

    Machines that are gone remove no stages, and rows that `show` wrote are there until others are shown in their place.

    Yields:
        Path relative to the lake, and size, of each that was last written before an instant.
    """
    shown = list(listed(settings().lake / _SHOWN))
    newest = {_shown_as(f): f for f in sorted(shown, key=lambda f: f.modified_at)}
    current = {f.name.split("/")[0] for f in newest.values()}
    places = [(_STAGE, file) for file in listed(settings().lake / _STAGE)]
    places += [(_SHOWN, file) for file in shown if file.name.split("/")[0] not in current]
    yield from ((f"{folder}/{file.name}", file.size) for folder, file in places if file.modified_at < since)


def _shown_as(file: Listed) -> str:
    return file.name.split("/")[0].rpartition("-")[0]


def clear_stages() -> None:
    """Remove what this process and processes that have ended staged."""
    own = _own_folder()
    for folder in own.parent.glob("*"):
        host, _, process = folder.name.rpartition("-")
        has_ended = host == socket.gethostname() and not Path(f"/proc/{process}").exists()
        if folder.name == own.name or has_ended:
            _remove(folder)
