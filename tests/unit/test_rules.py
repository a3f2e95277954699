"""A contract's rules: what each one requires, and that limits compare as people expect."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st

from jobs.declared.compile import compile_rules, row_rules
from jobs.declared.contract import load_contract
from jobs.declared.rules import DIMENSIONS, Rule, satisfied
from jobs.declared.sql import literal, quote
from tests.unit.contracts import readings, write


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path))

    def compiled(**changes: Any) -> dict[str, Rule]:
        write(tmp_path, readings(**changes))
        return {rule.id: rule for rule in compile_rules(load_contract("silver.readings"))}

    return compiled


def test_column_properties_become_rules(rules: Any) -> None:
    compiled = rules()
    assert list(compiled) == [
        "key.unique", "meter_code.required", "read_at.required", "energy_kwh.range", "quality_code.enum",
    ]  # fmt: skip
    assert compiled["key.unique"].columns == ("meter_code", "read_at")
    assert compiled["key.unique"].predicate is None
    assert compiled["energy_kwh.range"].predicate == "`energy_kwh` >= 0 and `energy_kwh` <= 100"
    assert compiled["quality_code.enum"].predicate == "`quality_code` in ('01', '02')"
    assert all(rule.dimension in DIMENSIONS for rule in compiled.values())


def test_bounds_of_instants_are_compared_as_instants(rules: Any) -> None:
    compiled = rules(read_at={"logicalTypeOptions": {"minimum": "2020-01-01T00:00:00Z"}})
    assert compiled["read_at.range"].predicate == "`read_at` >= TIMESTAMP '2020-01-01T00:00:00Z'"


def test_a_rule_about_all_rows_is_a_row_rule_and_a_share_is_not(rules: Any) -> None:
    every = rules(note={"quality": [{"metric": "nullValues", "mustBe": 0}]})["note.nullValues"]
    share = rules(note={"quality": [{"metric": "nullValues", "mustBeLessThan": 5, "unit": "percent"}]})[
        "note.nullValues"
    ]
    assert (every.kind.name, every.predicate) == ("not_null", "`note` is not null")
    assert (share.kind.name, share.predicate) == ("share", None)
    assert share.parameters == {"good": "`note` is not null", "limit": ("<", 5), "unit": "percent"}


def test_a_count_of_bad_rows_that_must_be_zero_is_a_row_rule(rules: Any) -> None:
    query = "select count(*) from ${table} where not (energy_kwh < 10 or note is not null)"
    entry: dict[str, Any] = {"type": "sql", "name": "explained", "query": query, "mustBe": 0}
    rule = rules(quality=[entry])["table.explained"]
    assert (rule.kind.name, rule.predicate) == ("row_sql", "`energy_kwh` < 10 OR NOT `note` IS NULL")
    assert rule.columns == ("energy_kwh", "note")
    del entry["mustBe"]
    some = rules(quality=[entry | {"mustBeLessThan": 3}])["table.explained"]
    assert (some.kind.name, some.predicate, some.parameters["limit"]) == ("scalar_sql", None, ("<", 3))


def test_warnings_send_no_row_to_quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path))
    write(tmp_path, readings(note={"quality": [{"metric": "nullValues", "mustBe": 0, "severity": "warning"}]}))
    contract = load_contract("silver.readings")
    assert "note.nullValues" in {r.id for r in compile_rules(contract)}
    assert "note.nullValues" not in {r.id for r in row_rules(contract)}


def test_two_rules_of_the_same_name_are_numbered(rules: Any) -> None:
    entry = {"metric": "nullValues", "mustBe": 0}
    assert {"note.nullValues", "note.nullValues_2"} <= set(rules(note={"quality": [entry, entry]}))


def test_dimensions_of_the_standard_are_mapped_to_ours(rules: Any) -> None:
    entry = {"metric": "nullValues", "mustBe": 0}
    for standard, ours in (("conformity", "validity"), ("coverage", "completeness"), ("accuracy", "accuracy")):
        assert rules(note={"quality": [entry | {"dimension": standard}]})["note.nullValues"].dimension == ours


@given(st.text())
def test_any_text_survives_as_sql_literal(text: str) -> None:
    parsed = sqlglot.parse_one(f"select {literal(text)}", dialect="spark").expressions[0]
    assert parsed.is_string
    assert parsed.this == text


@given(st.text(min_size=1).filter(lambda t: "\x00" not in t))
def test_any_name_survives_as_sql_identifier(name: str) -> None:
    assert sqlglot.parse_one(f"select {quote(name)}", dialect="spark").expressions[0].name == name


NUMBERS = st.one_of(st.integers(-1000, 1000), st.decimals(-1000, 1000, places=3), st.floats(-1000, 1000))


@given(NUMBERS, NUMBERS)
def test_limits_are_each_others_complement(value: Any, limit: Any) -> None:
    assert satisfied(value, "<", limit) != satisfied(value, ">=", limit)
    assert satisfied(value, ">", limit) != satisfied(value, "<=", limit)
    assert satisfied(value, "=", limit) != satisfied(value, "<>", limit)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_between_includes_both_ends(value: Any, low: Any, high: Any) -> None:
    inside = satisfied(value, ">=", low) and satisfied(value, "<=", high)
    assert satisfied(value, "between", (low, high)) == inside
    assert satisfied(value, "not between", (low, high)) != inside


def test_null_and_nan_satisfy_no_limit() -> None:
    for sign in ("=", "<>", "<", "<=", ">", ">="):
        assert not satisfied(None, sign, 0)
        assert not satisfied(float("nan"), sign, 0)
    assert not satisfied(None, "not between", (1, 2))


def test_decimals_and_dates_compare_by_value() -> None:
    assert satisfied(Decimal("0.10"), "=", 0.1)
    assert satisfied(date(2026, 2, 1), ">", "2026-01-31")
