"""The one place that knows where tables are and how their versions are kept; it alone does upkeep by engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import ExchangeError
from jobs.rules import literal, quote
from jobs.settings import settings
from jobs.spark import connect

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame

    from jobs.contract import Column

# The newest log of each table that this process has read, brought up to date at each use.
_newest: dict[tuple[str, int, int], DeltaTable] = {}
# Files of the versions last asked for; a version never changes.
_listed: dict[tuple[str, int, int, int], tuple[DataFile, ...]] = {}
_LISTS_KEPT = 8
_MADE_BY = "exchange.made_by"
# A release pins its version for good, and a version is readable only as long as its log is.
_LOG_RETENTION = "delta.logRetentionDuration"
# A value of each partition column, as text.
Partition = tuple[tuple[str, str | None], ...]
_DELTA_TYPES = {"TINYINT": "byte", "SMALLINT": "short", "INT": "integer", "BIGINT": "long"}

BOOKKEEPING: tuple[tuple[str, str, str], ...] = (
    ("_landing_sha256", "STRING", "sha256 of the landed bytes that the row came from"),
    ("_file", "STRING", "name of the file, and of the member inside an archive"),
    ("_row", "BIGINT", "record of the file, counted from 1, header and preamble included"),
    ("_run_id", "STRING", "run that wrote the row"),
    ("_logical_date", "TIMESTAMP", "the date whose run brought the bytes in"),
)


# Sail 0.7 reads the log's smallest and largest value of these types through a double: it then skips files that hold a
# value it looks for, and shows that double in place of a value which all rows of a file share.
_INEXACT = ("DECIMAL", "DOUBLE", "FLOAT")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")
_STATISTICS = "delta.dataSkippingStatsColumns"


@dataclass(frozen=True)
class Field:
    """One column of a table as it is created."""

    name: str
    type: str
    comment: str = ""


@dataclass(frozen=True)
class DataFile:
    """One file of a table's version, as its log describes it."""

    path: str
    rows: int
    size: int
    partition: Partition


def location(table: str) -> Path:
    """The folder of a table, such as ``silver.ecb_reference_rates``."""
    layer, name = table.split(".", 1)
    return settings().lake / layer / name


def relative(table: str) -> str:
    """The table's folder as manifests name it, relative to what holds tables and landed bytes."""
    return "/".join(("lake", *table.split(".", 1)))


def from_path(table: str) -> str:
    """What SQL calls a table that is not attached."""
    return f"delta.`{_address(location(table))}`"


def _address(folder: Path) -> str:
    """A folder's path in characters that Sail 0.7 leaves as they are.

    It takes a location for an address: of a blank, an accent or a bracket it makes an escape, and then writes into
    another folder than the one it reads from. Such a folder is reached through a descriptor instead.
    """
    root = settings().store
    if settings().is_remote or not _is_embedded() or _PLAIN_PATH.fullmatch(str(root)):
        return str(folder)
    root.mkdir(parents=True, exist_ok=True)
    return f"/proc/self/fd/{_descriptor(root)}/{folder.relative_to(root)}"


@cache
def _descriptor(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def _is_embedded() -> bool:
    return settings().spark == "embedded"


def _options() -> dict[str, str] | None:
    """How delta-rs reaches an object store; keys it takes from the usual variables of AWS by itself."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not settings().is_remote or not endpoint:
        return None
    return {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(endpoint.startswith("http://")).lower()}


def fields_of(columns: Iterable[Column]) -> tuple[Field, ...]:
    """A contract's columns as they are created; the unit stands in the comment.

    No column is NOT NULL: Sail 0.7 tests that constraint before the filter of the very query that writes, and so
    refuses rows which the filter takes out. Required columns are held by the row rules and by the expectations instead.
    """
    return tuple(Field(c.name, c.type, c.description + (f" [{c.unit}]" if c.unit else "")) for c in columns)


def bookkeeping_fields() -> tuple[Field, ...]:
    """The columns that say where a row came from."""
    return tuple(Field(name, kind, comment) for name, kind, comment in BOOKKEEPING)


def exists(table: str) -> bool:
    """Whether the table has been created."""
    return any((location(table) / "_delta_log").glob("*.json")) if (location(table) / "_delta_log").is_dir() else False


def delta(table: str, version: int | None = None) -> DeltaTable:
    """The table's log at a version, the newest if None.

    Raises:
        ExchangeError: the table or that version of it is not there.
    """
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        newest = _newest_log(table)
        return newest if version in (None, newest.version()) else _older_log(*_identity(table), version)
    except (TableNotFoundError, DeltaError) as error:
        raise ExchangeError(
            f"{table} has no version {version if version is not None else ''}".strip(),
            where=str(location(table)),
            expected="a Delta table",
            next_step=f"exchange rebuild {table}",
        ) from error


def _newest_log(table: str) -> DeltaTable:
    from deltalake import DeltaTable

    key = _identity(table)
    if key in _newest:
        _newest[key].update_incremental()
    else:
        _newest[key] = DeltaTable(str(location(table)), storage_options=_options())
    return _newest[key]


# A version never changes.
@lru_cache(maxsize=16)
def _older_log(folder: str, _created: int, _process: int, version: int) -> DeltaTable:
    from deltalake import DeltaTable

    return DeltaTable(folder, version=version, storage_options=_options())


def forget() -> None:
    """Drop what this process has read of logs, so that what somebody did to them since is seen."""
    _newest.clear()
    _listed.clear()
    _older_log.cache_clear()


def _identity(table: str) -> tuple[str, int, int]:
    """Tells a table from another that is, or was, in the same place, within this process."""
    first = location(table) / "_delta_log" / f"{0:020d}.json"
    return str(location(table)), int(first.stat().st_mtime * 1e6) if first.exists() else 0, os.getpid()


def version(table: str) -> int | None:
    """The newest version's number, or None if the table was never created."""
    return delta(table).version() if exists(table) else None


def create(
    table: str, fields: Sequence[Field], partitions: Sequence[str] = (), comment: str = "", made_by: str = ""
) -> None:
    """Create an empty table, if it is not there, with exactly these columns.

    Args:
        table: its name.
        fields: its columns.
        partitions: those it is partitioned by.
        comment: what it holds.
        made_by: digest of the declarations that its rows are made by; `made_by` reads it back.
    """
    if not exists(table):
        _create(table, fields, partitions, comment, made_by)


def replace(
    table: str, fields: Sequence[Field], partitions: Sequence[str] = (), comment: str = "", made_by: str = ""
) -> None:
    """Empty a table and give it these columns, by a new version; older versions stay as they are.

    A write never changes a table's columns, because an engine would infer more than the contract says.
    """
    _create(table, fields, partitions, comment, made_by)


def made_by(table: str) -> str:
    """Digest of the declarations by which the newest version's rows were made; empty if nobody told."""
    return str(delta(table).metadata().configuration.get(_MADE_BY) or "")


def _create(table: str, fields: Sequence[Field], partitions: Sequence[str], comment: str, made_by: str) -> None:
    columns = ", ".join(f"{quote(f.name)} {f.type} COMMENT {literal(f.comment)}" for f in fields)
    layer, name = table.split(".", 1)
    parted = f"PARTITIONED BY ({', '.join(map(quote, partitions))}) " if partitions else ""
    properties = {
        _STATISTICS: ",".join(map(quote, _exact(fields, partitions))),
        _LOG_RETENTION: "interval 36500 days",
    }
    if made_by:
        properties[_MADE_BY] = made_by
    told = ", ".join(f"{literal(name)} = {literal(value)}" for name, value in properties.items())
    rest = f"COMMENT {literal(comment)} TBLPROPERTIES ({told})"
    if not _is_embedded():
        # Spark takes a table whose folder is there for another one, unless it is named by its path.
        replaced = "REPLACE" if exists(table) else "CREATE"
        connect().sql(f"{replaced} TABLE {from_path(table)} ({columns}) USING delta {parted}{rest}").collect()
        return
    attached = f"{_database(layer)}.{quote(name)}"
    connect().sql(f"DROP TABLE IF EXISTS {attached}").collect()
    replaced = "CREATE OR REPLACE" if exists(table) else "CREATE"
    place = f"LOCATION {literal(_address(location(table)))}"
    connect().sql(f"{replaced} TABLE {attached} ({columns}) USING delta {parted}{place} {rest}").collect()


def _exact(fields: Sequence[Field], partitions: Sequence[str]) -> list[str]:
    """Columns whose statistics both engines can use; of partition columns Spark allows none."""
    return [f.name for f in fields if not f.type.startswith(_INEXACT) and f.name not in partitions]


def is_shaped(table: str, fields: Iterable[Field], partitions: Sequence[str] = ()) -> bool:
    """Whether the newest version has exactly these columns, of these types, and these partitions."""
    log = delta(table)
    found = {f.name: str(getattr(f.type, "type", f.type)) for f in log.schema().fields}
    wanted = {f.name: _DELTA_TYPES.get(f.type, f.type.lower()) for f in fields}
    return found == wanted and tuple(log.metadata().partition_columns) == tuple(partitions)


def attach(table: str) -> str:
    """Make a table known to the session's catalogue; returns the name SQL can use for it."""
    layer, name = table.split(".", 1)
    attached = f"{_database(layer)}.{quote(name)}"
    connect().sql(
        f"CREATE TABLE IF NOT EXISTS {attached} USING delta LOCATION {literal(_address(location(table)))}"
    ).collect()
    return attached


def _database(layer: str) -> str:
    connect().sql(f"CREATE DATABASE IF NOT EXISTS lake_{layer}").collect()
    return f"lake_{layer}"


def stage(view: str, query: str) -> None:
    """Compute a query once and give its rows a name, because no engine here keeps a computed frame by itself.

    The rows lie under the lake as Parquet until the next stage of that name; each process has its own.
    """
    folder = _stages() / view
    spark = connect()
    frame = spark.sql(query)
    _remove(folder)
    # It is read a few times and then removed: stronger compression costs more than it saves.
    frame.write.mode("overwrite").option("compression", "snappy").parquet(_address(folder))
    # Of no rows no file is written, from which columns could be read back.
    reader = spark.read if any(folder.glob("*.parquet")) else spark.read.schema(frame.schema)
    reader.parquet(_address(folder)).createOrReplaceTempView(view)


def _stages() -> Path:
    return settings().lake / "_stage" / f"{socket.gethostname()}-{os.getpid()}"


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

    folder = _stages() / "trial"
    try:
        connect().range(3).write.format("delta").mode("overwrite").save(_address(folder))
        seen = connect().read.format("delta").load(_address(folder)).count()
    except PySparkException as error:
        raise ExchangeError(
            f"the engine cannot keep a Delta table there: {str(error).strip().splitlines()[0][:300]}",
            where=str(settings().lake),
            expected="an engine with Delta Lake, and rights and address of the object store of its own",
            next_step="see what infra/README.md says of the engine's settings",
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
    if _is_embedded():
        view = name.replace(".", "_")
        frame.createOrReplaceTempView(view)
        spark.sql(f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM {view}").collect()
        return
    folder = settings().lake / "_shown" / f"{name}-{key}"
    if not (folder / "_SUCCESS").exists():
        frame.coalesce(1).write.mode("overwrite").parquet(_address(folder))
    spark.sql(f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM parquet.`{_address(folder)}`").collect()


def clear_stages() -> None:
    """Remove what this process and processes that have ended staged."""
    for folder in _stages().parent.glob("*"):
        host, _, process = folder.name.rpartition("-")
        if folder.name == _stages().name or (host == socket.gethostname() and not Path(f"/proc/{process}").exists()):
            _remove(folder)


def read(table: str, at: int | None = None) -> DataFrame:
    """A frame over a version of a table, the newest if None."""
    # Sail 0.7 takes about twice as long to find the newest version by itself.
    reader = connect().read.format("delta").option("versionAsOf", version(table) if at is None else at)
    return reader.load(_address(location(table)))


def append(table: str, frame: DataFrame, *, apart: Sequence[Partition] | None = None) -> int:
    """Add rows in one commit; returns the version it made.

    Args:
        table: the table.
        frame: the new rows.
        apart: all partitions that the rows fall into, if they are to be read apart, each by a filter of its own: of
            many rows that lie together by partition where they are read from, this spares the engine to sort them.
    """
    parted = _apart(frame, apart) if apart else _by_partition(table, frame)
    parted.write.format("delta").mode("append").save(_address(location(table)))
    return _committed(table)


def _apart(frame: DataFrame, partitions: Sequence[Partition]) -> DataFrame:
    return reduce(lambda one, other: one.unionAll(other), [frame.where(predicate([p])) for p in partitions])


def overwrite(table: str, frame: DataFrame, *, slice_of: str | None = None, together: bool = True) -> int:
    """Replace a table's rows, or only those of a slice, in one commit; returns the version it made.

    Args:
        table: the table.
        frame: the new rows; with `slice_of` they all fall into the slice.
        slice_of: SQL predicate over partition columns.
        together: bring each partition's rows together first; no use where they are together already.
    """
    writer = (_by_partition(table, frame) if together else frame).write.format("delta").mode("overwrite")
    if slice_of:
        writer = writer.option("replaceWhere", slice_of)
    writer.save(_address(location(table)))
    return _committed(table)


def _by_partition(table: str, frame: DataFrame) -> DataFrame:
    """Bring each partition's rows together first: as many files as there are tasks would be made of each otherwise."""
    partitions = delta(table).metadata().partition_columns
    return frame.repartition(*map(quote, partitions)) if partitions else frame


def merge(table: str, view: str, on: str, clauses: str) -> int:
    """Run one MERGE from a temporary view (alias s) into a table (alias t); returns the newest version after it."""
    connect().sql(f"MERGE INTO {from_path(table)} t USING {view} s ON {on} {clauses}").collect()
    return _committed(table)


def delete(table: str, predicate: str) -> int:
    """Delete rows in one commit; returns the newest version after it."""
    connect().sql(f"DELETE FROM {from_path(table)} WHERE {predicate}").collect()
    return _committed(table)


def restore(table: str, to: int) -> int:
    """Make the newest version equal to an older one, by a new commit; returns its number."""
    if _is_embedded():
        delta(table).restore(to)
    else:
        connect().sql(f"RESTORE TABLE {from_path(table)} TO VERSION AS OF {to}").collect()
    return _committed(table)


def files(table: str, at: int | None = None) -> tuple[DataFile, ...]:
    """The data files of a version, from its log."""
    log = delta(table, at)
    key = (*_identity(table), log.version())
    if key not in _listed:
        while len(_listed) >= _LISTS_KEPT:
            _listed.pop(next(iter(_listed)))
        _listed[key] = files_of(log)
    return _listed[key]


def files_of(log: DeltaTable) -> tuple[DataFile, ...]:
    """The data files that a log lists at its version."""
    import pyarrow as pa

    actions = pa.table(log.get_add_actions(flatten=True))
    names = [n for n in actions.column_names if n.startswith("partition.")]
    columns = {n: actions.column(n).to_pylist() for n in ("path", "num_records", "size_bytes", *names)}
    return tuple(
        DataFile(
            path=path,
            rows=columns["num_records"][i] or 0,
            size=columns["size_bytes"][i],
            partition=tuple((n.removeprefix("partition."), _text(columns[n][i])) for n in names),
        )
        for i, path in enumerate(columns["path"])
    )


def rows(table: str, at: int | None = None) -> int:
    """Number of rows of a version, from its log."""
    return sum(f.rows for f in files(table, at))


def touched(table: str, since: int, until: int) -> tuple[Partition, ...]:
    """Partitions whose files differ between two versions, sorted; one empty tuple if the table has no partitions."""
    known = _changed(table, since, until)
    if known is None:
        before = {f.path: f.partition for f in files(table, since)}
        after = {f.path: f.partition for f in files(table, until)}
        known = {p: before.get(p) or after.get(p) or () for p in before.keys() ^ after.keys()}
    return tuple(sorted(set(known.values()), key=str))


def _changed(table: str, since: int, until: int) -> dict[str, Partition] | None:
    """Files that came or went between two versions, with their partitions, from the commits in between alone.

    So the cost is that of the commits, not of the table. None if a commit is not there or does not say enough.
    """
    first: dict[str, bool] = {}
    last: dict[str, bool] = {}
    partitions: dict[str, Partition] = {}
    names = delta(table).metadata().partition_columns
    for commit in range(since + 1, until + 1):
        file = location(table) / "_delta_log" / f"{commit:020d}.json"
        if not file.exists():
            return None
        for line in file.read_text(encoding="utf-8").splitlines():
            action = json.loads(line)
            kind = "add" if "add" in action else "remove" if "remove" in action else None
            if kind is None:
                continue
            path, values = action[kind]["path"], action[kind].get("partitionValues")
            if values is None and names:
                return None
            first.setdefault(path, kind == "add")
            last[path] = kind == "add"
            partitions[path] = tuple((n, _text((values or {}).get(n))) for n in names)
    # What was added first was not there before; what was removed last is not there after.
    return {path: partitions[path] for path in first if first[path] == last[path]}


def predicate(partitions: Iterable[Partition], alias: str = "") -> str:
    """SQL that holds exactly for the rows of these partitions; partition columns are compared by their literals."""
    prefix = f"{alias}." if alias else ""
    values = sorted(partitions, key=str)
    if not values:
        return "false"
    if all(len(v) == 1 and v[0][1] is not None for v in values):
        name = values[0][0][0]
        return f"{prefix}{quote(name)} in ({', '.join(literal(v[0][1]) for v in values)})"
    terms = [
        " and ".join(
            f"{prefix}{quote(n)} is null" if x is None else f"{prefix}{quote(n)} = {literal(x)}" for n, x in value
        )
        or "true"
        for value in values
    ]
    return " or ".join(f"({t})" for t in terms)


def columns_at(table: str, at: int | None = None) -> dict[str, str]:
    """Name and Delta type of each column of a version, from its log."""
    document = json.loads(delta(table, at).schema().to_json())
    return {f["name"]: str(f["type"]) for f in document["fields"]}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _committed(table: str) -> int:
    # Sail 0.7 writes a checkpoint every ten commits, begins at the one that this optional file names, and so cannot
    # read any version before it. Without the file a reader lists the log and finds what suits the version it wants.
    if _is_embedded():
        (location(table) / "_delta_log" / "_last_checkpoint").unlink(missing_ok=True)
    return delta(table).version()
