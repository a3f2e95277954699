"""Runs read-only Spark SQL over checked tables and releases."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.options import AsJson
from jobs.cli.show import array, comma_separated, note, table
from jobs.errors import ExchangeError, NotFound

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from sqlglot import exp

_SHOWN_ROWS = 50
_EXPLAIN = re.compile(r"^\s*EXPLAIN\s+((EXTENDED|FORMATTED|CODEGEN|COST)\s+)?", re.I)


def sql(
    statement: Annotated[str, typer.Argument(metavar="SQL", help="SELECT, WITH, VALUES, SHOW, DESCRIBE or EXPLAIN.")],
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, help="At most this many rows; a table shows 50 by default.")
    ] = None,
) -> None:
    """Read with Spark SQL: silver.x and gold.x are the checked tables, release.x and release.x_v1_2_0 the releases."""
    if as_json and as_csv:
        raise ExchangeError("--json and --csv exclude each other", expected="one of them")
    readable = readable_statement(statement)
    # The engine's client shows instants in the process's zone; everything here is in UTC.
    os.environ["TZ"] = "UTC"
    time.tzset()
    from pyspark.errors import PySparkException

    from jobs.lake.views import session

    spark = session()
    try:
        frame = spark.sql(readable)
        columns = frame.columns
        _print(frame, columns, as_json, as_csv, limit)
    except PySparkException as error:
        raise _refused(error, spark) from None


def readable_statement(text: str) -> str:
    """Check that a text is a single read-only statement, and return it in the form that the engine accepts.

    Raises:
        ExchangeError: it does not parse, is not exactly one statement, or may write.
    """
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import ParseError, TokenError

    prefix = _EXPLAIN.match(text)
    if prefix:
        return prefix.group(0) + readable_statement(text[prefix.end() :])
    # It warns on stderr about statements that it parses only in part, for example SHOW.
    logging.getLogger("sqlglot").setLevel(logging.ERROR)
    try:
        statements = [s for s in sqlglot.parse(text, dialect="spark") if s is not None]
    except (ParseError, TokenError) as error:
        details = getattr(error, "errors", None)
        place = f" near '{details[0].get('highlight')}'" if details and details[0].get("highlight") else ""
        what = details[0].get("description") if details else str(error).splitlines()[0]
        raise ExchangeError(f"the SQL does not parse: {what}{place}", next_step="correct the statement") from None
    if len(statements) != 1:
        raise ExchangeError(f"the text has {len(statements)} statements", expected="one statement")
    statement = statements[0]
    if not _only_reads(statement):
        word = text.split(None, 1)[0].upper()
        raise ExchangeError(
            f"`exchange sql` only reads; {word} is not allowed",
            expected="SELECT, WITH, VALUES, SHOW, DESCRIBE or EXPLAIN",
            next_step="tables are written by the steps: exchange silver, gold, rebuild",
        )
    first = text.split(None, 1)[0].upper()
    if first == "FROM":
        # The embedded engine does not accept FROM before SELECT.
        return statement.sql(dialect="spark")
    if isinstance(statement, exp.Describe) and isinstance(statement.this, exp.Table) and not statement.args.get("kind"):
        return f"DESCRIBE TABLE {statement.this.sql(dialect='spark')}"
    return text.strip().rstrip(";")


def _only_reads(statement: exp.Expr) -> bool:
    from sqlglot import exp

    if isinstance(statement, exp.Command):
        return str(statement.this).upper() in ("SHOW", "DESCRIBE", "DESC")
    if not isinstance(statement, exp.Query | exp.Values | exp.Describe | exp.Show):
        return False
    writers = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.Alter, exp.Command, exp.Into)
    return not any(isinstance(node, writers) for node in statement.walk())


def _print(frame: DataFrame, columns: list[str], as_json: bool, as_csv: bool, limit: int | None) -> None:
    if as_json or as_csv:
        rows = _rows(frame if limit is None else frame.limit(limit))
        if as_json:
            array(dict(zip(columns, row, strict=True)) for row in rows)
        else:
            comma_separated(columns, rows)
        return
    shown = _SHOWN_ROWS if limit is None else limit
    rows_shown = [tuple(r) for r in _rows(frame.limit(shown + 1))]
    table(columns, rows_shown[:shown], exact=True)
    if len(rows_shown) > shown:
        note(f"the first {shown} rows; more with --limit, all with --csv or --json")


def _rows(frame: DataFrame) -> Iterator[tuple[Any, ...]]:
    """Yield rows in bounded memory; nested rows become mappings."""
    for row in frame.toLocalIterator():
        yield tuple(_plain(value) for value in row)


def _plain(value: Any) -> Any:
    from pyspark.sql import Row

    if isinstance(value, Row):
        return {k: _plain(v) for k, v in value.asDict().items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _refused(error: Exception, spark: SparkSession) -> ExchangeError:
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
    missing = re.search(r"Table or view not found.*?[`']?([\w.`]+)[`']?$", text)
    missing = missing or re.search(r"TABLE_OR_VIEW_NOT_FOUND\] The table or view (\S+) cannot be found", text)
    if missing:
        return _no_table(missing[1].replace("`", ""), spark)
    return ExchangeError(f"the engine rejected the statement: {text[:400]}", next_step="correct the statement")


def _no_table(name: str, spark: SparkSession) -> NotFound:
    tables = [
        f"{layer}.{own}"
        for layer in ("silver", "gold", "release", "quarantine", "ops")
        # Engines name the first column differently.
        for within, own, _ in spark.sql(f"SHOW TABLES IN {layer}").collect()
        if within == layer
    ]
    own = name.rsplit(".", 1)[-1]
    names = get_close_matches(own, {k.split(".", 1)[1] for k in tables}, 3, 0.6)
    near = " or ".join(k for n in names for k in tables if k.endswith(f".{n}"))
    return NotFound(
        f"there is no table or view '{name}'",
        expected=f"perhaps {near}" if near else f"one of: {', '.join(tables)}",
        next_step="a table appears once its check has passed: exchange sources, exchange products",
    )
