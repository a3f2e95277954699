"""Reads SQL files: which tables they need, and that each is one plain SELECT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

from jobs.errors import DeclarationError

LAYERS = frozenset({"silver", "gold"})


def read_select(file: Path) -> exp.Query:
    """Parse a file that holds one Spark SQL SELECT.

    Raises:
        DeclarationError: the file is absent, does not parse, or holds anything but one SELECT.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DeclarationError(
            "the file does not exist", file=file, next_step="write the SELECT that builds it"
        ) from None
    try:
        statements = [s for s in sqlglot.parse(text, dialect="spark") if s is not None]
    except (ParseError, TokenError) as error:
        raise _parse_mistake(error, file) from None
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        raise DeclarationError("not exactly one SELECT", file=file, expected="one SELECT statement and nothing else")
    return statements[0]


def input_tables(file: Path) -> tuple[str, ...]:
    """Names of the tables a query reads, sorted; names it defines itself (WITH) are not counted.

    Raises:
        DeclarationError: as `read_select`, or a table outside silver and gold, or no table at all.
    """
    statement = read_select(file)
    own = {cte.alias_or_name.lower() for cte in statement.find_all(exp.CTE)}
    names: set[str] = set()
    for table in statement.find_all(exp.Table):
        if not table.db and table.name.lower() in own:
            continue
        if table.db.lower() not in LAYERS or table.catalog:
            raise DeclarationError(
                f"the query reads '{table.sql(dialect='spark')}'",
                file=file,
                expected="only silver.<source> and gold.<product>",
                next_step="name the layer and the table, without time travel: a build reads the checked versions",
            )
        names.add(f"{table.db.lower()}.{table.name.lower()}")
    if not names:
        raise DeclarationError("the query reads no table", file=file, expected="FROM silver.<source>")
    return tuple(sorted(names))


def columns_read(expression: str, file: Path, field: str) -> tuple[str, ...]:
    """Names of the columns an SQL expression mentions, in order of first mention.

    Raises:
        DeclarationError: the expression does not parse.
    """
    try:
        parsed = sqlglot.parse_one(expression, dialect="spark")
    except (ParseError, TokenError) as error:
        detail = str(error).splitlines()[0]
        raise DeclarationError(
            f"not an SQL expression: {detail}", file=file, field=field, expected="one Spark SQL expression"
        ) from None
    return tuple(dict.fromkeys(column.name for column in parsed.find_all(exp.Column)))


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


def _parse_mistake(error: Exception, file: Path) -> DeclarationError:
    details = getattr(error, "errors", None)
    if details:
        first = details[0]
        near = (first.get("highlight") or "").strip()
        what = f"the SQL does not parse: {first.get('description')}" + (f" near '{near}'" if near else "")
        return DeclarationError(what, file=file, line=first.get("line"), next_step="correct the query")
    return DeclarationError(f"the SQL does not parse: {str(error).splitlines()[0]}", file=file)
