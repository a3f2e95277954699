"""Reads the quality entries of a contract (library, sql, custom) as rules, refusing what nothing could check."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from jobs.declared.contract import Column, Contract
from jobs.declared.rules import DIMENSIONS, Dimension, Limit, Location, Rule, Severity, in_set, pattern
from jobs.declared.sql import literal, quote
from jobs.errors import DeclarationError

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
_NAMED_COLUMNS = ("column", "column_A", "column_B", "column_list", "column_set")


@dataclass(frozen=True)
class _Entry:
    """One quality entry: what it says, and where."""

    contract: Contract
    says: dict[str, Any]
    column: Column | None
    location: Location
    rule_id: str
    dimension: Dimension
    severity: Severity

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column.name,) if self.column else ()

    def mistake(self, what: str, *within: str, **more: str) -> DeclarationError:
        return self.contract.mistake(what, (*self.location, *within), **more)


def quality_rule(contract: Contract, says: dict[str, Any], column: Column | None, location: Location) -> Rule:
    """The rule that a quality entry of a column, or of the table (column None), states.

    Raises:
        DeclarationError: it cannot be checked as it stands; file, line and field are named.
    """
    entry = _Entry(
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
    known = ", ".join((*DIMENSIONS, *_ODCS_DIMENSION))
    raise contract.mistake(f"the dimension '{given}'", (*location, "dimension"), expected=f"one of: {known}")


def _severity(contract: Contract, says: dict[str, Any], location: Location) -> Severity:
    given = says.get("severity") or "error"
    for name in _SEVERITIES:
        if name == given:
            return name
    raise contract.mistake(f"the severity '{given}'", (*location, "severity"), expected="error, warning or info")


def _library(entry: _Entry) -> Rule:
    metric, arguments = entry.says.get("metric"), entry.says.get("arguments") or {}
    limit = _limit(entry)
    if metric == "rowCount":
        return Rule(
            entry.rule_id, "row_count", (), entry.dimension, entry.severity, f"the number of rows {_shown(limit)}",
            parameters={"limit": limit}, location=entry.location,
        )  # fmt: skip
    if metric == "duplicateValues":
        return _no_duplicates(entry, tuple(arguments.get("properties") or entry.columns), limit)
    if entry.column is None:
        raise entry.mistake(f"the metric {metric} stands at the table", expected="it under a column's quality")
    rule = _bad_value(entry, entry.column, str(metric), arguments)
    if limit == ("=", 0):
        return rule
    unit = entry.says.get("unit") or "rows"
    if unit not in ("rows", "percent"):
        raise entry.mistake(f"the unit '{unit}'", "unit", expected="rows or percent")
    return Rule(
        entry.rule_id, "share", entry.columns, entry.dimension, entry.severity,
        f"{metric} of {entry.column.name} ({unit}) {_shown(limit)}",
        parameters={"good": rule.predicate, "limit": limit, "unit": unit}, location=entry.location,
    )  # fmt: skip


def _no_duplicates(entry: _Entry, columns: tuple[str, ...], limit: Limit) -> Rule:
    _check_known(entry, columns, "arguments")
    if limit != ("=", 0):
        raise entry.mistake(f"duplicateValues {_shown(limit)}", expected="mustBe: 0")
    return Rule(
        entry.rule_id, "unique", columns, "uniqueness", entry.severity, f"({', '.join(columns)}) is unique",
        location=entry.location,
    )  # fmt: skip


def _bad_value(entry: _Entry, column: Column, metric: str, arguments: dict[str, Any]) -> Rule:
    """The rule that no value is bad in the metric's sense."""
    name, how = quote(column.name), (entry.dimension, entry.severity)
    if metric == "nullValues":
        return Rule(
            entry.rule_id, "not_null", entry.columns, *how, f"{column.name} is present", f"{name} is not null",
            location=entry.location,
        )  # fmt: skip
    if metric == "missingValues":
        missing = ", ".join(literal(v) for v in arguments.get("missingValues") or [] if v is not None)
        good = f"{name} is not null" + (f" and {name} not in ({missing})" if missing else "")
        return Rule(
            entry.rule_id, "row_sql", entry.columns, *how, f"{column.name} is present", good, location=entry.location
        )
    if metric != "invalidValues":
        known = "nullValues, missingValues, invalidValues, duplicateValues or rowCount"
        raise entry.mistake(f"the metric '{metric}'", "metric", expected=known)
    if arguments.get("validValues"):
        values = tuple(arguments["validValues"])
        return in_set(entry.rule_id, column, values, entry.location, severity=how[1], dimension=how[0])
    if arguments.get("pattern"):
        expression = str(arguments["pattern"])
        return pattern(entry.rule_id, column, expression, entry.location, severity=how[1], dimension=how[0])
    raise entry.mistake("invalidValues without arguments", expected="arguments: validValues or pattern")


def _sql(entry: _Entry) -> Rule:
    query = str(entry.says.get("query") or "").strip().rstrip(";")
    if entry.column:
        query = query.replace("${column}", quote(entry.column.name)).replace("${property}", quote(entry.column.name))
    description = str(entry.says.get("description") or entry.rule_id)
    limit = _limit(entry)
    row = _ROW_QUERY.fullmatch(query)
    if row and limit == ("=", 0):
        predicate = " ".join(row.group(1).split())
        mentioned = _columns_of(entry, _parsed(entry, predicate))
        columns = tuple(dict.fromkeys((*entry.columns, *mentioned)))
        return Rule(
            entry.rule_id, "row_sql", columns, entry.dimension, entry.severity, description, predicate,
            location=entry.location,
        )  # fmt: skip
    query = query.replace("${object}", "${table}")
    if "${table}" not in query:
        raise entry.mistake("the query does not read ${table}", "query", expected="SELECT … FROM ${table}")
    parsed = _parsed(entry, query.replace("${table}", "batch"))
    if not isinstance(parsed, exp.Query):
        raise entry.mistake("not a SELECT", "query", expected="SELECT one value FROM ${table}")
    if len(list(parsed.find_all(exp.Select))) == 1 and not parsed.find(exp.Alias, exp.Lateral, exp.Lambda):
        # Of a query with names of its own only the engine can tell which of them are columns.
        _columns_of(entry, parsed, within_select=True)
    return Rule(
        entry.rule_id, "scalar_sql", entry.columns, entry.dimension, entry.severity, description,
        parameters={"query": query, "limit": limit}, location=entry.location,
    )  # fmt: skip


def _parsed(entry: _Entry, text: str) -> exp.Expression:
    try:
        parsed = sqlglot.parse_one(text, dialect="spark")
    except SqlglotError as error:
        first = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()[0]
        raise entry.mistake(f"the SQL does not parse: {first}", "query", next_step="correct the query") from None
    if not isinstance(parsed, exp.Expression):
        raise entry.mistake("the SQL is empty", "query", expected="a SELECT")
    return parsed


def _columns_of(entry: _Entry, predicate: exp.Expression, *, within_select: bool = False) -> tuple[str, ...]:
    """The columns that a predicate over one row, or a plain SELECT, reads; any other name is a mistake."""
    if not within_select and predicate.find(exp.Subquery, exp.Select) is not None:
        return ()
    own = {c.lower(): c for c in entry.contract.names}
    used = [c.name for c in predicate.find_all(exp.Column)]
    unknown = [c for c in used if c.lower() not in own and not c.startswith("_")]
    if unknown:
        raise entry.mistake(
            f"no column {', '.join(dict.fromkeys(unknown))}", "query", expected=", ".join(entry.contract.names)
        )
    return tuple(dict.fromkeys(own[c.lower()] for c in used if c.lower() in own))


def _custom(entry: _Entry) -> Rule:
    implementation = entry.says.get("implementation")
    engine = str(entry.says.get("engine", "")).lower().replace("-", "").replace("_", "")
    if engine != "greatexpectations" or not isinstance(implementation, dict) or "type" not in implementation:
        raise entry.mistake(
            "a custom rule that Great Expectations cannot run",
            expected="engine: greatExpectations, implementation: {type: expect_…, kwargs: {…}}",
        )
    kwargs = dict(implementation.get("kwargs") or {})
    if entry.column and not any(name in kwargs for name in _NAMED_COLUMNS):
        kwargs["column"] = entry.column.name
    named = [kwargs[n] for n in _NAMED_COLUMNS if n in kwargs]
    columns = tuple(str(c) for names in named for c in (names if isinstance(names, list) else [names]))
    if columns:
        _check_known(entry, columns, "implementation", "kwargs")
    return Rule(
        entry.rule_id, "great_expectations", columns, entry.dimension, entry.severity,
        str(entry.says.get("description") or implementation["type"]),
        parameters={"type": str(implementation["type"]), "kwargs": kwargs},
        location=(*entry.location, "implementation"),
    )  # fmt: skip


def _limit(entry: _Entry) -> Limit:
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


def _check_known(entry: _Entry, columns: tuple[str, ...], *within: str) -> None:
    unknown = [c for c in columns if c not in entry.contract.names]
    if unknown or not columns:
        known = ", ".join(entry.contract.names)
        raise entry.mistake(f"no column {', '.join(unknown) or 'named'}", *within, expected=known)
