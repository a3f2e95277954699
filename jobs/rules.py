"""Compiles a contract into rules: what must hold of every row, and what must hold of the whole table."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal

from jobs.contract import Column, Contract

Dimension = Literal["completeness", "uniqueness", "validity", "consistency", "timeliness", "accuracy"]
Severity = Literal["error", "warning", "info"]
Kind = Literal[
    "not_null", "in_set", "range", "pattern", "length", "row_sql",
    "unique", "row_count", "share", "scalar_sql", "great_expectations", "freshness",
]  # fmt: skip

DIMENSIONS: tuple[Dimension, ...] = ("completeness", "uniqueness", "validity", "consistency", "timeliness", "accuracy")
_ODCS_DIMENSION: dict[str, Dimension] = {"conformity": "validity", "coverage": "completeness"}
_OPERATORS = {
    "mustBe": "=", "mustNotBe": "<>", "mustBeGreaterThan": ">", "mustBeGreaterOrEqualTo": ">=",
    "mustBeLessThan": "<", "mustBeLessOrEqualTo": "<=",
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """One thing that must hold.

    Attributes:
        id: stable name, such as ``rate.range``; unique within the table.
        kind: what sort of rule, which decides the expectation that checks it.
        columns: the columns it speaks of; empty for the whole table.
        predicate: SQL that is false exactly for a row that breaks the rule; None for rules about the whole table.
        parameters: bounds, sets and queries, by kind.
        location: where in the contract it is written, as keys and indexes.
    """

    id: str
    kind: Kind
    columns: tuple[str, ...]
    dimension: Dimension
    severity: Severity
    description: str
    predicate: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    location: tuple[str | int, ...] = ()


def satisfied(value: Any, sign: str, limit: Any) -> bool:
    """Whether a value is within a limit such as ``<=`` 5 or ``between`` (1, 2), both ends included; null never is."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    if sign in ("between", "not between"):
        inside = _compare(limit[0], value) <= 0 and _compare(value, limit[1]) <= 0
        return inside if sign == "between" else not inside
    order = _compare(value, limit)
    return {"=": order == 0, "<>": order != 0, ">": order > 0, ">=": order >= 0, "<": order < 0, "<=": order <= 0}[sign]


def _compare(left: Any, right: Any) -> int:
    """-1, 0 or 1; numbers by value and exactly, anything else as text (ISO dates and instants sort as text)."""
    numeric = (int, float, Decimal)
    if isinstance(left, numeric) and isinstance(right, numeric):
        a, b = Decimal(str(left)), Decimal(str(right))
        return (a > b) - (a < b)
    c, d = str(left), str(right)
    return (c > d) - (c < d)


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


def compile_rules(contract: Contract) -> tuple[Rule, ...]:
    """All rules of a contract, in its order.

    Raises:
        DeclarationError: a quality entry that cannot be compiled, with its line.
    """
    rules: list[Rule] = [_unique(contract.key)]
    document = contract.document["schema"][0]
    for position, column in enumerate(contract.columns):
        rules += _column_rules(column)
        location = ("schema", 0, "properties", position, "quality")
        for index, entry in enumerate(document["properties"][position].get("quality") or []):
            rules.append(_quality(contract, entry, column, (*location, index)))
    for index, entry in enumerate(document.get("quality") or []):
        rules.append(_quality(contract, entry, None, ("schema", 0, "quality", index)))
    if contract.freshness:
        rules.append(_freshness(contract))
    return _numbered(rules)


def row_rules(contract: Contract) -> tuple[Rule, ...]:
    """The rules that decide, row by row, between the table and quarantine: severity error, one row each."""
    return tuple(r for r in compile_rules(contract) if r.predicate and r.severity == "error")


def _unique(key: tuple[str, ...]) -> Rule:
    return Rule("key.unique", "unique", key, "uniqueness", "error", f"({', '.join(key)}) names one row")


def _freshness(contract: Contract) -> Rule:
    promise = contract.freshness
    assert promise is not None  # noqa: S101 - narrows the type; the caller has just looked
    return Rule(
        f"{promise.column}.freshness", "freshness", (promise.column,), "timeliness", "warning",
        f"the newest {promise.column} is at most {promise.days:g} days old", parameters={"days": promise.days},
    )  # fmt: skip


def _column_rules(column: Column) -> list[Rule]:
    rules: list[Rule] = []
    name, shown = quote(column.name), column.name
    if column.required:
        rules.append(
            Rule(f"{shown}.required", "not_null", (shown,), "completeness", "error", f"{shown} is present", f"{name} is not null")
        )
    if column.enum:
        rules.append(_in_set(f"{shown}.enum", column, column.enum, "error", "validity"))
    options = dict(column.options)
    low, high = options.get("minimum"), options.get("maximum")
    over, under = options.get("exclusiveMinimum"), options.get("exclusiveMaximum")
    if any(bound is not None for bound in (low, high, over, under)):
        rules.append(_range(column, low, high, over, under))
    if options.get("pattern"):
        rules.append(_pattern(f"{shown}.pattern", column, str(options["pattern"]), "error", "validity"))
    if options.get("minLength") is not None or options.get("maxLength") is not None:
        shortest, longest = options.get("minLength"), options.get("maxLength")
        terms = [f"length({name}) >= {shortest}"] if shortest is not None else []
        terms += [f"length({name}) <= {longest}"] if longest is not None else []
        rules.append(
            Rule(
                f"{shown}.length", "length", (shown,), "validity", "error", f"{shown} has {shortest or 0} to {longest or 'any'} characters",
                " and ".join(terms), {"minimum": shortest, "maximum": longest},
            )  # fmt: skip
        )
    return rules


def _range(column: Column, low: Any, high: Any, over: Any, under: Any) -> Rule:
    name = quote(column.name)
    temporal = column.type in ("DATE", "TIMESTAMP")

    def bound(value: Any) -> str:
        return f"{column.type} {literal(str(value))}" if temporal else literal(value)

    pairs = ((">=", low), ("<=", high), (">", over), ("<", under))
    terms = [f"{name} {sign} {bound(value)}" for sign, value in pairs if value is not None]
    shown = " and ".join(f"{sign} {value}" for sign, value in pairs if value is not None)
    return Rule(
        f"{column.name}.range", "range", (column.name,), "validity", "error", f"{column.name} {shown}", " and ".join(terms),
        {"minimum": low if low is not None else over, "maximum": high if high is not None else under,
         "strict_minimum": over is not None, "strict_maximum": under is not None, "temporal": temporal},
    )  # fmt: skip


def _in_set(rule_id: str, column: Column, values: tuple[Any, ...], severity: Severity, dimension: Dimension) -> Rule:
    members = ", ".join(literal(v) for v in values)
    return Rule(
        rule_id, "in_set", (column.name,), dimension, severity, f"{column.name} is one of {', '.join(map(str, values))}"[:200],
        f"{quote(column.name)} in ({members})", {"values": values},
    )  # fmt: skip


def _pattern(rule_id: str, column: Column, pattern: str, severity: Severity, dimension: Dimension) -> Rule:
    return Rule(
        rule_id, "pattern", (column.name,), dimension, severity, f"{column.name} matches {pattern}",
        f"{quote(column.name)} rlike {literal(pattern)}", {"pattern": pattern},
    )  # fmt: skip


def _quality(contract: Contract, entry: dict[str, Any], column: Column | None, location: tuple[str | int, ...]) -> Rule:
    kind = entry.get("type") or "library"
    named = dict(
        rule_id=_rule_id(entry, column),
        dimension=_ODCS_DIMENSION.get(entry.get("dimension", ""), entry.get("dimension") or "validity"),
        severity=_severity(contract, entry, location),
    )
    if kind == "library":
        return _library(contract, entry, column, location, **named)
    if kind == "sql":
        return _sql(contract, entry, column, location, **named)
    if kind == "custom":
        return _custom(contract, entry, column, location, **named)
    raise contract.mistake(
        f"a quality rule of type '{kind}'", (*location, "type"), expected="library, sql or custom",
        next_step="a rule that is only text cannot be checked: put it into the description",
    )  # fmt: skip


def _severity(contract: Contract, entry: dict[str, Any], location: tuple[str | int, ...]) -> Severity:
    severity = entry.get("severity") or "error"
    if severity not in ("error", "warning", "info"):
        raise contract.mistake(f"the severity '{severity}'", (*location, "severity"), expected="error, warning or info")
    return severity  # type: ignore[no-any-return]  # narrowed by the line above


def _rule_id(entry: dict[str, Any], column: Column | None) -> str:
    given = entry.get("name") or entry.get("id") or entry.get("metric") or entry.get("type") or "rule"
    return f"{column.name if column else 'table'}.{re.sub(r'[^A-Za-z0-9_]+', '_', str(given))}"


def _library(
    contract: Contract, entry: dict[str, Any], column: Column | None, location: tuple[str | int, ...],
    *, rule_id: str, dimension: Dimension, severity: Severity,
) -> Rule:  # fmt: skip
    metric, arguments = entry["metric"], entry.get("arguments") or {}
    limit = _limit(contract, entry, location)
    if metric == "rowCount":
        return Rule(rule_id, "row_count", (), dimension, severity, f"the number of rows {_shown(limit)}", parameters={"limit": limit})
    if metric == "duplicateValues":
        columns = tuple(arguments.get("properties") or ((column.name,) if column else ()))
        _check_known(contract, columns, location)
        return Rule(rule_id, "unique", columns, "uniqueness", severity, f"({', '.join(columns)}) is unique")
    if column is None:
        raise contract.mistake(f"the metric {metric} stands at the table", location, expected="it under a column's quality")
    bad, rule = _bad_value(contract, metric, arguments, column, location, rule_id, severity, dimension)
    if limit == ("=", 0) and rule:
        return rule
    unit = entry.get("unit") or "rows"
    return Rule(
        rule_id, "share", (column.name,), dimension, severity, f"{metric} of {column.name} ({unit}) {_shown(limit)}",
        parameters={"bad": bad, "limit": limit, "unit": unit},
    )  # fmt: skip


def _bad_value(
    contract: Contract, metric: str, arguments: dict[str, Any], column: Column, location: tuple[str | int, ...],
    rule_id: str, severity: Severity, dimension: Dimension,
) -> tuple[str, Rule | None]:  # fmt: skip
    name = quote(column.name)
    if metric == "nullValues":
        good = f"{name} is not null"
        return f"{name} is null", Rule(rule_id, "not_null", (column.name,), dimension, severity, f"{column.name} is present", good)
    if metric == "missingValues":
        missing = ", ".join(literal(v) for v in arguments.get("missingValues") or [] if v is not None)
        bad = f"({name} is null" + (f" or {name} in ({missing}))" if missing else ")")
        return bad, Rule(rule_id, "row_sql", (column.name,), dimension, severity, f"{column.name} is present", f"not {bad}")
    if arguments.get("validValues"):
        rule = _in_set(rule_id, column, tuple(arguments["validValues"]), severity, dimension)
    elif arguments.get("pattern"):
        rule = _pattern(rule_id, column, str(arguments["pattern"]), severity, dimension)
    else:
        raise contract.mistake("invalidValues without arguments", location, expected="arguments: validValues or pattern")
    return f"not ({rule.predicate})", rule


def _sql(
    contract: Contract, entry: dict[str, Any], column: Column | None, location: tuple[str | int, ...],
    *, rule_id: str, dimension: Dimension, severity: Severity,
) -> Rule:  # fmt: skip
    query = str(entry["query"]).strip().rstrip(";")
    if column:
        query = query.replace("${column}", quote(column.name)).replace("${property}", quote(column.name))
    description = str(entry.get("description") or rule_id)
    row = re.fullmatch(r"select\s+count\(\*\)\s+from\s+\$\{(?:table|object)\}\s+where\s+not\s*\((.*)\)", query, re.I | re.S)
    limit = _limit(contract, entry, location)
    if row and limit == ("=", 0):
        predicate = " ".join(row.group(1).split())
        columns = (column.name,) if column else _mentioned(contract, predicate)
        return Rule(rule_id, "row_sql", columns, dimension, severity, description, predicate)
    if "${table}" not in query and "${object}" not in query:
        raise contract.mistake("the query does not read ${table}", (*location, "query"), expected="SELECT … FROM ${table}")
    return Rule(
        rule_id, "scalar_sql", (column.name,) if column else (), dimension, severity, description,
        parameters={"query": query.replace("${object}", "${table}"), "limit": limit},
    )  # fmt: skip


def _mentioned(contract: Contract, predicate: str) -> tuple[str, ...]:
    from jobs.query import columns_read

    return tuple(n for n in columns_read(predicate, contract.file, "quality") if n in contract.names)


def _custom(
    contract: Contract, entry: dict[str, Any], column: Column | None, location: tuple[str | int, ...],
    *, rule_id: str, dimension: Dimension, severity: Severity,
) -> Rule:  # fmt: skip
    implementation = entry.get("implementation")
    engine = str(entry.get("engine", "")).lower().replace("-", "").replace("_", "")
    if engine != "greatexpectations" or not isinstance(implementation, dict) or "type" not in implementation:
        raise contract.mistake(
            "a custom rule that Great Expectations cannot run", location,
            expected="engine: greatExpectations, implementation: {type: expect_…, kwargs: {…}}",
        )  # fmt: skip
    kwargs = dict(implementation.get("kwargs") or {})
    if column and "column" not in kwargs:
        kwargs["column"] = column.name
    return Rule(
        rule_id, "great_expectations", (column.name,) if column else (), dimension, severity,
        str(entry.get("description") or implementation["type"]),
        parameters={"type": implementation["type"], "kwargs": kwargs},
    )  # fmt: skip


def _limit(contract: Contract, entry: dict[str, Any], location: tuple[str | int, ...]) -> tuple[str, Any]:
    for key, sign in _OPERATORS.items():
        if key in entry:
            return sign, entry[key]
    for key, sign in (("mustBeBetween", "between"), ("mustNotBeBetween", "not between")):
        if key in entry:
            return sign, tuple(entry[key])
    raise contract.mistake("a rule without a limit", location, expected="one of mustBe, mustBeLessThan, mustBeBetween, …")


def _shown(limit: tuple[str, Any]) -> str:
    sign, value = limit
    return f"{sign} {' and '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _check_known(contract: Contract, columns: tuple[str, ...], location: tuple[str | int, ...]) -> None:
    unknown = [c for c in columns if c not in contract.names]
    if unknown or not columns:
        raise contract.mistake(f"no column {', '.join(unknown) or 'named'}", location, expected=", ".join(contract.names))


def _numbered(rules: list[Rule]) -> tuple[Rule, ...]:
    seen: dict[str, int] = {}
    out: list[Rule] = []
    for rule in rules:
        count = seen[rule.id] = seen.get(rule.id, 0) + 1
        out.append(rule if count == 1 else replace(rule, id=f"{rule.id}_{count}"))
    return tuple(out)
