"""Turns what expectations found into a score per dimension, a total and a grade that a buyer can recompute.

Every rule weighs the same, whatever its severity, except that ``info`` rules inform and do not count. A rule about
rows scores the share of rows that keep it; a rule about the whole table scores 1 or 0. A dimension's score is the mean
of its rules, the total is the mean over the assessed dimensions, both out of 100. A dimension that nothing checks is
not assessed (None) and caps the grade at C. A failed rule of severity ``error`` gives E, whatever the score. The
arithmetic is exact; shown scores are cut, not rounded, to four decimals, so that a shown 95 is never a B.
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
class Finding:
    """What a rule came to.

    Attributes:
        unexpected: rows that break the rule; None where the rule is about the whole table.
    """

    dimension: str
    severity: str
    passed: bool
    unexpected: int | None = None


@dataclass(frozen=True)
class Grade:
    """A table's quality: total 0 to 100, letter, and score per dimension (None where nothing checks it)."""

    passed: bool
    score: float
    grade: str
    dimensions: dict[str, float | None]


def grade(findings: Iterable[Finding], rows: int) -> Grade:
    """Score and grade the findings of one check over so many rows."""
    found = tuple(findings)
    exact = {name: _dimension([f for f in found if f.dimension == name], rows) for name in DIMENSIONS}
    assessed = [score for score in exact.values() if score is not None]
    total = sum(assessed, Fraction(0)) / len(assessed) if assessed else Fraction(0)
    passed = all(f.passed for f in found if f.severity == "error")
    return Grade(
        passed=passed,
        score=_shown(total),
        grade=_letter(total, complete=len(assessed) == len(exact)) if passed else "E",
        dimensions={name: None if score is None else _shown(score) for name, score in exact.items()},
    )


def recompute(evidence: Mapping[str, Any]) -> Grade:
    """The grade that a kept evidence document implies, from its own observations."""
    findings = (
        Finding(rule["dimension"], rule["severity"], rule["success"], rule["unexpected"] if rule["by_row"] else None)
        for rule in evidence["rules"]
    )
    return grade(findings, evidence["rows"])


def _dimension(findings: list[Finding], rows: int) -> Fraction | None:
    weight = sum(WEIGHTS[f.severity] for f in findings)
    if not weight:
        return None
    return 100 * sum((WEIGHTS[f.severity] * _ratio(f, rows) for f in findings), Fraction(0)) / weight


def _ratio(finding: Finding, rows: int) -> Fraction:
    if finding.passed:
        return Fraction(1)
    if finding.unexpected is None or rows <= 0:
        return Fraction(0)
    return max(Fraction(0), 1 - Fraction(finding.unexpected, rows))


def _letter(total: Fraction, *, complete: bool) -> str:
    letter = next(name for name, least in THRESHOLDS if total >= least)
    return letter if complete else max(letter, _CAP)


def _shown(score: Fraction) -> float:
    return int(score * _DECIMALS) / _DECIMALS
