"""Reads SQL files and quotes names and values for SQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlglot import exp

from jobs.declared.grammar import PRODUCT, Checked, Grammar, check_expression, check_query
from jobs.declared.spark_sql import SqlMistake
from jobs.errors import DeclarationError


def read_query(file: Path, grammar: Grammar) -> Checked:
    """Read and check a file that holds one Spark SQL SELECT.

    Raises:
        DeclarationError: the file is absent, does not parse, or holds anything but one SELECT that the grammar allows.
    """
    with _in(file):
        query = check_query(_text(file), grammar)
        _ = query.sent
        return query


def input_tables(file: Path) -> tuple[str, ...]:
    """Names of the tables a product's query reads, sorted; names it defines itself (WITH) are not counted.

    Raises:
        DeclarationError: as `read_query`, or no table at all.
    """
    with _in(file):
        tables = check_query(_text(file), PRODUCT).tables
    if not tables:
        raise DeclarationError("the query reads no table", file=file, expected="FROM silver.<source>")
    return tables


def columns_read(expression: str, file: Path, field: str) -> tuple[str, ...]:
    """Names of the columns an SQL expression mentions, in order of first mention.

    Raises:
        DeclarationError: the expression does not parse, or has something that the grammar of one row does not allow.
    """
    try:
        tree = check_expression(expression).tree
    except SqlMistake as error:
        raise DeclarationError(
            error.what, file=file, field=field, expected=error.expected, next_step=error.next_step
        ) from None
    return tuple(dict.fromkeys(column.name for column in tree.find_all(exp.Column)))


def normalized(file: Path) -> str:
    """The query of a file without layout and comments, for digests that stay the same over releases of this program.

    Raises:
        DeclarationError: as `read_query`.
    """
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        return sqlglot.parse_one(_text(file), dialect="spark").sql(dialect="spark", comments=False)
    except SqlglotError as error:
        raise DeclarationError(f"the SQL does not parse: {str(error).splitlines()[0]}", file=file) from None


@contextmanager
def _in(file: Path) -> Iterator[None]:
    try:
        yield
    except SqlMistake as error:
        raise DeclarationError(
            error.what, file=file, line=error.line, expected=error.expected, next_step=error.next_step
        ) from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DeclarationError(
            "the file does not exist", file=file, next_step="write the SELECT that builds it"
        ) from None
    except UnicodeDecodeError as error:
        raise DeclarationError(f"not UTF-8 at byte {error.start}", file=file, expected="a UTF-8 text file") from None


def quote(name: str) -> str:
    """A column name as SQL identifier."""
    return "`" + name.replace("`", "``") + "`"


def literal(value: Any) -> str:
    """A value as SQL literal."""
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "null"
    if isinstance(value, int | float):
        return repr(value)
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"
