"""What a rule is: one thing that must hold of every row, or of the whole table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from jobs.declared.contract import Column
from jobs.declared.sql import literal, quote

Dimension = Literal["completeness", "uniqueness", "validity", "consistency", "timeliness", "accuracy"]
Severity = Literal["error", "warning", "info"]
Kind = Literal[
    "not_null", "in_set", "range", "pattern", "length", "row_sql",
    "unique", "row_count", "share", "scalar_sql", "great_expectations", "freshness",
]  # fmt: skip
Location = tuple[str | int, ...]
Limit = tuple[str, Any]

DIMENSIONS: tuple[Dimension, ...] = ("completeness", "uniqueness", "validity", "consistency", "timeliness", "accuracy")


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
    location: Location = ()


def satisfied(value: Any, sign: str, limit: Any) -> bool:
    """Whether a value is within a limit such as ``<=`` 5 or ``between`` (1, 2), both ends included; null never is."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    if sign in ("between", "not between"):
        inside = compare(limit[0], value) <= 0 and compare(value, limit[1]) <= 0
        return inside if sign == "between" else not inside
    order = compare(value, limit)
    return {"=": order == 0, "<>": order != 0, ">": order > 0, ">=": order >= 0, "<": order < 0, "<=": order <= 0}[sign]


def in_set(
    rule_id: str, column: Column, values: tuple[Any, ...], location: Location,
    *, severity: Severity = "error", dimension: Dimension = "validity",
) -> Rule:  # fmt: skip
    """The rule that a column's values are among these."""
    members = ", ".join(literal(v) for v in values)
    return Rule(
        rule_id, "in_set", (column.name,), dimension, severity,
        f"{column.name} is one of {', '.join(map(str, values))}"[:200],
        f"{quote(column.name)} in ({members})", {"values": values}, location,
    )  # fmt: skip


def pattern(
    rule_id: str, column: Column, expression: str, location: Location,
    *, severity: Severity = "error", dimension: Dimension = "validity",
) -> Rule:  # fmt: skip
    """The rule that a regular expression is found in a column's values."""
    return Rule(
        rule_id, "pattern", (column.name,), dimension, severity, f"{column.name} matches {expression}",
        f"{quote(column.name)} rlike {literal(expression)}", {"pattern": expression}, location,
    )  # fmt: skip


def compare(left: Any, right: Any) -> int:
    """-1, 0 or 1; numbers by value and exactly, anything else as text (ISO dates and instants sort as text)."""
    numeric = (int, float, Decimal)
    if isinstance(left, numeric) and isinstance(right, numeric):
        a, b = Decimal(str(left)), Decimal(str(right))
        return (a > b) - (a < b)
    c, d = str(left), str(right)
    return (c > d) - (c < d)


