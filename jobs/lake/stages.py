"""Keeps a step's rows for as long as it needs them: computed once, read several times under names of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Workspace:
    """The temporary views and staged rows of one piece of work, under names that no other work uses meanwhile.

    All work of a process shares one session, whose views are one set of names: two builds in two threads would read
    each other's rows by a fixed name. `workspace` opens one and clears it.

    Attributes:
        token: ends the name of each of its views, and names its folder.
    """

    token: str
    _views: set[str] = field(default_factory=set, repr=False, compare=False)
    _staged: set[str] = field(default_factory=set, repr=False, compare=False)

    def view(self, name: str) -> str:
        """The name of this workspace's view in SQL."""
        return f"{name}_{self.token}"

    def show(self, name: str, frame: DataFrame) -> str:
        """Name a frame, which is computed each time it is read; returns the view's name in SQL."""
        view = self.view(name)
        frame.createOrReplaceTempView(view)
        self._views.add(view)
        return view

    def stage(self, name: str, query: str, *, constants: Mapping[str, Column] | None = None) -> str:
        """Compute a query once and name its rows, because neither engine keeps a computed frame by itself.

        The rows are kept under the lake as Parquet until the next stage of that name, or until `clear`.

        Args:
            name: the view's name in this workspace.
            query: SELECT of the rows.
            constants: columns that are the same in all rows, as literals, which are not written and read. With three
                columns of origin as constants, 2 million rows took 1.2 instead of 1.4 processor seconds to stage, and
                0.09 instead of 0.13 for each read (Sail 0.7.2).

        Returns:
            The view's name in SQL.
        """
        literals = constants or {}
        folder = self._folder / name
        spark = connect()
        frame = spark.sql(query).drop(*literals)
        _remove(folder)
        self._staged.add(name)
        # It is read a few times and then removed: stronger compression and finer statistics cost more than they save,
        # and so does Spark's protection of readers from a half-written folder.
        writer = frame.write.mode("overwrite").option("compression", "snappy").option("statistics_enabled", "chunk")
        writer.option("mapreduce.fileoutputcommitter.algorithm.version", "2").parquet(address(folder))
        # Without rows no file is written from which columns could be read back; and Spark starts a job to read them.
        declare = not is_embedded() or not any(folder.glob("*.parquet"))
        rows = (spark.read.schema(frame.schema) if declare else spark.read).parquet(address(folder))
        return self.show(name, rows.withColumns(dict(literals)) if literals else rows)

    def empty(self, name: str) -> Path:
        """A new, empty folder on this machine for rows that are staged otherwise, until `clear`."""
        folder = self._folder / name
        _remove(folder)
        self._staged.add(name)
        folder.mkdir(parents=True)
        return folder

    def counts(self, name: str, column: str) -> dict[Any, int]:
        """Number of rows of a view for each value of a column."""
        query = f"SELECT {quote(column)}, count(*) FROM {self.view(name)} GROUP BY 1"
        return {row[0]: row[1] for row in connect().sql(query).collect()}

    def clear(self) -> None:
        """Drop the views and remove the staged rows, and those of processes on this machine that have ended."""
        from pyspark.errors import PySparkException

        # An engine that is gone took its views with it; there is no need to ask for each.
        with suppress(PySparkException, ExchangeError):
            for view in self._views:
                connect().catalog.dropTempView(view)
        self._views.clear()
        if self._staged:
            self._staged.clear()
            _remove(self._folder)
            _remove_abandoned()

    @property
    def _folder(self) -> Path:
        return _own_folder() / self.token


@contextmanager
def workspace(*purpose: str) -> Iterator[Workspace]:
    """Open a workspace for the block, and clear it afterwards.

    Args:
        purpose: what distinguishes this work from all other work of the process at the time: run, step and subject.
    """
    work = Workspace(hashlib.sha256("\n".join(purpose).encode()).hexdigest()[:12])
    try:
        yield work
    finally:
        work.clear()


def _own_folder() -> Path:
    return settings().lake / _STAGE / f"{socket.gethostname()}-{os.getpid()}"


def _remove(folder: Path) -> None:
    if not settings().is_remote:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        folder.rmdir(recursive=True)  # type: ignore[call-arg]  # a folder of an object store is what lies under it


def try_engine() -> None:
    """Let the engine write a Delta table where the tables are, and read it back.

    Raises:
        ExchangeError: it cannot.
    """
    from pyspark.errors import PySparkException

    folder = _own_folder() / f"trial-{uuid.uuid4().hex}"
    try:
        connect().range(3).write.format("delta").mode("overwrite").save(address(folder))
        seen = connect().read.format("delta").load(address(folder)).count()
    except PySparkException as error:
        raise no_delta(error) or ExchangeError(
            f"the engine cannot keep a Delta table there: {str(error).strip().splitlines()[0][:300]}",
            where=str(settings().lake),
            expected="an engine with Delta Lake, and rights and address of the object store of its own",
            next_step="check the engine's settings and rights against infra/README.md",
        ) from error
    finally:
        _remove(folder)
    if seen != 3:
        raise ExchangeError(f"the engine wrote 3 rows and read {seen}", where=str(settings().lake))


def show(name: str, frame: DataFrame, *, key: str) -> None:
    """Make rows that are in no table readable under a name, for example ``ops.runs``.

    Args:
        name: database and view.
        frame: the rows.
        key: identifies this content. On Spark a named view cannot read a temporary one, so the rows are written as
            files, once for each key.
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
    """Staged or shown files that are no longer needed.

    A machine that is gone does not remove its stages, and rows that `show` wrote stay after others replace them.

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


def _remove_abandoned() -> None:
    """Remove what processes of this machine that have ended staged."""
    for folder in _own_folder().parent.glob("*"):
        host, _, process = folder.name.rpartition("-")
        if host == socket.gethostname() and not Path(f"/proc/{process}").exists():
            _remove(folder)
