"""What is known of the partitions that a check leaves out, so that its grade is the whole table's.

Only partitions that changed are evaluated again. Rows elsewhere that break a rule of severity warning still count:
their number is that of the check before, less those that it found where partitions have changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.check.evidence import read_evidence
from jobs.declared.contract import Contract
from jobs.declared.rules import Rule
from jobs.errors import ExchangeError
from jobs.registry.models import Check


@dataclass(frozen=True)
class Elsewhere:
    """The rows outside a check's scope.

    Attributes:
        rows: how many there are.
        broken: rows there that break a rule, by rule; only rules that any breaks.
        evidence: sha256 of the evidence that this follows from.
    """

    rows: int = 0
    broken: Mapping[str, int] = field(default_factory=dict)
    evidence: str = ""

    def document(self) -> dict[str, Any]:
        """What the evidence of a check says about rows outside its scope; empty if there are none."""
        if not self.rows and not self.broken:
            return {}
        return {"elsewhere": {"rows": self.rows, "broken": dict(self.broken), "evidence": self.evidence}}


NOTHING = Elsewhere()


def left_out(
    before: Check | None, contract: Contract, rules: Sequence[Rule],
    found_before: Callable[[Sequence[Rule]], tuple[int, Mapping[str, int | None]]],
) -> Elsewhere | None:  # fmt: skip
    """The rows of a table outside its changed partitions; None if that is unknown, so that all must be evaluated.

    Args:
        before: the check of the version that the partitions changed since.
        contract: the contract of both versions.
        rules: its rules.
        found_before: gives, for the changed partitions as they were then, the number of rows, and of rows that break
            each of some rules (None if it cannot be told).
    """
    if before is None:
        return None
    try:
        evidence = read_evidence(before.result_sha256)
    except ExchangeError:
        return None
    rows = evidence.get("table_rows", evidence.get("rows") if evidence.get("scope") is None else None)
    if rows is None:
        return None
    failed = {entry["id"]: entry["unexpected"] for entry in evidence["rules"] if not entry["success"]}
    # A rule that may pass on changed rows alone passes for the table if it does, whatever it did before.
    summed = [r for r in rules if r.id in failed and r.kind.partial(r, contract.key) == "decides"]
    rows_then, broken_then = found_before(summed)
    broken: dict[str, int] = {}
    for rule in summed:
        total, there = failed[rule.id], broken_then.get(rule.id)
        if total is None or there is None:
            return None
        if total > there:
            broken[rule.id] = total - there
    return Elsewhere(rows - rows_then, broken, before.result_sha256)
