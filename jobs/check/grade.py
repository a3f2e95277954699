"""Turns the results of rules into a score per dimension, a total and a grade that a buyer can recompute.

Every rule weighs the same, whatever its severity, except ``info`` rules, which do not count. A rule about rows scores
the share of rows that satisfy it; a rule about the whole table scores 1 or 0. A dimension's score is the mean of its
rules, the total is the mean over the assessed dimensions, both out of 100. A dimension without rules is not assessed
(None) and caps the grade at C. A failed rule of severity ``error`` gives E, whatever the score. The arithmetic is
exact; shown scores are truncated, not rounded, to four decimals, so that a shown 95 is never a B.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from jobs.declared.rules import DIMENSIONS

WEIGHTS = {"error": 1, "warning": 1, "info": 0}
THRESHOLDS = (("A", 95), ("B", 90), ("C", 80), ("D", 60), ("E", 0))
_CAP = "C"
_DECIMALS = 10**4


@dataclass(frozen=True)
class RuleResult:
    """Whether a rule passed, and what its result counts for.

    Attributes:
        unexpected: rows that break the rule; None if the rule is about the whole table.
    """

    dimension: str
    severity: str
    passed: bool
    unexpected: int | None = None


@dataclass(frozen=True)
class Grade:
    """A table's quality: total 0 to 100, letter, and score per dimension (None if no rule assesses it)."""

    passed: bool
    score: float
    grade: str
    dimensions: dict[str, float | None]


def grade(results: Iterable[RuleResult], rows: int) -> Grade:
    """Score and grade the results of one check of a number of rows."""
    results = tuple(results)
    exact = {name: _dimension([r for r in results if r.dimension == name], rows) for name in DIMENSIONS}
    assessed = [score for score in exact.values() if score is not None]
    total = sum(assessed, Fraction(0)) / len(assessed) if assessed else Fraction(0)
    passed = all(r.passed for r in results if r.severity == "error")
    return Grade(
        passed=passed,
        score=_truncated(total),
        grade=_letter(total, complete=len(assessed) == len(exact)) if passed else "E",
        dimensions={name: None if score is None else _truncated(score) for name, score in exact.items()},
    )


def recompute(evidence: Mapping[str, Any]) -> Grade:
    """Grade an evidence document anew, from the rule results that it records."""
    results = (
        RuleResult(rule["dimension"], rule["severity"], rule["success"], rule["unexpected"] if rule["by_row"] else None)
        for rule in evidence["rules"]
    )
    return grade(results, _rows(evidence))


def explain(evidence: Mapping[str, Any]) -> tuple[str, ...]:
    """Why a check's grade is what it is, a sentence for each reason: caps, failed rules, the next better grade."""
    graded, rows = recompute(evidence), _rows(evidence)
    broken = [rule for rule in evidence["rules"] if not rule["success"]]
    errors = [rule["id"] for rule in broken if rule["severity"] == "error"]
    reasons = [f"graded E because rules of severity error failed: {', '.join(errors)}"] if errors else []
    missing = [name for name, score in graded.dimensions.items() if score is None]
    if missing:
        reasons.append(f"graded {_CAP} at best because no rule assesses {', '.join(missing)}")
    for rule in broken:
        if WEIGHTS[rule["severity"]]:
            by_rows = rule["by_row"] and rule["unexpected"] is not None
            extent = f"in {rule['unexpected']:,} of {rows:,} rows" if by_rows else "for the table as a whole"
            reasons.append(f"{rule['id']} ({rule['severity']}) lowers {rule['dimension']}: it fails {extent}")
    better = [(name, minimum) for name, minimum in THRESHOLDS if minimum > graded.score]
    if better and not errors:
        name, minimum = better[-1]
        reasons.append(f"grade {name} needs a score of {minimum}; this one is {graded.score:.1f}")
    return tuple(reasons)


def _rows(evidence: Mapping[str, Any]) -> int:
    # Earlier documents count the rows of their scope only.
    return int(evidence.get("table_rows", evidence["rows"]))


def _dimension(results: list[RuleResult], rows: int) -> Fraction | None:
    weight = sum(WEIGHTS[r.severity] for r in results)
    if not weight:
        return None
    return 100 * sum((WEIGHTS[r.severity] * _ratio(r, rows) for r in results), Fraction(0)) / weight


def _ratio(result: RuleResult, rows: int) -> Fraction:
    if result.passed:
        return Fraction(1)
    if result.unexpected is None or rows <= 0:
        return Fraction(0)
    return max(Fraction(0), 1 - Fraction(result.unexpected, rows))


def _letter(total: Fraction, *, complete: bool) -> str:
    letter = next(name for name, minimum in THRESHOLDS if total >= minimum)
    return letter if complete else max(letter, _CAP)


def _truncated(score: Fraction) -> float:
    return int(score * _DECIMALS) / _DECIMALS
