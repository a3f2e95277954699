"""What a rule is: one thing that must hold of every row, or of the whole table.

To add a kind of rule, write its `Kind` and what compiles it (`compile` or `quality` in this room), and one line in
`jobs.check.kinds` that says how it is checked. A package outside the exchange adds one as `jobs.extensions` describes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from jobs.declared.contract import Column
from jobs.declared.sql import literal, quote

Dimension = Literal["completeness", "uniqueness", "validity", "consistency", "timeliness", "accuracy"]
Severity = Literal["error", "warning", "info"]
Location = tuple[str | int, ...]
Limit = tuple[str, Any]
# What a check of the changed partitions says of a table whose other partitions passed the same rule before: it decides;
# it decides if it passes; nothing.
Partial = Literal["decides", "may_pass", "says_nothing"]

DIMENSIONS: tuple[Dimension, ...] = ("completeness", "uniqueness", "validity", "consistency", "timeliness", "accuracy")


@dataclass(frozen=True)
class Rule:
    """One thing that must hold.

    Attributes:
        id: stable name, for example ``rate.range``; unique within the table.
        kind: which kind of rule.
        columns: the columns it reads; empty for the whole table.
        predicate: SQL that is false exactly for a row that breaks the rule; None for rules about the whole table.
        parameters: bounds, sets and queries, by kind.
        location: where the contract states it, as keys and indexes.
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

    @property
    def good(self) -> str | None:
        """SQL that is false exactly for the rows that count as bad, also where some are allowed."""
        return self.predicate or self.parameters.get("good")

    @property
    def sends_to_quarantine(self) -> bool:
        """Whether it decides, row by row, between the table and quarantine."""
        return self.predicate is not None and self.severity == "error"


def _of_rows(rule: Rule, _key: tuple[str, ...]) -> Partial:
    return "decides" if rule.predicate else "says_nothing"


@dataclass(frozen=True)
class Kind:
    """A kind of rule, and what follows from it wherever rules are checked, scored and shown.

    Attributes:
        name: as the evidence has it.
        breaks: what a failure consists of: each bad row by itself, which lowers the score by its share; rows, counted
            but judged together; or one value of the table.
        shows_values: the observed value may be personal, and is masked if a column of the rule is.
        hides_columns: its text does not tell what it reads, so it counts as reading every personal column.
        partial: what a check of changed partitions says, given the rule and the table's key.
    """

    name: str
    breaks: Literal["each_row", "rows", "value"]
    shows_values: bool = False
    hides_columns: bool = False
    partial: Callable[[Rule, tuple[str, ...]], Partial] = _of_rows


def _of_key(rule: Rule, key: tuple[str, ...]) -> Partial:
    return "decides" if rule.columns == key else "says_nothing"


def _of_minimum(rule: Rule, _key: tuple[str, ...]) -> Partial:
    return "may_pass" if rule.parameters["limit"][0] in (">", ">=") else "says_nothing"


def _of_newest(_rule: Rule, _key: tuple[str, ...]) -> Partial:
    return "may_pass"


NOT_NULL = Kind("not_null", "each_row", shows_values=True)
IN_SET = Kind("in_set", "each_row", shows_values=True)
RANGE = Kind("range", "each_row", shows_values=True)
PATTERN = Kind("pattern", "each_row", shows_values=True)
LENGTH = Kind("length", "each_row", shows_values=True)
ROW_SQL = Kind("row_sql", "each_row", shows_values=True)
UNIQUE = Kind("unique", "rows", partial=_of_key)
SHARE = Kind("share", "rows")
ROW_COUNT = Kind("row_count", "value", partial=_of_minimum)
SCALAR_SQL = Kind("scalar_sql", "value", shows_values=True, hides_columns=True)
GREAT_EXPECTATIONS = Kind("great_expectations", "value", shows_values=True, hides_columns=True)
FRESHNESS = Kind("freshness", "value", partial=_of_newest)


def satisfied(value: Any, sign: str, limit: Any) -> bool:
    """Whether a value is within a limit, like ``<=`` 5 or ``between`` (1, 2) with both ends; null never is."""
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
        rule_id, IN_SET, (column.name,), dimension, severity,
        f"{column.name} is one of {', '.join(map(str, values))}"[:200],
        f"{quote(column.name)} in ({members})", {"values": values}, location,
    )  # fmt: skip


def pattern(
    rule_id: str, column: Column, expression: str, location: Location,
    *, severity: Severity = "error", dimension: Dimension = "validity",
) -> Rule:  # fmt: skip
    """The rule that a regular expression is found in a column's values."""
    return Rule(
        rule_id, PATTERN, (column.name,), dimension, severity, f"{column.name} matches {expression}",
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
