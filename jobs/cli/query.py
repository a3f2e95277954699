"""Runs read-only Spark SQL over checked tables and releases."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jobs.cli.options import AsJson
from jobs.cli.show import array, comma_separated, note, table
from jobs.errors import ExchangeError, NotFound

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.cli.statement import Names, Rows, Shape

_SHOWN_ROWS = 50
_DESCRIPTION = ("col_name", "data_type", "comment")
_NO_COLUMN = (
    # Sail, then Spark.
    re.compile(r"attribute ObjectName\(\[(?P<parts>.*?)\]\) is missing"),
    re.compile(r"UNRESOLVED_COLUMN[A-Z_.]*\] A column,.* with name (?P<parts>\S+) cannot"),
)


def sql(
    statement: Annotated[str, typer.Argument(metavar="SQL", help="SELECT, WITH, VALUES, SHOW, DESCRIBE or EXPLAIN.")],
    as_json: AsJson = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV with a header, made safe for spreadsheets and terminals.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="With --csv: leave texts that spreadsheets or terminals would obey.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, help="At most this many rows; a table shows 50 by default.")
    ] = None,
) -> None:
    """Read with Spark SQL: silver.x and gold.x are the checked tables, release.x and release.x_v1_2_0 the releases."""
    if as_json and as_csv:
        raise ExchangeError("--json and --csv exclude each other", expected="one of them")
    if raw and not as_csv:
        raise ExchangeError("--raw changes CSV only", expected="--csv --raw")
    from jobs.cli.statement import Columns, Names, read_statement

    asked = read_statement(statement)

    output = _Output("json" if as_json else "csv" if as_csv else "table", raw, limit)
    if isinstance(asked, Names):
        output.show(*_names(asked))
    elif isinstance(asked, Columns):
        output.show(_DESCRIPTION, _columns(asked.table))
    else:
        _run(asked, output)


@dataclass(frozen=True)
class _Output:
    form: Literal["table", "json", "csv"]
    raw: bool
    limit: int | None

    @property
    def rows_read(self) -> int | None:
        """How many rows to ask for; one more than a table shows tells whether there are more. None: all."""
        if self.form != "table":
            return self.limit
        return (_SHOWN_ROWS if self.limit is None else self.limit) + 1

    def show(self, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Print rows as they arrive, in bounded memory."""
        read = islice(rows, self.rows_read)
        if self.form == "json":
            array(dict(zip(header, row, strict=True)) for row in read)
        elif self.form == "csv":
            changed = comma_separated(header, read, raw=self.raw)
            if changed:
                cells = "1 cell was" if changed == 1 else f"{changed:,} cells were"
                note(f"{cells} changed so that no spreadsheet or terminal obeys them; --raw leaves them")
        else:
            first = list(read)
            shown = first[: (self.rows_read or 1) - 1]
            table(header, shown, exact=True)
            if len(first) > len(shown):
                note(f"the first {len(shown)} rows; more with --limit, all with --csv or --json")


def _names(asked: Names) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Header and rows of what SHOW lists, as Spark lays them out."""
    from jobs.cli.statement import function_names
    from jobs.declared.grammar import READABLE
    from jobs.lake.views import readable

    def matches(name: str) -> bool:
        return any(fnmatchcase(name, pattern.strip().lower()) for pattern in asked.pattern.split("|"))

    if asked.of == "schemas":
        return ("namespace",), [(name,) for name in READABLE if matches(name)]
    if asked.of == "functions":
        return ("function",), [(name,) for name in function_names() if matches(name)]
    names = [name.split(".", 1) for name in readable()]
    listed = [(schema, own, False) for schema, own in names if asked.schema in (None, schema) and matches(own)]
    return ("namespace", "tableName", "isTemporary"), list(listed)


def _columns(name: str) -> list[tuple[str, str, str]]:
    from jobs.lake.views import columns_of

    columns = columns_of(name)
    if columns is None:
        raise _no_table(name)
    return columns


def _run(asked: Rows | Shape, output: _Output) -> None:
    # The engine's client shows instants in the process's zone; everything here is in UTC.
    os.environ["TZ"] = "UTC"
    time.tzset()
    from pyspark.errors import PySparkException

    from jobs.cli.statement import Shape
    from jobs.lake import connect
    from jobs.lake.views import register

    spark = connect()
    for unknown in register(spark, asked.query.tables):
        raise _no_table(unknown)
    try:
        frame = spark.sql(asked.text)
        if isinstance(asked, Shape):
            output.show(_DESCRIPTION, [(f.name, f.dataType.simpleString(), "") for f in frame.schema.fields])
            return
        columns = frame.columns
        limited = frame if output.rows_read is None else frame.limit(output.rows_read)
        try:
            output.show(columns, _rows(limited))
        except (OverflowError, ValueError) as error:
            raise _out_of_range(limited, columns) or error from None
    except PySparkException as error:
        raise _refused(error, asked.query.tables) from None


def _rows(frame: DataFrame) -> Iterator[tuple[Any, ...]]:
    """Yield rows in bounded memory; nested rows become mappings."""
    for row in frame.toLocalIterator():
        yield tuple(_plain(value) for value in row)


def _out_of_range(frame: DataFrame, columns: Sequence[str]) -> ExchangeError | None:
    """Name the column with a date or an instant that Python cannot hold; None if there is none."""
    numbered = frame.toDF(*(f"c{position}" for position in range(len(columns))))
    for position, name in enumerate(columns):
        try:
            for _ in numbered.select(f"c{position}").toLocalIterator():
                pass
        except (OverflowError, ValueError):
            return ExchangeError(
                f"the column '{name}' has a date or an instant outside the years 1 to 9999",
                expected="values that every reader can hold",
                next_step=f"read it as text, CAST({name} AS STRING), or leave such rows out",
            )
    return None


def _plain(value: Any) -> Any:
    from pyspark.sql import Row

    if isinstance(value, Row):
        return {k: _plain(v) for k, v in value.asDict().items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _refused(error: Exception, tables: Sequence[str]) -> ExchangeError:
    from jobs.lake import engine_message
    from jobs.lake.views import UNREADABLE

    text = engine_message(error)
    _, marker, message = text.partition(UNREADABLE)
    if marker:
        return ExchangeError(message)
    lost = re.search(r"Object at location (.+?) not found|reading file (?:file:)?(.+?)\. File does not exist", text)
    if lost:
        return ExchangeError(
            "a file of the table is missing",
            where=lost[1] or lost[2],
            next_step="restore it from a backup, or rebuild the table with `exchange rebuild`",
        )
    for form in _NO_COLUMN:
        if missing := form.search(text):
            return _no_column(missing["parts"], tables)
    return ExchangeError(f"the engine rejected the statement: {text[:400]}", next_step="correct the statement")


def _no_table(name: str) -> NotFound:
    from jobs.lake.views import readable

    names = readable()
    own = name.rsplit(".", 1)[-1]
    close = get_close_matches(own, {k.split(".", 1)[1] for k in names}, 3, 0.6)
    near = [k for n in close for k in names if k.endswith(f".{n}")]
    return NotFound(
        f"there is no table or view '{name}'",
        expected=f"perhaps {' or '.join(near)}" if near else f"one of: {', '.join(names)}",
        next_step="a table appears once its check has passed: exchange sources, exchange products",
    )


def _no_column(parts: str, tables: Sequence[str]) -> NotFound:
    """An unknown column, answered like an unknown table.

    Args:
        parts: its name as the engine writes it, with what qualifies it.
        tables: those that the query reads.
    """
    from jobs.lake.views import columns_of

    name = (re.findall(r'Identifier\("(.*?)"\)', parts) or re.findall(r"[^`.]+", parts) or [parts])[-1]
    columns = list(dict.fromkeys(column for table in tables for column, _, _ in columns_of(table) or ()))
    near = get_close_matches(name, columns, 3, 0.6)
    return NotFound(
        f"there is no column '{name}'" + (f" in {', '.join(tables)}" if tables else ""),
        expected=f"perhaps {' or '.join(near)}" if near else f"one of: {', '.join(columns)}" if columns else None,
        next_step=f"exchange sql 'DESCRIBE {tables[0]}' lists them" if tables else "correct the statement",
    )
