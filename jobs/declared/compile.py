"""Compiles a contract into rules: what must hold of every row, and what must hold of the whole table."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from jobs.declared.contract import Column, Contract
from jobs.declared.quality import quality_rule
from jobs.declared.rules import FRESHNESS, LENGTH, NOT_NULL, RANGE, UNIQUE, Location, Rule, compare, in_set, pattern
from jobs.declared.sql import literal, quote

_TEMPORAL = ("DATE", "TIMESTAMP")


def compile_rules(contract: Contract) -> tuple[Rule, ...]:
    """All rules of a contract, in its order.

    Raises:
        DeclarationError: a quality entry that cannot be compiled, with its line.
    """
    rules: list[Rule] = [_unique(contract.key)]
    document = contract.document["schema"][0]
    for position, column in enumerate(contract.columns):
        location: Location = ("schema", 0, "properties", position)
        rules += _column_rules(contract, column, location)
        for index, entry in enumerate(document["properties"][position].get("quality") or []):
            rules.append(quality_rule(contract, entry, column, (*location, "quality", index)))
    for index, entry in enumerate(document.get("quality") or []):
        rules.append(quality_rule(contract, entry, None, ("schema", 0, "quality", index)))
    if contract.freshness:
        rules.append(_freshness(contract))
    return _numbered(rules)


def row_rules(contract: Contract) -> tuple[Rule, ...]:
    """The rules that decide, row by row, between the table and quarantine: severity error, one row each."""
    return tuple(r for r in compile_rules(contract) if r.sends_to_quarantine)


def rows_digest(contract: Contract) -> str:
    """sha256 of what decides which rows a table holds; texts, units and rules about the whole table are left out."""
    # SQL as stated, so that another way of printing it for the engine makes no table anew.
    stated = [column.get("transformLogic") for column in contract.document["schema"][0]["properties"]]
    columns = [
        (c.name, c.type, transform, c.key_position, c.partition_position)
        for c, transform in zip(contract.columns, stated, strict=True)
    ]
    rules = [(r.id, r.columns, r.parameters.get("stated", r.predicate)) for r in row_rules(contract)]
    return hashlib.sha256(json.dumps([columns, rules], ensure_ascii=False).encode()).hexdigest()


def _unique(key: tuple[str, ...]) -> Rule:
    return Rule("key.unique", UNIQUE, key, "uniqueness", "error", f"({', '.join(key)}) names one row")


def _freshness(contract: Contract) -> Rule:
    promise = contract.freshness
    assert promise is not None  # noqa: S101 - narrows the type; the caller has just checked
    return Rule(
        f"{promise.column}.freshness", FRESHNESS, (promise.column,), "timeliness", "warning",
        f"the newest {promise.column} is at most {promise.days:g} days old", parameters={"days": promise.days},
        location=("slaProperties",),
    )  # fmt: skip


def _column_rules(contract: Contract, column: Column, location: Location) -> list[Rule]:
    rules: list[Rule] = []
    name, shown = quote(column.name), column.name
    if column.required:
        rules.append(
            Rule(
                f"{shown}.required",
                NOT_NULL,
                (shown,),
                "completeness",
                "error",
                f"{shown} is present",
                f"{name} is not null",
                location=location,
            )
        )
    if column.enum:
        rules.append(in_set(f"{shown}.enum", column, column.enum, location))
    options = dict(column.options)
    _check_options(contract, column, options, (*location, "logicalTypeOptions"))
    if any(options.get(o) is not None for o in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")):
        rules.append(_range(column, options, location))
    if options.get("pattern"):
        rules.append(pattern(f"{shown}.pattern", column, str(options["pattern"]), location))
    if options.get("minLength") is not None or options.get("maxLength") is not None:
        rules.append(_length(column, options.get("minLength"), options.get("maxLength"), location))
    return rules


def _check_options(contract: Contract, column: Column, options: dict[str, Any], location: Location) -> None:
    """Refuse an option that the column's type cannot have; the engine would fail on it only during the check."""
    bounds = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    allowed = bounds if column.type not in ("STRING", "BOOLEAN") else {"pattern", "minLength", "maxLength"}
    for name in sorted(bounds | {"pattern", "minLength", "maxLength"}):
        if options.get(name) is None:
            continue
        if name not in allowed or column.type == "BOOLEAN":
            raise contract.mistake(
                f"{name} does not apply to the {column.type} column '{column.name}'", (*location, name),
                expected="bounds for numbers, dates and instants; pattern and length for strings",
            )  # fmt: skip
    for low, high in (("minimum", "maximum"), ("minLength", "maxLength")):
        least, most = options.get(low), options.get(high)
        if least is not None and most is not None and compare(least, most) > 0:
            raise contract.mistake(
                f"{low} {least} is above {high} {most}", (*location, low), expected="the lower one first"
            )


def _range(column: Column, options: dict[str, Any], location: Location) -> Rule:
    name = quote(column.name)
    temporal = column.type in _TEMPORAL
    low, high = options.get("minimum"), options.get("maximum")
    over, under = options.get("exclusiveMinimum"), options.get("exclusiveMaximum")

    def bound(value: Any) -> str:
        return f"{column.type} {literal(str(value))}" if temporal else literal(value)

    pairs = ((">=", low), ("<=", high), (">", over), ("<", under))
    terms = [f"{name} {sign} {bound(value)}" for sign, value in pairs if value is not None]
    shown = " and ".join(f"{sign} {value}" for sign, value in pairs if value is not None)
    # One expectation of a range cannot hold both an inclusive and an exclusive bound on one side.
    single = (low is None or over is None) and (high is None or under is None)
    return Rule(
        f"{column.name}.range", RANGE, (column.name,), "validity", "error", f"{column.name} {shown}",
        " and ".join(terms),
        {
            "minimum": low if low is not None else over, "maximum": high if high is not None else under,
            "strict_minimum": over is not None, "strict_maximum": under is not None,
            "plain": single and not temporal,
        },
        location,
    )  # fmt: skip


def _length(column: Column, shortest: int | None, longest: int | None, location: Location) -> Rule:
    name = quote(column.name)
    terms = [f"length({name}) >= {shortest}"] if shortest is not None else []
    terms += [f"length({name}) <= {longest}"] if longest is not None else []
    return Rule(
        f"{column.name}.length", LENGTH, (column.name,), "validity", "error",
        f"{column.name} has {shortest or 0} to {'any number of' if longest is None else longest} characters",
        " and ".join(terms), {"minimum": shortest, "maximum": longest}, location,
    )  # fmt: skip


def _numbered(rules: list[Rule]) -> tuple[Rule, ...]:
    seen: dict[str, int] = {}
    out: list[Rule] = []
    for rule in rules:
        count = seen[rule.id] = seen.get(rule.id, 0) + 1
        out.append(rule if count == 1 else replace(rule, id=f"{rule.id}_{count}"))
    return tuple(out)
