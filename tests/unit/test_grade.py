"""The score rises with better data, is capped where nothing was checked, and can be recomputed from the evidence."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.check import evidence
from jobs.check.grade import RuleResult, explain, grade, recompute
from jobs.declared.rules import DIMENSIONS
from jobs.errors import NotFound, Tampered

ROWS = 1000


@st.composite
def rule_results(draw: st.DrawFn, severities: tuple[str, ...] = ("error", "warning", "info")) -> list[RuleResult]:
    def one() -> RuleResult:
        unexpected = draw(st.one_of(st.none(), st.integers(0, ROWS)))
        passed = draw(st.booleans()) if unexpected is None else unexpected == 0
        return RuleResult(draw(st.sampled_from(DIMENSIONS)), draw(st.sampled_from(severities)), passed, unexpected)

    return [one() for _ in range(draw(st.integers(0, 12)))]


@given(rule_results())
def test_scores_stay_within_bounds(results: list[RuleResult]) -> None:
    result = grade(results, ROWS)
    assert 0 <= result.score <= 100
    assert result.grade in "ABCDE"
    for score in result.dimensions.values():
        assert score is None or 0 <= score <= 100
    assert tuple(result.dimensions) == DIMENSIONS


@given(rule_results(), st.data())
def test_fixing_a_rule_never_lowers_score_or_grade(results: list[RuleResult], data: st.DataObject) -> None:
    if not results:
        return
    before = grade(results, ROWS)
    position = data.draw(st.integers(0, len(results) - 1))
    fixed = list(results)
    fixed[position] = replace(fixed[position], passed=True, unexpected=0)
    after = grade(fixed, ROWS)
    assert after.score >= before.score
    assert after.grade <= before.grade
    assert after.passed >= before.passed


@given(rule_results())
def test_a_failed_error_rule_grades_e_and_nothing_else_fails_a_table(results: list[RuleResult]) -> None:
    result = grade(results, ROWS)
    broken = any(not f.passed for f in results if f.severity == "error")
    assert result.passed != broken
    if broken:
        assert result.grade == "E"


@given(rule_results(("warning",)))
def test_an_unassessed_dimension_caps_the_grade_at_c(results: list[RuleResult]) -> None:
    result = grade(results, ROWS)
    assert result.passed
    assert {n for n, s in result.dimensions.items() if s is None} == set(DIMENSIONS) - {f.dimension for f in results}
    if None in result.dimensions.values():
        assert result.grade >= "C"


@given(rule_results())
def test_info_rules_never_count(results: list[RuleResult]) -> None:
    counted = [f for f in results if f.severity != "info"]
    assert grade(results, ROWS) == grade(counted, ROWS)


@pytest.mark.parametrize(
    ("unexpected", "letter"),
    [(0, "A"), (50, "A"), (51, "B"), (100, "B"), (101, "C"), (200, "C"), (201, "D"), (400, "D"), (401, "E")],
)  # fmt: skip
def test_grade_thresholds_are_exact(unexpected: int, letter: str) -> None:
    results = [RuleResult(d, "warning", passed=unexpected == 0, unexpected=unexpected) for d in DIMENSIONS]
    result = grade(results, ROWS)
    assert result.grade == letter
    assert result.score == pytest.approx(100 - unexpected / 10)


def test_a_score_just_below_a_threshold_is_not_rounded_up_to_it() -> None:
    results = [RuleResult(d, "warning", passed=False, unexpected=50_000_001) for d in DIMENSIONS]
    result = grade(results, 1_000_000_000)
    assert (result.grade, result.score) == ("B", 94.9999)


def test_an_empty_table_scores_by_whether_its_rules_passed() -> None:
    assert grade([RuleResult("completeness", "warning", passed=True, unexpected=0)], 0).score == 100
    assert grade([RuleResult("completeness", "warning", passed=False)], 0).score == 0


@given(rule_results(), st.integers(1, 10**9))
def test_the_grade_is_recomputed_from_the_evidence_alone(results: list[RuleResult], rows: int) -> None:
    document = {
        "rows": rows,
        "rules": [
            {"dimension": f.dimension, "severity": f.severity, "success": f.passed, "by_row": f.unexpected is not None,
             "unexpected": f.unexpected}
            for f in results
        ],
    }  # fmt: skip
    assert recompute(evidence.plain(document)) == grade(results, rows)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path))
    return tmp_path


def test_evidence_is_kept_once_under_its_digest(home: Path) -> None:
    document = {"b": [1.5, None, True], "a": "é", "when": {"large": 2**60}}
    digest = evidence.keep(document)
    file = home / "evidence" / f"{digest}.json"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
    stamp = file.stat().st_mtime_ns
    assert evidence.keep(dict(reversed(document.items()))) == digest
    assert file.stat().st_mtime_ns == stamp
    assert evidence.read_evidence(digest) == {"a": "é", "b": [1.5, None, True], "when": {"large": str(2**60)}}
    assert list(evidence.digests()) == [digest]
    assert [f.name for f in file.parent.iterdir()] == [file.name]


def test_changed_evidence_is_refused(home: Path) -> None:
    digest = evidence.keep({"score": 40.0})
    file = home / "evidence" / f"{digest}.json"
    file.write_bytes(file.read_bytes().replace(b"40", b"99"))
    with pytest.raises(Tampered, match="changed"):
        evidence.read_evidence(digest)
    with pytest.raises(Tampered):
        evidence.keep({"score": 40.0})


@pytest.mark.usefixtures("home")
def test_missing_evidence_is_reported() -> None:
    with pytest.raises(NotFound, match="0" * 64):
        evidence.read_evidence("0" * 64)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.dates(), st.decimals()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


@given(JSON)
def test_anything_observed_has_a_digest(value: Any) -> None:
    assert evidence.digest_of(value) == evidence.digest_of(evidence.plain(value))


def evidence_of(*rules: tuple[str, str, str, bool, int | None]) -> dict[str, Any]:
    """An evidence document on 200 rows: id, dimension, severity, whether it passed, rows that break it."""
    fields = ("id", "dimension", "severity", "success", "unexpected")
    return {
        "rows": 200,
        "rules": [dict(zip(fields, rule, strict=True)) | {"by_row": rule[4] is not None} for rule in rules],
    }


def test_a_grade_is_explained() -> None:
    everything = [(f"{name}.ok", name, "error", True, 0) for name in DIMENSIONS]
    assert explain(evidence_of(*everything)) == ()

    rules = ("kwh.range", "validity", "warning", False, 150), ("n", "accuracy", "info", False, 9)
    slipping = evidence_of(*everything, *rules)
    assert grade_of(slipping) == "B"
    assert explain(slipping) == (
        "kwh.range (warning) lowers validity: it fails in 150 of 200 rows",
        "grade A needs a score of 95; this one is 93.8",
    )
    capped = evidence_of(everything[0], ("table.sum", everything[0][1], "error", True, None))
    (cap,) = explain(capped)
    assert cap == f"graded C at best because no rule assesses {', '.join(DIMENSIONS[1:])}"
    failed = evidence_of(*everything, ("table.enough", "completeness", "error", False, None))
    assert (grade_of(failed), explain(failed)) == (
        "E",
        (
            "graded E because rules of severity error failed: table.enough",
            "table.enough (error) lowers completeness: it fails for the table as a whole",
        ),
    )


def grade_of(evidence: dict[str, Any]) -> str:
    return recompute(evidence).grade
