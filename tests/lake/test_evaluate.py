"""Great Expectations checks real frames: a broken rule fails with a count and an example."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql.connect.dataframe import DataFrame

from jobs.check import evidence
from jobs.check.evaluate import FailedRule, RuleOutcome, evaluate
from jobs.check.grade import recompute
from jobs.check.step import describe_failure
from jobs.declared.contract import load_contract
from jobs.errors import DeclarationError
from jobs.lake import close, connect
from tests.declaring import contract, declare_contract
from tests.lake.trial import Trial

NOW = datetime(2026, 3, 10, 16, tzinfo=UTC)
SCHEMA = "meter_code string, read_on date, read_at timestamp, energy_kwh double, cost decimal(9,2), quality_code string"


def sql(name: str, query: str, **more: Any) -> dict[str, Any]:
    return {"type": "sql", "name": name, "query": query, **more}


COLUMNS: dict[str, dict[str, Any]] = {
    "meter_code": {"physicalType": "STRING", "classification": "personal",
                   "logicalTypeOptions": {"pattern": r"^m\d+$", "minLength": 2, "maxLength": 4}},
    "read_on": {"physicalType": "DATE", "logicalTypeOptions": {"minimum": "2020-01-01"}},
    "read_at": {"physicalType": "TIMESTAMP", "logicalTypeOptions": {"maximum": "2026-12-31T00:00:00Z"}},
    "energy_kwh": {"physicalType": "DOUBLE", "required": True,
                   "logicalTypeOptions": {"exclusiveMinimum": 0, "maximum": 100},
                   "quality": [{"metric": "nullValues", "mustBeLessThan": 50, "unit": "percent",
                                "dimension": "completeness", "severity": "warning"}]},
    "cost": {"physicalType": "DECIMAL(9,2)", "logicalTypeOptions": {"minimum": 0}},
    "quality_code": {"physicalType": "STRING", "enum": [{"value": "01"}, {"value": "02"}],
                     "quality": [{"metric": "nullValues", "mustBe": 0, "dimension": "completeness",
                                  "severity": "warning"}]},
}  # fmt: skip
QUALITY: list[dict[str, Any]] = [
    {"metric": "rowCount", "mustBeBetween": [1, 1000], "dimension": "completeness"},
    sql("cost_follows_energy", "SELECT COUNT(*) FROM ${table} WHERE NOT (cost >= energy_kwh / 100)", mustBe=0,
        dimension="consistency", description="a reading costs at least a hundredth of its energy"),
    sql("one_total", "SELECT SUM(energy_kwh) FROM ${table}", mustBeLessThan=10000, dimension="accuracy",
        description="all energy is less than ten thousand"),
    {"type": "custom", "name": "mean", "engine": "greatExpectations", "dimension": "accuracy",
     "implementation": {"type": "expect_column_mean_to_be_between",
                        "kwargs": {"column": "energy_kwh", "min_value": 0, "max_value": 90}}},
]  # fmt: skip
CONTRACT = contract(
    "profile", COLUMNS, ("meter_code", "read_on"), quality=QUALITY,
    slaProperties=[{"property": "latency", "value": 2, "unit": "d", "element": "profile.read_on"}],
)  # fmt: skip

DAY = NOW.date()
GOOD: dict[str, Any] = {
    "meter_code": "m1", "read_on": DAY, "read_at": NOW, "energy_kwh": 5.0, "cost": "1.00", "quality_code": "01",
}  # fmt: skip


@dataclass
class Table:
    """A table to check: its contract, and rows given as changes to a good row."""

    root: Path
    document: dict[str, Any] = field(default_factory=lambda: deepcopy(CONTRACT))

    def check(self, *rows: dict[str, Any], scope: str | None = None) -> RuleOutcome:
        declare_contract(self.root, "gold.profile", self.document)
        return evaluate(
            frame(*rows), load_contract("gold.profile"), delta_version=7, scope=scope, logical_date=NOW, run_id="r1"
        )


def frame(*changes: dict[str, Any]) -> DataFrame:
    rows = [
        tuple((GOOD | change)[name.split()[0]] for name in SCHEMA.replace("(9,2)", "").split(", "))
        for change in changes
    ]
    text = connect().createDataFrame(rows, SCHEMA.replace("decimal(9,2)", "string"))
    return text.selectExpr(
        "meter_code", "read_on", "read_at", "energy_kwh", "cast(cost as decimal(9,2)) cost", "quality_code"
    )


def good(count: int) -> list[dict[str, Any]]:
    return [{"meter_code": f"m{n}"} for n in range(1, count + 1)]


@pytest.fixture
def table(exchange: Trial) -> Table:
    return Table(exchange.root)


def only(outcome: RuleOutcome) -> FailedRule:
    assert [f.rule_id for f in outcome.failed] == [outcome.failed[0].rule_id]
    return outcome.failed[0]


@pytest.mark.both_engines(
    "expectations over Spark Connect", "check.evaluate", "check.expectations", "check.grade", "check.evidence",
)
def test_a_table_that_keeps_its_contract_passes_with_the_best_grade(table: Table) -> None:
    outcome = table.check(*good(20))
    assert outcome.failed == ()
    assert (outcome.passed, outcome.score, outcome.grade, outcome.rows) == (True, 100.0, "A", 20)
    assert set(outcome.dimensions.values()) == {100.0}
    stored = evidence.read_evidence(outcome.result_sha256)
    assert stored["rows"] == 20
    assert len(stored["rules"]) == outcome.rules == len(stored["suite"]["expectations"])


@pytest.mark.both_engines("a rule of each kind for rows", "check.kinds", "check.examples")
@pytest.mark.parametrize(
    ("rule_id", "change", "shown"),
    [
        ("meter_code.pattern", {"meter_code": "x9"}, "***"),
        ("meter_code.length", {"meter_code": "m12345"}, "***"),
        ("meter_code.required", {"meter_code": None}, None),
        ("read_on.range", {"read_on": datetime(2019, 12, 31).date()}, "2019-12-31"),
        ("read_at.range", {"read_at": datetime(2027, 1, 1)}, "2027-01-01 00:00:00"),
        ("energy_kwh.range", {"energy_kwh": 0.0}, "0.0"),
        ("energy_kwh.range", {"energy_kwh": 100.5, "cost": "9.00"}, "100.5"),
        ("cost.range", {"cost": "-0.01", "energy_kwh": None}, "-0.01"),
        ("quality_code.enum", {"quality_code": "1"}, "1"),
        ("table.cost_follows_energy", {"cost": "0.04"}, "0.04"),
    ],
)
def test_a_row_that_breaks_a_rule_is_counted_and_shown_as_an_example(
    table: Table, rule_id: str, change: dict[str, Any], shown: str | None
) -> None:
    outcome = table.check(*good(19), {"meter_code": "m99"} | change)
    assert not outcome.passed
    assert outcome.grade == "E"
    failed = next(f for f in outcome.failed if f.rule_id == rule_id)
    assert failed.unexpected == 1
    assert isinstance(failed.example, dict)
    assert failed.example["meter_code"] in ("***", None)
    assert shown in failed.example.values()


@pytest.mark.both_engines("uniqueness by grouping")
def test_repeated_keys_are_counted_exactly(table: Table) -> None:
    failed = only(table.check(*good(5), {"meter_code": "m1"}, {"meter_code": "m1"}, {"meter_code": "m2"}))
    assert (failed.rule_id, failed.unexpected, failed.observed) == ("key.unique", 3, 2)
    assert isinstance(failed.example, dict)
    assert failed.example["meter_code"] == "***"


def test_rows_with_null_keys_are_not_duplicates_of_each_other(table: Table) -> None:
    outcome = table.check(*good(3), {"meter_code": None}, {"meter_code": None})
    assert "key.unique" not in {f.rule_id for f in outcome.failed}


@pytest.mark.both_engines("a value of the whole table")
def test_an_aggregate_of_the_table_is_compared_with_its_limit(table: Table) -> None:
    table.document["schema"][0]["quality"][2]["mustBeLessThan"] = 100
    failed = only(table.check(*good(20)))
    assert (failed.rule_id, failed.unexpected) == ("table.one_total", None)
    assert failed.dimension == "accuracy"


def test_too_few_rows_fail(table: Table) -> None:
    outcome = table.check()
    failed = {f.rule_id: f for f in outcome.failed}
    assert failed["table.rowCount"].observed == 0
    assert outcome.rows == 0
    assert not outcome.passed


@pytest.mark.both_engines("an expectation of Great Expectations")
def test_a_gx_expectation_in_the_contract_is_evaluated(table: Table) -> None:
    outcome = table.check(*[row | {"energy_kwh": 95.0, "cost": "3.00"} for row in good(4)])
    assert only(outcome).rule_id == "table.mean"


@pytest.mark.both_engines("a query of Great Expectations")
def test_a_gx_query_reads_the_batch(table: Table) -> None:
    table.document["schema"][0]["quality"][3]["implementation"] = {
        "type": "unexpected_rows_expectation",
        "kwargs": {"unexpected_rows_query": "SELECT meter_code FROM {batch} WHERE energy_kwh > 7"},
    }
    assert table.check(*good(4)).failed == ()
    assert only(table.check(*good(4), {"meter_code": "m9", "energy_kwh": 8.0})).rule_id == "table.mean"


def test_a_gx_query_works_in_the_next_session_of_the_process(table: Table) -> None:
    table.document["schema"][0]["quality"][3]["implementation"] = {
        "type": "unexpected_rows_expectation",
        "kwargs": {"unexpected_rows_query": "SELECT meter_code FROM {batch} WHERE energy_kwh > 7"},
    }
    table.check(*good(2))
    close()
    assert table.check(*good(4)).failed == ()


def test_stale_data_lowers_the_score_but_passes(table: Table) -> None:
    old = DAY - timedelta(days=3)
    outcome = table.check(*[row | {"read_on": old} for row in good(4)])
    assert outcome.passed
    failed = only(outcome)
    assert (failed.rule_id, failed.observed) == ("read_on.freshness", str(old))
    assert outcome.dimensions["timeliness"] == 0.0
    assert outcome.grade == "C"
    fresh = table.check(*[row | {"read_on": DAY - timedelta(days=2)} for row in good(4)])
    assert fresh.failed == ()


def test_a_failed_warning_lowers_the_score_by_its_share_of_rows(table: Table) -> None:
    outcome = table.check(*good(9), {"meter_code": "m99", "quality_code": None})
    failed = only(outcome)
    assert (failed.rule_id, failed.unexpected, failed.severity) == ("quality_code.nullValues", 1, "warning")
    assert outcome.passed
    assert 95 < outcome.score < 100


def test_a_rule_that_cannot_be_evaluated_fails_without_affecting_others(table: Table) -> None:
    bad = sql("odd", "SELECT COUNT(*) FROM ${table} WHERE NOT (energy_kwh[0] > 1)", mustBe=0)
    two = sql("two", "SELECT energy_kwh FROM ${table}", mustBe=0, severity="warning")
    table.document["schema"][0]["quality"] += [bad, two]
    outcome = table.check(*good(5))
    assert {f.rule_id for f in outcome.failed} == {"table.odd", "table.two"}
    assert not outcome.passed
    for failed in outcome.failed:
        assert isinstance(failed.example, str)
        assert failed.example.startswith("could not be evaluated: ")
        assert describe_failure(failed).endswith(f"): {failed.example}"), "not the number of rows found"


@pytest.mark.parametrize(
    ("implementation", "message"),
    [
        ({"type": "expect_the_best"}, "no expectation 'expect_the_best'"),
        ({"type": "expect_column_mean_to_be_between", "kwargs": {"column": "cost", "least": 1}}, "least"),
        ({"type": "expect_column_mean_to_be_between", "kwargs": {"column": "ghost"}}, "no column ghost"),
    ],
)
def test_an_unknown_gx_expectation_is_an_error_in_the_contract(
    table: Table, implementation: dict[str, Any], message: str
) -> None:
    table.document["schema"][0]["quality"][3]["implementation"] = implementation
    with pytest.raises(DeclarationError) as caught:
        table.check(*good(2))
    assert message in str(caught.value)
    assert caught.value.line
    assert "implementation" in str(caught.value.field)


def test_no_personal_value_is_in_the_evidence(table: Table) -> None:
    secret = "x777777"
    table.document["schema"][0]["properties"][0]["quality"] = [
        {"type": "custom", "name": "set", "engine": "greatExpectations", "severity": "warning",
         "implementation": {"type": "expect_column_distinct_values_to_be_in_set", "kwargs": {"value_set": ["m1"]}}},
        sql("newest", "SELECT MAX(meter_code) FROM ${table}", mustBe="m1", severity="warning"),
    ]  # fmt: skip
    row = {"meter_code": secret}
    outcome = table.check(*good(2), row, row, scope=f"meter_code IN ('{secret}', 'm1')")
    failed = {f.rule_id for f in outcome.failed}
    assert {"meter_code.pattern", "meter_code.length", "key.unique", "meter_code.set", "meter_code.newest"} <= failed
    stored = json.dumps(evidence.read_evidence(outcome.result_sha256))
    assert secret not in stored
    assert secret not in str(outcome)
    assert "***" in stored


def test_a_buyer_recomputes_the_grade_from_the_evidence(table: Table) -> None:
    rows = (
        *good(8),
        {"meter_code": "m98", "quality_code": None},
        {"meter_code": "m99", "read_on": DAY - timedelta(days=9)},
    )
    outcome = table.check(*rows, scope="read_on >= DATE '2026-01-01'")
    stored = evidence.read_evidence(outcome.result_sha256)
    again = recompute(stored)
    assert (again.score, again.grade, again.dimensions, again.passed) == (
        outcome.score, outcome.grade, outcome.dimensions, outcome.passed,
    )  # fmt: skip
    assert (stored["table"], stored["delta_version"]) == ("gold.profile", 7)
    assert stored["scope"] == "read_on >= DATE '2026-01-01'"
    assert (stored["run_id"], stored["logical_date"]) == ("r1", NOW.isoformat())
    assert stored["contract_sha256"] == load_contract("gold.profile").digest
    assert evidence.digest_of(stored["suite"]) == stored["suite_sha256"] == outcome.suite_digest


def test_more_row_rules_need_no_more_queries(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    collect = DataFrame.collect

    def counted(self: DataFrame) -> Any:
        sent.append(1)
        return collect(self)

    monkeypatch.setattr(DataFrame, "collect", counted)
    table.check(*good(3))
    few = len(sent)
    table.document["schema"][0]["quality"] += [
        sql(f"more_{n}", f"SELECT COUNT(*) FROM ${{table}} WHERE NOT (energy_kwh < {100 + n})", mustBe=0)
        for n in range(20)
    ]
    sent.clear()
    assert table.check(*good(3)).passed
    assert 0 < len(sent) == few


def test_checking_the_same_version_twice_gives_the_same_evidence(table: Table) -> None:
    first, second = table.check(*good(3)), table.check(*good(3))
    assert first.result_sha256 == second.result_sha256
    assert len(list(evidence.digests())) == 1


def test_the_suite_depends_on_the_contract_alone(table: Table) -> None:
    first = table.check(*good(3))
    assert table.check({"quality_code": "9"}).suite_digest == first.suite_digest
    table.document["schema"][0]["quality"][0]["mustBeBetween"] = [2, 1000]
    assert table.check(*good(3)).suite_digest != first.suite_digest
