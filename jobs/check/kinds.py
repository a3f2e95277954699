"""Maps each kind of rule to the expectation that decides it, and to an example of what breaks it.

Importing this module imports Great Expectations (seconds), so import it inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from great_expectations import ExpectationSuite
from great_expectations.exceptions.exceptions import ExpectationNotFoundError
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity
from great_expectations.expectations.registry import get_expectation_impl

from jobs import extensions
from jobs.check.examples import Example, bad_row, counted_row, repeated_key
from jobs.check.expectations import (
    AS_OF,
    ExpectColumnToBeFresh,
    ExpectKeyToBeUnique,
    ExpectQueryResultToBe,
    ExpectRowsToSatisfy,
    ExpectShareOfRowsToBe,
    Kwargs,
)
from jobs.declared import rules
from jobs.declared.contract import Contract
from jobs.declared.quality import GROUP
from jobs.declared.rules import Kind, Rule

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# An expectation type, or the name of one of GX's own, and its arguments.
Expected = tuple[type[Expectation] | str, Kwargs]

_SEVERITIES = {
    "error": FailureSeverity.CRITICAL,
    "warning": FailureSeverity.WARNING,
    "info": FailureSeverity.INFO,
}


@dataclass(frozen=True)
class _Procedure:
    expectation: Callable[[Rule], Expected]
    example: Callable[[Rule, DataFrame, Contract], Example | None] = bad_row


def suite_of(contract: Contract, compiled: tuple[Rule, ...]) -> ExpectationSuite:
    """The suite of a table: one expectation per rule, in order, each naming its rule in ``meta``.

    Raises:
        DeclarationError: a rule names an expectation type that GX does not have, or arguments it does not take.
        ExchangeError: the package that adds a rule's kind is broken or not installed.
    """
    expectations = [_expectation(contract, rule) for rule in compiled]
    return ExpectationSuite(name=contract.table, expectations=expectations)


def example_of(rule: Rule, frame: DataFrame, contract: Contract) -> Example | None:
    """One row of ``frame`` that breaks a rule, personal values masked; None if this kind of rule has none to show."""
    return _procedure(rule.kind).example(rule, frame, contract)


def _expectation(contract: Contract, rule: Rule) -> Expectation:
    chosen, kwargs = _procedure(rule.kind).expectation(rule)
    kind = _gx_expectation(contract, rule, chosen) if isinstance(chosen, str) else chosen
    try:
        return kind(
            **kwargs,
            severity=_SEVERITIES[rule.severity],
            meta={"rule": rule.id, "dimension": rule.dimension},
            description=rule.description,
        )
    except (ValueError, TypeError) as error:
        detail = "; ".join(line.strip() for line in str(error).splitlines()[1:5]) or str(error)
        raise contract.mistake(
            f"{rule.id}: {kind.expectation_type} does not take these arguments: {detail}"[:300],
            rule.location,
            expected=f"the arguments of {kind.__name__}",
        ) from None


def _gx_expectation(contract: Contract, rule: Rule, name: str) -> type[Expectation]:
    """GX's own expectation of this name."""
    try:
        return get_expectation_impl(name)
    except ExpectationNotFoundError:
        raise contract.mistake(
            f"{rule.id}: Great Expectations has no expectation '{name}'",
            rule.location,
            expected="a type of GX, for example expect_column_mean_to_be_between",
        ) from None


def _procedure(kind: Kind) -> _Procedure:
    return _PROCEDURES.get(kind) or _Procedure(extensions.attribute(GROUP, kind.name, "expectation"))


def _not_null(rule: Rule) -> Expected:
    return "expect_column_values_to_not_be_null", _column(rule)


def _in_set(rule: Rule) -> Expected:
    return "expect_column_values_to_be_in_set", _column(rule) | {"value_set": list(rule.parameters["values"])}


def _pattern(rule: Rule) -> Expected:
    return "expect_column_values_to_match_regex", _column(rule) | {"regex": rule.parameters["pattern"]}


def _length(rule: Rule) -> Expected:
    return "expect_column_value_lengths_to_be_between", _column(rule) | _bounds(rule)


def _range(rule: Rule) -> Expected:
    parameters = rule.parameters
    if not parameters["plain"]:
        return _rows(rule)
    strict = {"strict_min": parameters["strict_minimum"], "strict_max": parameters["strict_maximum"]}
    return "expect_column_values_to_be_between", _column(rule) | _bounds(rule) | strict


def _rows(rule: Rule) -> Expected:
    return ExpectRowsToSatisfy, {"predicate": rule.predicate}


def _unique(rule: Rule) -> Expected:
    return ExpectKeyToBeUnique, {"columns": list(rule.columns)}


def _share(rule: Rule) -> Expected:
    return ExpectShareOfRowsToBe, {"predicate": rule.good, "unit": rule.parameters["unit"], **_limit(rule)}


def _row_count(rule: Rule) -> Expected:
    return ExpectQueryResultToBe, {"query": "SELECT COUNT(*) FROM ${table}", **_limit(rule)}


def _scalar(rule: Rule) -> Expected:
    return ExpectQueryResultToBe, {"query": rule.parameters["query"], **_limit(rule)}


def _named(rule: Rule) -> Expected:
    return rule.parameters["type"], rule.parameters["kwargs"]


def _fresh(rule: Rule) -> Expected:
    as_of = {"$PARAMETER": AS_OF}
    return ExpectColumnToBeFresh, _column(rule) | {"days": rule.parameters["days"], "as_of": as_of}


def _column(rule: Rule) -> Kwargs:
    return {"column": rule.columns[0]}


def _bounds(rule: Rule) -> Kwargs:
    return {"min_value": rule.parameters["minimum"], "max_value": rule.parameters["maximum"]}


def _limit(rule: Rule) -> dict[str, Any]:
    sign, limit = rule.parameters["limit"]
    return {"sign": sign, "limit": list(limit) if isinstance(limit, tuple) else limit}


_PROCEDURES: dict[Kind, _Procedure] = {
    rules.NOT_NULL: _Procedure(_not_null),
    rules.IN_SET: _Procedure(_in_set),
    rules.RANGE: _Procedure(_range),
    rules.PATTERN: _Procedure(_pattern),
    rules.LENGTH: _Procedure(_length),
    rules.ROW_SQL: _Procedure(_rows),
    rules.UNIQUE: _Procedure(_unique, repeated_key),
    rules.SHARE: _Procedure(_share),
    rules.ROW_COUNT: _Procedure(_row_count),
    rules.SCALAR_SQL: _Procedure(_scalar, counted_row),
    rules.GREAT_EXPECTATIONS: _Procedure(_named),
    rules.FRESHNESS: _Procedure(_fresh),
}
