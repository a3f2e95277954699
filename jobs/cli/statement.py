"""Reads a statement of `exchange sql`: a query, or a question about what can be read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobs.declared import functions
from jobs.declared.grammar import READABLE, READING, Checked, check_query
from jobs.declared.spark_sql import NOT_A_QUERY, SqlMistake
from jobs.errors import ExchangeError

_ALLOWED = "SELECT, WITH, VALUES, SHOW, DESCRIBE or EXPLAIN"
_TABLE = r"`?(?P<schema>\w+)`?\s*\.\s*`?(?P<name>\w+)`?"
_LIKE = r"(?:\s+(?:LIKE\s+)?'(?P<pattern>[^'\\]*)')?"
_END = r"\s*;?\s*"
_EXPLAIN = re.compile(r"\s*(EXPLAIN(?:\s+(?:EXTENDED|FORMATTED|CODEGEN|COST))?)\s", re.I)
_SHAPE = re.compile(r"\s*DESC(?:RIBE)?\s+(?:QUERY\s+)?(?=SELECT\b|WITH\b|FROM\b|VALUES\b|\()", re.I)
_COLUMNS = re.compile(
    rf"\s*(?:DESC(?:RIBE)?(?:\s+TABLE)?(?:\s+(?:EXTENDED|FORMATTED))?|SHOW\s+COLUMNS\s+(?:IN|FROM))\s+{_TABLE}{_END}",
    re.I,
)
_TABLES = re.compile(rf"\s*SHOW\s+(?:TABLES|VIEWS)(?:\s+(?:IN|FROM)\s+`?(?P<schema>\w+)`?)?{_LIKE}{_END}", re.I)
_SCHEMAS = re.compile(rf"\s*SHOW\s+(?:SCHEMAS|DATABASES){_LIKE}{_END}", re.I)
_FUNCTIONS = re.compile(rf"\s*SHOW\s+(?:ALL\s+|SYSTEM\s+)?FUNCTIONS{_LIKE}{_END}", re.I)


@dataclass(frozen=True)
class Rows:
    """The rows of a query, or its plan if `explained` is the EXPLAIN before it."""

    query: Checked
    explained: str = ""

    @property
    def text(self) -> str:
        """For the engine."""
        return f"{self.explained} {self.query.text}".strip()


@dataclass(frozen=True)
class Shape:
    """The columns of a query."""

    query: Checked

    @property
    def text(self) -> str:
        """For the engine."""
        return self.query.text


@dataclass(frozen=True)
class Columns:
    """The columns of a table, and what they mean."""

    table: str


@dataclass(frozen=True)
class Names:
    """The names of a kind that match a pattern, of one schema or of all."""

    of: str
    schema: str | None = None
    pattern: str = "*"


Statement = Rows | Shape | Columns | Names


def read_statement(text: str) -> Statement:
    """Read one statement.

    Raises:
        ExchangeError: it does not parse, is not exactly one statement, or does more than to read what can be read.
    """
    if found := _EXPLAIN.match(text):
        return Rows(_query(text[found.end() :]), " ".join(found[1].split()))
    if found := _SHAPE.match(text):
        return Shape(_query(text[found.end() :]))
    if found := _COLUMNS.fullmatch(text):
        return Columns(f"{_schema(found['schema'])}.{found['name'].lower()}")
    if found := _TABLES.fullmatch(text):
        return Names("tables", _schema(found["schema"]) if found["schema"] else None, found["pattern"] or "*")
    for kind, form in (("schemas", _SCHEMAS), ("functions", _FUNCTIONS)):
        if found := form.fullmatch(text):
            return Names(kind, None, found["pattern"] or "*")
    return Rows(_query(text))


def function_names() -> list[str]:
    """Names of the functions that a query may call."""
    return sorted(functions.READING)


def _schema(name: str) -> str:
    if name.lower() not in READABLE:
        raise ExchangeError(f"there is no schema '{name}'", expected=f"one of: {', '.join(READABLE)}")
    return name.lower()


def _query(text: str) -> Checked:
    word = (text.split(None, 1) or [""])[0].upper()
    try:
        query = check_query(text, READING)
        _ = query.sent
    except SqlMistake as mistake:
        if word.strip("(") in ("SHOW", "DESCRIBE", "DESC"):
            raise ExchangeError(
                f"this form of {word} is not allowed",
                expected="SHOW SCHEMAS, TABLES IN <schema>, COLUMNS IN <table> or FUNCTIONS; or DESCRIBE <table>",
            ) from None
        if mistake.what == NOT_A_QUERY and word not in ("SELECT", "WITH", "VALUES", "FROM"):
            raise ExchangeError(
                f"`exchange sql` only reads; {word} is not allowed", expected=_ALLOWED,
                next_step="tables are written by the steps: exchange silver, gold, rebuild",
            ) from None  # fmt: skip
        place = f" (line {mistake.line}, column {mistake.column})" if mistake.line and mistake.column else ""
        raise ExchangeError(
            f"{mistake.what}{place}", expected=mistake.expected, next_step=mistake.next_step
        ) from None
    return query
