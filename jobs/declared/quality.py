"""Compiles the quality entries of a contract (library, sql, custom) to rules, refusing those that cannot be checked.

A kind of rule that a package adds is stated as

    - {type: custom, engine: exchange, name: …, implementation: {type: <kind>, …}}
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from string import Formatter
from typing import Any

from sqlglot import exp

from jobs import extensions
from jobs.declared.contract import Column, Contract, in_yaml
from jobs.declared.grammar import RULE, TABLE, Checked, check_expression, check_query
from jobs.declared.rules import (
    DIMENSIONS,
    GREAT_EXPECTATIONS,
    NOT_NULL,
    ROW_COUNT,
    ROW_SQL,
    SCALAR_SQL,
    SHARE,
    UNIQUE,
    Dimension,
    Kind,
    Limit,
    Location,
    Rule,
    Severity,
    in_set,
    pattern,
)
from jobs.declared.spark_sql import SqlMistake
from jobs.declared.sql import literal, quote
from jobs.errors import DeclarationError, ExchangeError

GROUP = "exchange.rules"
_ODCS_DIMENSION: dict[str, Dimension] = {"conformity": "validity", "coverage": "completeness"}
_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
_OPERATORS = {
    "mustBe": "=", "mustNotBe": "<>", "mustBeGreaterThan": ">", "mustBeGreaterOrEqualTo": ">=",
    "mustBeLessThan": "<", "mustBeLessOrEqualTo": "<=",
}  # fmt: skip
_RANGES = {"mustBeBetween": "between", "mustNotBeBetween": "not between"}
_ROW_QUERY = re.compile(
    r"select\s+count\(\s*\*\s*\)\s+from\s+\$\{(?:table|object)\}\s+where\s+not\s*\((.*)\)", re.IGNORECASE | re.DOTALL
)
_ROWS_QUERY = "unexpected_rows_query"
# Arguments of Great Expectations that name other tables or sources.
_BEYOND_THE_TABLE = frozenset({"other_table_name", "comparison_data_source_name", "batch_id"})
_NAMED_COLUMNS = ("column", "column_A", "column_B", "column_list", "column_set")


@dataclass(frozen=True)
class Entry:
    """One quality entry and its place in the contract.

    Attributes:
        says: its keys and values.
        column: the column it belongs to; None for the table.
    """

    contract: Contract
    says: dict[str, Any]
    column: Column | None
    location: Location
    rule_id: str
    dimension: Dimension
    severity: Severity

    @property
    def columns(self) -> tuple[str, ...]:
        """The column it belongs to, if any."""
        return (self.column.name,) if self.column else ()

    def mistake(self, what: str, *within: str, **more: str) -> DeclarationError:
        """A mistake in it, at its line; ``within`` are the keys that lead to the field."""
        return self.contract.mistake(what, (*self.location, *within), **more)

    def rule(
        self, kind: Kind, columns: tuple[str, ...], description: str, predicate: str | None = None, **parameters: Any
    ) -> Rule:
        """The rule that it states, under its own name, dimension and severity."""
        return Rule(
            self.rule_id, kind, columns, self.dimension, self.severity, description, predicate, parameters,
            self.location,
        )  # fmt: skip


def quality_rule(contract: Contract, says: dict[str, Any], column: Column | None, location: Location) -> Rule:
    """The rule that a quality entry of a column, or of the table (column None), states.

    Raises:
        DeclarationError: it cannot be checked; file, line and field are named.
    """
    entry = Entry(
        contract, says, column, location, _rule_id(says, column),
        _dimension(contract, says, location), _severity(contract, says, location),
    )  # fmt: skip
    kind = says.get("type") or "library"
    if kind == "library":
        return _library(entry)
    if kind == "sql":
        return _sql(entry)
    if kind == "custom":
        return _custom(entry)
    raise entry.mistake(
        f"a quality rule of type '{kind}'", "type", expected="library, sql or custom",
        next_step="a rule that is only text cannot be checked: put it into the description",
    )  # fmt: skip


def _rule_id(says: dict[str, Any], column: Column | None) -> str:
    given = says.get("name") or says.get("id") or says.get("metric") or says.get("type") or "rule"
    return f"{column.name if column else 'table'}.{re.sub(r'[^A-Za-z0-9_]+', '_', str(given))}"


def _dimension(contract: Contract, says: dict[str, Any], location: Location) -> Dimension:
    given = str(says.get("dimension") or "validity")
    for name in DIMENSIONS:
        if name == _ODCS_DIMENSION.get(given, given):
            return name
    names = ", ".join((*DIMENSIONS, *_ODCS_DIMENSION))
    raise contract.mistake(f"the dimension '{given}'", (*location, "dimension"), expected=f"one of: {names}")


def _severity(contract: Contract, says: dict[str, Any], location: Location) -> Severity:
    given = says.get("severity") or "error"
    for name in _SEVERITIES:
        if name == given:
            return name
    raise contract.mistake(f"the severity '{given}'", (*location, "severity"), expected="error, warning or info")


def _library(entry: Entry) -> Rule:
    metric, limit = str(entry.says.get("metric")), _limit(entry)
    if metric in _OF_TABLE:
        return _OF_TABLE[metric](entry, limit)
    if entry.column is None and metric in _OF_VALUES:
        raise entry.mistake(
            f"the metric {metric} applies to a column, not to the table", expected="it under a column's quality"
        )
    if entry.column is None or metric not in _OF_VALUES:
        expected = ", ".join((*_OF_VALUES, *_OF_TABLE))
        raise entry.mistake(f"the metric '{metric}'", "metric", expected=f"one of: {expected}")
    every = _OF_VALUES[metric](entry, entry.column)
    if limit == ("=", 0):
        return every
    unit = entry.says.get("unit") or "rows"
    if unit not in ("rows", "percent"):
        raise entry.mistake(f"the unit '{unit}'", "unit", expected="rows or percent")
    return entry.rule(
        SHARE, entry.columns, f"{metric} of {entry.column.name} ({unit}) {_shown(limit)}",
        good=every.predicate, limit=limit, unit=unit,
    )  # fmt: skip


def _row_count(entry: Entry, limit: Limit) -> Rule:
    return entry.rule(ROW_COUNT, (), f"the number of rows {_shown(limit)}", limit=limit)


def _no_duplicates(entry: Entry, limit: Limit) -> Rule:
    columns = tuple(_arguments(entry).get("properties") or entry.columns)
    _require_columns(entry, columns, "arguments")
    if limit != ("=", 0):
        raise entry.mistake(f"duplicateValues {_shown(limit)}", expected="mustBe: 0")
    unique = entry.rule(UNIQUE, columns, f"({', '.join(columns)}) is unique")
    return replace(unique, dimension="uniqueness")


def _present(entry: Entry, column: Column) -> Rule:
    return entry.rule(NOT_NULL, entry.columns, f"{column.name} is present", f"{quote(column.name)} is not null")


def _not_missing(entry: Entry, column: Column) -> Rule:
    name = quote(column.name)
    missing = ", ".join(literal(v) for v in _arguments(entry).get("missingValues") or [] if v is not None)
    good = f"{name} is not null" + (f" and {name} not in ({missing})" if missing else "")
    return entry.rule(ROW_SQL, entry.columns, f"{column.name} is present", good)


def _valid(entry: Entry, column: Column) -> Rule:
    arguments = _arguments(entry)
    if arguments.get("validValues"):
        values = tuple(arguments["validValues"])
        return in_set(
            entry.rule_id, column, values, entry.location, severity=entry.severity, dimension=entry.dimension
        )
    if arguments.get("pattern"):
        expression = str(arguments["pattern"])
        return pattern(
            entry.rule_id, column, expression, entry.location, severity=entry.severity, dimension=entry.dimension
        )
    raise entry.mistake("invalidValues without arguments", expected="arguments: validValues or pattern")


# Metrics of the standard: of values, each a rule that no value is bad; and of the whole table.
_OF_VALUES: dict[str, Callable[[Entry, Column], Rule]] = {
    "nullValues": _present, "missingValues": _not_missing, "invalidValues": _valid,
}  # fmt: skip
_OF_TABLE: dict[str, Callable[[Entry, Limit], Rule]] = {"duplicateValues": _no_duplicates, "rowCount": _row_count}


def _arguments(entry: Entry) -> dict[str, Any]:
    return entry.says.get("arguments") or {}


def _sql(entry: Entry) -> Rule:
    query = str(entry.says.get("query") or "").strip().rstrip(";")
    if entry.column:
        query = query.replace("${column}", quote(entry.column.name)).replace("${property}", quote(entry.column.name))
    query = query.replace("${object}", "${table}")
    if "${table}" not in query:
        raise entry.mistake("the query does not read ${table}", "query", expected="SELECT … FROM ${table}")
    checked = _checked_query(entry, query.replace("${table}", TABLE), "query")
    description = str(entry.says.get("description") or entry.rule_id)
    limit = _limit(entry)
    row = _ROW_QUERY.fullmatch(query)
    predicate = _row_predicate(row.group(1)) if row and limit == ("=", 0) else None
    if row and predicate:
        columns = tuple(dict.fromkeys((*entry.columns, *_columns_of(entry, predicate.tree))))
        stated = " ".join(row.group(1).split())
        return entry.rule(ROW_SQL, columns, description, predicate.text, stated=stated)
    tree = checked.tree
    if len(list(tree.find_all(exp.Select))) == 1 and not tree.find(exp.Alias, exp.Lateral):
        # In a query that defines names of its own, only the engine can tell which of them are columns.
        _columns_of(entry, tree)
    return entry.rule(SCALAR_SQL, entry.columns, description, query=_with_table(checked, "${table}"), limit=limit)


def _row_predicate(text: str) -> Checked | None:
    """A predicate that can be decided row by row; None if it needs the whole table."""
    try:
        predicate = check_expression(text)
        _ = predicate.sent
    except SqlMistake:
        return None
    return predicate


def _checked_query(entry: Entry, text: str, *within: str) -> Checked:
    try:
        query = check_query(text, RULE)
        _ = query.sent
    except SqlMistake as error:
        raise in_yaml(error, entry.contract.file, (*entry.location, *within)) from None
    return query


def _with_table(query: Checked, name: str) -> str:
    """A query's text with another name in place of the table."""
    return query.text.replace(quote(TABLE), name)


def _columns_of(entry: Entry, tree: exp.Expr) -> tuple[str, ...]:
    """The columns that a predicate over one row, or a plain SELECT, reads; any other name is a mistake."""
    own = {c.lower(): c for c in entry.contract.names}
    used = [c.name for c in tree.find_all(exp.Column) if not isinstance(c.this, exp.Star)]
    unknown = [c for c in used if c.lower() not in own and not c.startswith("_")]
    if unknown:
        raise entry.mistake(
            f"no column {', '.join(dict.fromkeys(unknown))}", "query", expected=", ".join(entry.contract.names)
        )
    return tuple(dict.fromkeys(own[c.lower()] for c in used if c.lower() in own))


def _custom(entry: Entry) -> Rule:
    implementation = entry.says.get("implementation")
    engine = str(entry.says.get("engine", "")).lower().replace("-", "").replace("_", "")
    if engine not in _ENGINES or not isinstance(implementation, dict) or "type" not in implementation:
        raise entry.mistake(
            "a custom rule for an engine that is not supported",
            expected="engine: greatExpectations, implementation: {type: expect_…, kwargs: {…}}; or engine: exchange",
        )
    return _ENGINES[engine](entry, implementation)


def _great_expectations(entry: Entry, implementation: dict[str, Any]) -> Rule:
    kwargs = dict(implementation.get("kwargs") or {})
    if entry.column and not any(name in kwargs for name in _NAMED_COLUMNS):
        kwargs["column"] = entry.column.name
    named = [kwargs[n] for n in _NAMED_COLUMNS if n in kwargs]
    columns = tuple(str(c) for names in named for c in (names if isinstance(names, list) else [names]))
    if columns:
        _require_columns(entry, columns, "implementation", "kwargs")
    kwargs |= _checked_sql(entry, kwargs)
    description = str(entry.says.get("description") or implementation["type"])
    rule = entry.rule(GREAT_EXPECTATIONS, columns, description, type=str(implementation["type"]), kwargs=kwargs)
    return replace(rule, location=(*entry.location, "implementation"))


def _checked_sql(entry: Entry, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The SQL among an expectation's arguments, as the engine gets it."""
    for name in kwargs:
        if name in _BEYOND_THE_TABLE or ("query" in name and name != _ROWS_QUERY):
            raise entry.mistake(
                f"the argument {name}, which reads beyond the table", "implementation", "kwargs", name,
                expected=f"an expectation about this table; for a query of your own, {_ROWS_QUERY}",
            )  # fmt: skip
    checked: dict[str, Any] = {}
    if _ROWS_QUERY in kwargs:
        checked[_ROWS_QUERY] = _rows_query(entry, str(kwargs[_ROWS_QUERY]))
    if kwargs.get("row_condition") is not None:
        if not isinstance(kwargs["row_condition"], str) or kwargs.get("condition_parser", "spark") != "spark":
            raise entry.mistake(
                "the row_condition is not SQL", "implementation", "kwargs", "row_condition",
                expected="an SQL predicate, and condition_parser: spark",
            )  # fmt: skip
        try:
            condition = check_expression(kwargs["row_condition"]).text
        except SqlMistake as error:
            place = (*entry.location, "implementation", "kwargs", "row_condition")
            raise in_yaml(error, entry.contract.file, place) from None
        checked |= {"row_condition": condition, "condition_parser": "spark"}
    return checked


def _rows_query(entry: Entry, query: str) -> str:
    """The query of an expectation, in which `{batch}` is the table and other braces are doubled."""
    within = ("implementation", "kwargs", _ROWS_QUERY)
    try:
        parts = [(text, field, spec, conversion) for text, field, spec, conversion in Formatter().parse(query)]
    except ValueError as error:
        raise entry.mistake(f"the query's braces: {error}", *within, expected="{batch}, and {{ }} in texts") from None
    if any(field is not None and (field != "batch" or spec or conversion) for _, field, spec, conversion in parts):
        raise entry.mistake("a field other than {batch} in the query", *within, expected="SELECT … FROM {batch}")
    if all(field is None for _, field, _, _ in parts):
        raise entry.mistake("the query does not read {batch}", *within, expected="SELECT … FROM {batch}")
    text = "".join(text + (TABLE if field is not None else "") for text, field, _, _ in parts)
    checked = _checked_query(entry, text.strip().rstrip(";"), *within)
    return checked.text.replace("{", "{{").replace("}", "}}").replace(quote(TABLE), "{batch}")


def _added(entry: Entry, implementation: dict[str, Any]) -> Rule:
    """The rule of a kind that an installed package adds, compiled by that package."""
    name = str(implementation["type"])
    if name not in extensions.names(GROUP):
        expected = ", ".join(extensions.names(GROUP)) or "none, as no installed package adds any"
        raise entry.mistake(
            f"unknown kind of rule '{name}'", "implementation", "type", expected=f"one of: {expected}"
        )
    try:
        compiled: Rule = extensions.attribute(GROUP, name, "compile")(entry)
    except DeclarationError:
        raise
    except ExchangeError as error:
        raise entry.mistake(str(error), "implementation", "type") from error
    if compiled.kind.name != name:
        raise entry.mistake(
            f"the package of '{name}' compiles it to a rule of kind '{compiled.kind.name}'", "implementation", "type"
        )
    return compiled


_ENGINES: dict[str, Callable[[Entry, dict[str, Any]], Rule]] = {
    "greatexpectations": _great_expectations, "exchange": _added,
}  # fmt: skip


def _limit(entry: Entry) -> Limit:
    for key, sign in _OPERATORS.items():
        if key in entry.says:
            return sign, entry.says[key]
    for key, sign in _RANGES.items():
        if key not in entry.says:
            continue
        ends = entry.says[key]
        if not isinstance(ends, list) or len(ends) != len(("low", "high")):
            raise entry.mistake(f"{key} {ends}", key, expected="[lowest, highest]")
        return sign, tuple(ends)
    raise entry.mistake("a rule without a limit", expected="one of mustBe, mustBeLessThan, mustBeBetween, …")


def _shown(limit: Limit) -> str:
    sign, value = limit
    return f"{sign} {' and '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _require_columns(entry: Entry, columns: tuple[str, ...], *within: str) -> None:
    unknown = [c for c in columns if c not in entry.contract.names]
    if unknown or not columns:
        names = ", ".join(entry.contract.names)
        raise entry.mistake(f"no column {', '.join(unknown) or 'named'}", *within, expected=names)
