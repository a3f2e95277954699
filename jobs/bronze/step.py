"""Bronze: every record of every landed file, good or refused, as a row of text with its origin."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from typing import TYPE_CHECKING, Any

from jobs import lake
from jobs.bronze.stripes import Shares, shares_of
from jobs.declared.catalog import Source
from jobs.declared.sql import quote
from jobs.errors import DeclarationError, ExchangeError, RefusedFile, Tampered
from jobs.lake import connect
from jobs.lake.engine_errors import translate_engine_errors
from jobs.lake.objects import on_disk
from jobs.registry.landings import (
    Loaded,
    dropped_landings,
    forget_loaded,
    note_loaded,
    note_unloaded,
    waiting_landings,
)
from jobs.registry.models import Landing
from jobs.registry.runs import Counts, StepOutcome
from jobs.settings import settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

    from jobs.declared.format import Format

EXTRAS: tuple[tuple[str, str, str], ...] = (
    ("_extra", "STRING", "JSON of cells under columns that source.yaml does not declare"),
    ("_refused", "STRING", "why the record could not be read; null for a good one"),
    ("_raw", "STRING", "the record as received, if it was refused"),
)
# No record has this number: it marks the refusal of a whole file.
WHOLE_FILE = 0
_SLICE = "_landing_sha256"
# Delta forbids these in column names, except for %, which is escaped because it introduces an escape.
_FORBIDDEN = re.compile(r"[ ,;{}()\n\t=%]")
# The first landings of a run get a frame each; all others share one.
_FRAMES = 16


@dataclass(frozen=True)
class _Arrival:
    """What a parser needs to know about one landed file, whose rows carry its tag."""

    path: str
    file_name: str
    tag: str
    shares: Shares


def run(source: Source, _logical_date: datetime, _run_id: str) -> StepOutcome:
    """The step, as `jobs.flow` calls it; see `bronze`."""
    return bronze(source)


def bronze(source: Source) -> StepOutcome:
    """Load every landed file of the source that bronze does not hold yet, in one commit.

    An unreadable file becomes one refused row and does not stop the others; loading a file again replaces its rows.
    """
    _check_column_names(source)
    with translate_engine_errors(source.file):
        _create(source)
        dropped = _remove_dropped(source)
        landings = waiting_landings(source.name)
        if not landings:
            return StepOutcome(message=dropped) if dropped else StepOutcome(status="unchanged")
        _require_bytes(landings)
        outcome = _record_loaded(source, landings, _load(source, landings))
        return replace(outcome, message="; ".join(filter(None, (outcome.message, dropped)))) if dropped else outcome


def _remove_dropped(source: Source) -> str | None:
    """Remove the rows of landings that were dropped since the last run; returns what was removed."""
    dropped = dropped_landings(source.name, still_loaded=True)
    if not dropped:
        return None
    removed = 0
    for table in (table_of(source), f"quarantine.{source.name}"):
        if lake.exists(table):
            before = lake.rows(table)
            lake.delete(table, slice_of(dropped))
            removed += before - lake.rows(table)
    note_unloaded([x.id for x in dropped])
    files = f"{len(dropped)} dropped file{'s' if len(dropped) != 1 else ''}"
    return f"{removed:,} rows of {files} were removed from bronze and quarantine"


def _check_column_names(source: Source) -> None:
    names: dict[str, str] = {}
    for name in (*columns_of(source), *(extra for extra, _, _ in EXTRAS)):
        earlier = names.setdefault(name.lower(), name)
        if earlier != name:
            raise DeclarationError(
                f"the columns '{earlier}' and '{name}' differ only in case, which SQL ignores",
                file=source.file, field="format.columns", expected="names that differ in more than case",
                next_step="declare `header: false` and `skip_lines: 1`, and give the columns names of your own",
            )  # fmt: skip


def _require_bytes(landings: list[Landing]) -> None:
    for landing in landings:
        if not (settings().store / landing.path).exists():
            raise Tampered(
                f"the landed bytes of {landing.file_name} are missing",
                where=landing.path,
                next_step="restore the file from a backup, or run `exchange land` while the publisher still offers it",
            )


def table_of(source: Source) -> str:
    """Name of the source's bronze table."""
    return f"bronze.{source.name}"


def columns_of(source: Source) -> tuple[str, ...]:
    """The publisher's columns, as declared, stripped of surrounding blanks."""
    return tuple(c.strip() for c in source.declared.format.columns)


def stored_names(form: Format) -> dict[str, str]:
    """The table's name of each publisher's column: the same, with characters that Delta forbids escaped."""
    names = (column.strip() for column in form.columns)
    return {name: _FORBIDDEN.sub(lambda mark: f"%{ord(mark[0]):02X}", name) for name in names}


def published_rows(source: Source, where: str) -> DataFrame:
    """Rows of the source's table under the publisher's own column names.

    Args:
        source: the source.
        where: SQL over the partition column.
    """
    escaped = _escaped(source.declared.format)
    rows = lake.read_table(table_of(source)).where(where)
    return rows.withColumnsRenamed(escaped) if escaped else rows


def _escaped(form: Format) -> dict[str, str]:
    """The publisher's name of each column that the table stores under another name, by that name."""
    return {stored: name for name, stored in stored_names(form).items() if stored != name}


def slice_of(landings: Iterable[Landing]) -> str:
    """SQL over the partition column of bronze and quarantine that is true for the rows of these landings."""
    return _slice([x.tag for x in landings])


def _slice(tags: Iterable[str]) -> str:
    return lake.predicate([((_SLICE, tag),) for tag in tags])


def _fields(source: Source) -> tuple[lake.Field, ...]:
    names = stored_names(source.declared.format).values()
    published = tuple(lake.Field(name, "STRING", "as published") for name in names)
    return (*published, *(lake.Field(*extra) for extra in EXTRAS), *lake.bookkeeping_fields())


def _create(source: Source) -> None:
    """Create the table if missing; empty one read with another `format:`, so that every landed file is read again."""
    table, fields, title = table_of(source), _fields(source), f"{source.declared.title}: rows as received"
    digest = format_digest(source.declared.format)
    if lake.put_torn_aside(table) or not lake.exists(table):
        # A deleted table is rebuilt from landing, and so is one of which a power cut took a commit.
        forget_loaded(source.name)
    elif lake.made_by(table) != digest:
        forget_loaded(source.name)
        lake.replace(table, fields, (_SLICE,), title, digest)
        return
    lake.create(table, fields, (_SLICE,), title, digest)


def format_digest(form: Format) -> str:
    """sha256 of everything that decides how bytes become bronze rows; `null_values` only matter to silver."""
    declared, escaped = form.model_dump(mode="json"), _escaped(form)
    if "null_values" in declared:
        # The default, instead of nothing, keeps the digests of the tables that exist.
        declared["null_values"] = list(type(form).model_fields["null_values"].default)
    declared |= {"stored": escaped} if escaped else {}
    return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()


def _load(source: Source, landings: list[Landing]) -> dict[str, Any]:
    """Commit the landings' rows; return the counts of each landing, taken from the committed rows.

    A file that became unreadable half-way is refused whole: only its refusal remains.
    """
    table, tags = table_of(source), [x.tag for x in landings]
    lake.overwrite(table, _parsed(source, landings), slice_of=slice_of(landings), together=False)
    loaded = _counted(table, tags)
    broken = [tag for tag, row in loaded.items() if row["fault"]]
    if not broken:
        return loaded
    lake.delete(table, f"({_slice(broken)}) AND _row <> {WHOLE_FILE}")
    return loaded | _counted(table, broken)


def _counted(table: str, tags: list[str]) -> dict[str, Any]:
    """Counts of the landings' rows, by their tag."""
    rows = lake.read_table(table).where(_slice(tags)).groupBy("_landing_sha256").agg(*_count_columns()).collect()
    return {row["_landing_sha256"]: row for row in rows}


def _parsed(source: Source, landings: list[Landing]) -> DataFrame:
    """The landings' records, in one frame per landing whose origin columns are literals.

    If the partition column is not a literal, the engine sorts the rows before it writes them.
    """
    frames = [_parsed_one(source, landing) for landing in landings[:_FRAMES]]
    if len(landings) > _FRAMES:
        frames.append(_parsed_many(source, landings[_FRAMES:]))
    return reduce(lambda left, right: left.unionByName(right), frames)


def _parsed_one(source: Source, landing: Landing) -> DataFrame:
    records = _records_of(source, [landing]).drop("_landing_sha256")
    return records.withColumns(origin_of(landing))


def origin_of(landing: Landing) -> dict[str, Column]:
    """The origin columns of a landing's rows, as literals."""
    from pyspark.sql import functions as F

    return {
        "_landing_sha256": F.lit(landing.tag),
        "_run_id": F.lit(landing.run_id),
        "_logical_date": F.lit(landing.logical_date).cast("timestamp"),
    }


def _parsed_many(source: Source, landings: list[Landing]) -> DataFrame:
    from pyspark.sql import functions as F

    listed = [(x.tag, x.run_id, x.logical_date) for x in landings]
    origin = connect().createDataFrame(listed, "_landing_sha256 string, _run_id string, _logical_date timestamp")
    return _records_of(source, landings).join(F.broadcast(origin), "_landing_sha256")


def _records_of(source: Source, landings: list[Landing]) -> DataFrame:
    store = settings().store
    arrivals = [
        (str(store / x.path), x.file_name, x.tag, share, of)
        for x in landings for of in (shares_of(x.size),) for share in range(of)
    ]  # fmt: skip
    published = ", ".join(f"{quote(name)} string" for name in stored_names(source.declared.format).values())
    yielded = "_extra string, _refused string, _raw string, _row bigint, _file string, _landing_sha256 string"
    files = connect().createDataFrame(arrivals, "path string, file_name string, tag string, share int, shares int")
    return files.mapInArrow(_parser(source.declared.format), f"{published}, {yielded}")


def _parser(form: Format) -> Any:
    """A function over Arrow batches of (path, file_name, tag, share, shares) that yields the files' records."""

    def parse(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in batches:
            for file in _arrivals(batch):
                for records in _records(file, form):
                    count = records.num_rows
                    tag = pa.array([file.tag] * 1, pa.string()).take(pa.array([0] * count, pa.int32()))
                    yield records.append_column("_landing_sha256", tag)

    return parse


def _arrivals(batch: pa.RecordBatch) -> Iterator[_Arrival]:
    """Each file of a batch once, with all of its shares that this worker got."""
    shares: dict[tuple[str, str, str, int], set[int]] = {}
    for row in batch.to_pylist():
        shares.setdefault((row["path"], row["file_name"], row["tag"], row["shares"]), set()).add(row["share"])
    for (path, file_name, tag, of), own in shares.items():
        yield _Arrival(path, file_name, tag, Shares(frozenset(own), of))


def _records(file: _Arrival, form: Format) -> Iterator[pa.RecordBatch]:
    from jobs.bronze.formats import read

    try:
        with on_disk(file.path) as path:
            for records in read(path, file.file_name, form):
                own = file.shares.rows(records)
                if own.num_rows:
                    yield _ordered(own, form)
    except RefusedFile as refusal:
        if file.shares.has_first:
            yield _refusal(file, form, str(refusal))
    except (ExchangeError, OSError):
        # Trouble of the lake, not of the file.
        raise
    except Exception as error:
        # Whatever a parser stumbles over, a partner's included, is that file's fault alone. The error's text may quote
        # cells, so only its kind is shown.
        if file.shares.has_first:
            yield _refusal(file, form, f"{file.file_name}: the reader of {form.type} failed ({type(error).__name__})")


def _ordered(records: pa.RecordBatch, form: Format) -> pa.RecordBatch:
    names = [*(c.strip() for c in form.columns), "_extra", "_refused", "_raw", "_row", "_member"]
    chosen = records.select(names) if records.schema.names != names else records
    return chosen.rename_columns([*stored_names(form).values(), *names[len(form.columns) : -1], "_file"])


def _refusal(file: _Arrival, form: Format, reason: str) -> pa.RecordBatch:
    import pyarrow as pa

    null = pa.array([None], pa.string())
    columns = [null] * len(form.columns)
    return pa.RecordBatch.from_arrays(
        [
            *columns,
            null,
            pa.array([reason]),
            null,
            pa.array([WHOLE_FILE], pa.int64()),
            pa.array([file.file_name]),
        ],
        names=[*stored_names(form).values(), "_extra", "_refused", "_raw", "_row", "_file"],
    )


def _record_loaded(source: Source, landings: list[Landing], loaded: dict[str, Any]) -> StepOutcome:
    """Record each file's counts in the registry."""
    counted = {tag: Loaded(row["rows"], row["refused"], row["fault"]) for tag, row in loaded.items()}
    note_loaded({x.id: counted.get(x.tag, Loaded(0, 0, None)) for x in landings})
    rows = sum(row["rows"] for row in loaded.values())
    return StepOutcome(
        counts=Counts(rows_in=rows, rows_out=rows, bytes_in=sum(x.size for x in landings)),
        output_version=lake.version(table_of(source)),
        message=_message(source, landings, loaded),
    )


def _count_columns() -> list[Any]:
    from pyspark.sql import functions as F

    return [
        F.count(F.lit(1)).alias("rows"),
        F.count("_refused").alias("refused"),
        F.max(F.when(F.col("_row") == WHOLE_FILE, F.col("_refused"))).alias("fault"),
        F.max("_extra").alias("extra"),
    ]


def _message(source: Source, landings: list[Landing], loaded: dict[str, Any]) -> str | None:
    parts = [loaded[x.tag]["fault"] for x in landings if x.tag in loaded and loaded[x.tag]["fault"]]
    extra = next((row["extra"] for row in loaded.values() if row["extra"]), None)
    if extra:
        names = ", ".join(json.loads(extra))[:120]
        parts.append(f"undeclared columns are kept in _extra, for example {names}; declare them in {source.file}")
    return "; ".join(parts) or None
