"""Creates, reads and changes tables through the engine, each change in one commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from jobs.declared.sql import literal, quote
from jobs.lake import commits, guard
from jobs.lake.engine import connect
from jobs.lake.log import MADE_BY, DataFile, Partition, delta, exists, predicate, version
from jobs.lake.place import address, from_path, is_embedded, location, log_folder

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.declared.contract import Column

# A release pins its version for good, and a version is readable only while its log is there.
_LOG_RETENTION = "delta.logRetentionDuration"
# Set, so that both engines write a checkpoint after as many commits: a reader reads at most that many, and the log is
# cut at one.
_CHECKPOINT_EVERY = 10
_DELTA_TYPES = {"TINYINT": "byte", "SMALLINT": "short", "INT": "integer", "BIGINT": "long"}

BOOKKEEPING: tuple[tuple[str, str, str], ...] = (
    ("_landing_sha256", "STRING", "sha256 of the landed bytes that the row came from, with .2 if they came again"),
    ("_file", "STRING", "name of the file, and of the member inside an archive"),
    ("_row", "BIGINT", "record of the file, counted from 1, header and preamble included"),
    ("_run_id", "STRING", "run that wrote the row"),
    ("_logical_date", "TIMESTAMP", "the date whose run brought the bytes in"),
)
ORIGIN = tuple(name for name, _, _ in BOOKKEEPING)
# True for the newest version of each row, in a table that keeps revisions.
CURRENT = "_superseded_at IS NULL"

# Sail 0.7 reads the log's smallest and largest values of these types as doubles: it then skips files that have the
# value it looks for, and returns that double in place of a value that all rows of a file share.
_INEXACT = ("DECIMAL", "DOUBLE", "FLOAT")
# Spark refuses to keep statistics of these.
_NO_STATISTICS = ("BOOLEAN", "BINARY", "ARRAY", "MAP", "STRUCT")
_STATISTICS = "delta.dataSkippingStatsColumns"
# The size that compaction fills files to, and the largest file that it rewrites.
_COMPACT_BYTES = 128 << 20


@dataclass(frozen=True)
class Field:
    """One column of a table as it is created."""

    name: str
    type: str
    comment: str = ""


REVISION_FIELDS = (
    Field("_known_at", "TIMESTAMP", "when this version of the row became known"),
    Field("_superseded_at", "TIMESTAMP", "when a later version replaced it; null for the current one"),
)


def fields_of(columns: Iterable[Column]) -> tuple[Field, ...]:
    """A contract's columns as they are created; the unit is in the comment.

    No column is NOT NULL: Sail 0.7 tests that constraint before the filter of the query that writes, and so refuses
    rows that the filter removes. Row rules and expectations enforce required columns instead.
    """
    return tuple(Field(c.name, c.type, c.description + (f" [{c.unit}]" if c.unit else "")) for c in columns)


def bookkeeping_fields() -> tuple[Field, ...]:
    """The columns that say where a row came from."""
    return tuple(Field(name, kind, comment) for name, kind, comment in BOOKKEEPING)


def create(
    table: str, fields: Sequence[Field], partitions: Sequence[str] = (), comment: str = "", made_by: str = ""
) -> None:
    """Create an empty table with exactly these columns, unless it exists.

    Args:
        table: its name.
        fields: its columns.
        partitions: those it is partitioned by.
        comment: what it holds.
        made_by: digest of the declarations that decide its rows; `made_by` reads it back.
    """
    if not exists(table):
        _create(table, fields, partitions, comment, made_by)


def replace(
    table: str, fields: Sequence[Field], partitions: Sequence[str] = (), comment: str = "", made_by: str = ""
) -> None:
    """Empty a table and give it these columns, in a new version; older versions stay as they are.

    A write never changes a table's columns, because an engine would infer more than the contract says.
    """
    _create(table, fields, partitions, comment, made_by)


def _create(table: str, fields: Sequence[Field], partitions: Sequence[str], comment: str, made_by: str) -> None:
    guard.require_write_access()
    columns = ", ".join(f"{quote(f.name)} {f.type} COMMENT {literal(f.comment)}" for f in fields)
    layer, name = table.split(".", 1)
    parted = f"PARTITIONED BY ({', '.join(map(quote, partitions))}) " if partitions else ""
    properties = {
        _STATISTICS: ",".join(map(quote, _exact(fields, partitions))),
        _LOG_RETENTION: "interval 36500 days",
        "delta.checkpointInterval": str(_CHECKPOINT_EVERY),
    }
    if made_by:
        properties[MADE_BY] = made_by
    settings = ", ".join(f"{literal(name)} = {literal(value)}" for name, value in properties.items())
    rest = f"COMMENT {literal(comment)} TBLPROPERTIES ({settings})"
    guard.expect_own_commit(table)
    if not is_embedded():
        # Unless a table is named by its path, Spark mistakes one whose folder exists for another.
        verb = "REPLACE" if exists(table) else "CREATE"
        connect().sql(f"{verb} TABLE {from_path(table)} ({columns}) USING delta {parted}{rest}").collect()
        commits.sync_commit(table)
        return
    attached = f"{_database(layer)}.{quote(name)}"
    connect().sql(f"DROP TABLE IF EXISTS {attached}").collect()
    verb = "CREATE OR REPLACE" if exists(table) else "CREATE"
    place = f"LOCATION {literal(address(location(table)))}"
    connect().sql(f"{verb} TABLE {attached} ({columns}) USING delta {parted}{place} {rest}").collect()
    commits.sync_commit(table)


def _exact(fields: Sequence[Field], partitions: Sequence[str]) -> list[str]:
    """Columns whose statistics both engines can use; Spark allows none of partition columns."""
    return [f.name for f in fields if not f.type.startswith((*_INEXACT, *_NO_STATISTICS)) and f.name not in partitions]


def is_shaped(table: str, fields: Iterable[Field], partitions: Sequence[str] = ()) -> bool:
    """Whether the newest version has exactly these columns, of these types, and these partitions."""
    log = delta(table)
    actual = {f.name: str(getattr(f.type, "type", f.type)) for f in log.schema().fields}
    expected = {f.name: _DELTA_TYPES.get(f.type, f.type.lower()) for f in fields}
    return actual == expected and tuple(log.metadata().partition_columns) == tuple(partitions)


def attach(table: str) -> str:
    """Register a table in the session's catalogue; returns its name in SQL.

    On Spark that is its path: all clients of a server share one catalogue, their lakes may have tables of the same
    name, and views can name a table by its path.
    """
    if not is_embedded():
        return from_path(table)
    layer, name = table.split(".", 1)
    attached = f"{_database(layer)}.{quote(name)}"
    connect().sql(
        f"CREATE TABLE IF NOT EXISTS {attached} USING delta LOCATION {literal(address(location(table)))}"
    ).collect()
    return attached


def _database(layer: str) -> str:
    connect().sql(f"CREATE DATABASE IF NOT EXISTS lake_{layer}").collect()
    return f"lake_{layer}"


def read_table(table: str, at: int | None = None) -> DataFrame:
    """A frame over a version of a table, the newest if None."""
    # Sail 0.7 takes about twice as long to find the newest version itself.
    reader = connect().read.format("delta").option("versionAsOf", version(table) if at is None else at)
    return reader.load(address(location(table)))


def append(table: str, frame: DataFrame, *, apart: Sequence[Partition] | None = None) -> int:
    """Add rows in one commit; returns its version.

    Args:
        table: the table.
        frame: the new rows.
        apart: all partitions that the rows fall into, if each is to be read by a filter of its own, so that the engine
            need not sort the rows; for many rows that are stored together by partition (`lying_together`).
    """
    guard.require_write_access()
    parted = _apart(frame, apart) if apart else _by_partition(table, frame)
    parted.write.format("delta").mode("append").save(address(location(table)))
    return _committed(table)


def _apart(frame: DataFrame, partitions: Sequence[Partition]) -> DataFrame:
    return reduce(lambda one, other: one.unionAll(other), [frame.where(predicate([p])) for p in partitions])


def overwrite(table: str, frame: DataFrame, *, slice_of: str | None = None, together: bool = True) -> int:
    """Replace a table's rows, or only those of a slice, in one commit; returns its version.

    Args:
        table: the table.
        frame: the new rows; with `slice_of` they all fall into the slice.
        slice_of: SQL predicate over partition columns.
        together: bring each partition's rows together first; of no use where they are together already.
    """
    guard.require_write_access()
    writer = (_by_partition(table, frame) if together else frame).write.format("delta").mode("overwrite")
    if slice_of:
        # Even where the slice is still empty, though an append would be quicker: the engine may still work on what a
        # killed process asked for. Of two replacements one is refused, while two appends both come in.
        writer = writer.option("replaceWhere", slice_of)
    writer.save(address(location(table)))
    return _committed(table)


def _by_partition(table: str, frame: DataFrame) -> DataFrame:
    """Bring each partition's rows together; otherwise each would get as many files as there are tasks."""
    partitions = delta(table).metadata().partition_columns
    return frame.repartition(*map(quote, partitions)) if partitions else frame


def merge(table: str, view: str, on: str, clauses: str) -> int:
    """Run one MERGE from a temporary view (alias s) into a table (alias t); returns the newest version after it."""
    guard.require_write_access()
    connect().sql(f"MERGE INTO {from_path(table)} t USING {view} s ON {on} {clauses}").collect()
    return _committed(table)


def delete(table: str, predicate: str) -> int:
    """Delete rows in one commit; returns the newest version after it."""
    guard.require_write_access()
    connect().sql(f"DELETE FROM {from_path(table)} WHERE {predicate}").collect()
    return _committed(table)


def restore(table: str, to: int) -> int:
    """Make the newest version equal to an older one, in a new commit; returns its version."""
    guard.require_write_access()
    if is_embedded():
        delta(table).restore(to)
    else:
        connect().sql(f"RESTORE TABLE {from_path(table)} TO VERSION AS OF {to}").collect()
    return _committed(table)


def rewritten(files: Iterable[DataFile]) -> tuple[tuple[DataFile, ...], int]:
    """Which of one partition's files, in the order of the log, `compact` will rewrite, and how many files will result.

    Both engines combine neighbours until a file is full, and leave large files alone. For delta-rs, neighbours are
    files that follow each other in its list of a version; for Spark, files of about the same size.
    """
    runs: list[list[DataFile]] = []
    room = 0
    for file in files if is_embedded() else sorted(files, key=lambda f: f.size):
        if file.size > _COMPACT_BYTES:
            room = 0
            continue
        if file.size > room:
            runs.append([])
            room = _COMPACT_BYTES
        runs[-1].append(file)
        room -= file.size
    together = [run for run in runs if len(run) > 1]
    return tuple(file for run in together for file in run), len(together)


def compact(table: str, partitions: Sequence[Partition]) -> int:
    """Rewrite the small files of some partitions as few, with the same rows; returns the newest version after it."""
    guard.require_write_access()
    if not is_embedded():
        # By default Spark counts files of up to a gigabyte as small, and rewrites them all.
        for setting in ("minFileSize", "maxFileSize"):
            connect().conf.set(f"spark.databricks.delta.optimize.{setting}", str(_COMPACT_BYTES))
        where = "" if partitions == ((),) else f" WHERE {predicate(partitions)}"
        connect().sql(f"OPTIMIZE {from_path(table)}{where}").collect()
        return _committed(table)
    for partition in partitions:
        filters = [(name, "=", value or "") for name, value in partition]
        delta(table).optimize.compact(partition_filters=filters or None, target_size=_COMPACT_BYTES)
        _committed(table)
    return delta(table).version()


def _committed(table: str) -> int:
    # Sail 0.7 writes a checkpoint every ten commits and begins at the one that this optional file names, so it cannot
    # read any version before it. Without the file a reader lists the log and finds the checkpoint for its version.
    if is_embedded():
        (log_folder(table) / "_last_checkpoint").unlink(missing_ok=True)
    committed = guard.require_own_commit(table)
    # Before the registry says anything of this version: a power cut may take what is not on the disk yet.
    commits.sync_commit(table, committed)
    return committed
