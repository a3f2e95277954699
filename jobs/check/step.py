"""Check: run a table's expectations on the version just built, and move its pointer there only if they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jobs import lake
from jobs.check.blocks import blocked
from jobs.check.elsewhere import NOTHING, Elsewhere, left_out
from jobs.declared.catalog import Product, Source
from jobs.declared.compile import compile_rules
from jobs.declared.contract import Contract, load_contract
from jobs.declared.rules import Rule
from jobs.errors import ExchangeError, ExpectationsFailed
from jobs.lake.engine_errors import translate_engine_errors
from jobs.lake.partitions import follow_key
from jobs.lake.pointers import confirm, move, pointer, take_back
from jobs.lake.views import current_rows, keeps_revisions
from jobs.registry.checks import add_check
from jobs.registry.models import Check, Pointer, Run
from jobs.registry.runs import Counts, Status, StepOutcome, check_before, last_build, leaving

if TYPE_CHECKING:
    from jobs.check.evaluate import FailedRule, RuleOutcome

Partitions = Sequence[lake.Partition]


def run(subject: Source | Product, logical_date: datetime, run_id: str) -> StepOutcome:
    """The step, as `jobs.flow` calls it; see `check`."""
    return check(subject.table, logical_date, run_id)


def check(table: str, logical_date: datetime, run_id: str) -> StepOutcome:
    """Evaluate the newest version of a table, then move the pointer to it or, if it fails, take it back.

    The checked version is evaluated again if its contract has changed without asking for a rebuild.
    Only partitions that changed since the checked version are evaluated, as long as the contract is the same and all
    its rules can be decided partition by partition.

    Raises:
        ExpectationsFailed: a rule of severity error failed; the message names each with an example. Also if one failed
            last time and nothing was built since: asking again must not look like passing.
        ExchangeError: no recorded build produced the newest version.
    """
    current = pointer(table)
    head = lake.version(table)
    if current and current.head_version == head and _needs_recheck(table, current):
        return _check_again(table, current, logical_date, run_id)
    if head is None or (current and current.head_version == head):
        _refuse_failed(table, current)
        if current is None:
            return StepOutcome(status="unchanged")
        status: Status = "succeeded" if _was_cut_off(table, current) else "unchanged"
        return StepOutcome(status, output_version=current.delta_version)
    built = last_build(table, head)
    if built is None:
        if current is None and not lake.rows(table):
            _refuse_failed(table, current)
            return StepOutcome(status="unchanged")
        raise ExchangeError(
            f"{table} version {head} comes from an unfinished build",
            next_step=f"run the build again: exchange {table.split('.')[0]} {table.split('.')[1]}",
        )
    contract = load_contract(table)
    rules = compile_rules(contract)
    changed = _changed(table, contract, rules, current, head)
    with translate_engine_errors(contract.file):
        elsewhere = NOTHING
        if current and changed is not None:
            known = _left_out(table, contract, rules, current, changed, logical_date)
            changed, elsewhere = (changed, known) if known else (None, NOTHING)
        outcome = _evaluate(table, contract, head, changed, logical_date, run_id, elsewhere)
        if changed is not None and {f.rule_id for f in outcome.failed} & _fail_only_on_all_rows(rules, contract):
            changed = None
            outcome = _evaluate(table, contract, head, changed, logical_date, run_id)
    scope = lake.predicate(changed) if changed is not None else None
    row = _row(table, head, contract, outcome, scope, run_id)
    checked = StepOutcome(counts=Counts(rows_in=outcome.rows), output_version=head, message=_summary(outcome))
    with leaving(checked):
        _decide(row, outcome, built, current)
    return checked


def _refuse_failed(table: str, current: Pointer | None) -> None:
    block = blocked([table]).get(table)
    if block:
        raise _failure(table, list(block.errors), current, f"nothing was built since version {block.version} failed")


def _needs_recheck(table: str, current: Pointer) -> bool:
    from jobs.declared.catalog import find_source
    from jobs.silver.step import needs_recheck

    layer, name = table.split(".", 1)
    # Any change of a product's contract rebuilds the product, because its releases contain the contract.
    return layer == "silver" and needs_recheck(find_source(name), load_contract(table), current)


def _check_again(table: str, current: Pointer, logical_date: datetime, run_id: str) -> StepOutcome:
    contract = load_contract(table)
    with translate_engine_errors(contract.file):
        outcome = _evaluate(table, contract, current.delta_version, None, logical_date, run_id)
    row = _row(table, current.delta_version, contract, outcome, None, run_id)
    checked = StepOutcome(
        counts=Counts(rows_in=outcome.rows), output_version=current.delta_version, message=_summary(outcome)
    )
    with leaving(checked):
        if not outcome.passed:
            add_check(row)
            raise _failure(table, _errors(outcome), current)
        confirm(table, row)
    return checked


def _was_cut_off(table: str, current: Pointer) -> bool:
    """Whether the previous check moved the pointer but was killed before it could record its success."""
    before = check_before(table)
    return before is not None and before.status == "running" and before.started_at <= current.moved_at


def _evaluate(
    table: str, contract: Contract, head: int, changed: Partitions | None, logical_date: datetime, run_id: str,
    elsewhere: Elsewhere = NOTHING,
) -> RuleOutcome:  # fmt: skip
    from jobs.check.evaluate import evaluate

    frame = current_rows(table, head)
    scope = lake.predicate(changed) if changed is not None else None
    return evaluate(
        frame.where(scope) if scope else frame, contract, delta_version=head, scope=scope, logical_date=logical_date,
        run_id=run_id, rows=_rows(table, head, changed), elsewhere=elsewhere,
    )  # fmt: skip


def _left_out(
    table: str, contract: Contract, rules: Sequence[Rule], current: Pointer, changed: Partitions, logical_date: datetime
) -> Elsewhere | None:
    """What the check of the pointer's version says of the rows outside the partitions that changed since."""

    def found_before(some: Sequence[Rule]) -> tuple[int, Mapping[str, int | None]]:
        from jobs.check.evaluate import count_broken

        version = current.delta_version
        frame = current_rows(table, version).where(lake.predicate(changed))
        rows = _rows(table, version, changed)
        return frame.count() if rows is None else rows, count_broken(frame, contract, some, logical_date)

    return left_out(current.check, contract, rules, found_before)


def _rows(table: str, head: int, changed: Partitions | None) -> int | None:
    """Number of rows to check, from the Delta log; None for revisions, as the log does not say which are current."""
    if keeps_revisions(table, head):
        return None
    return sum(f.rows for f in lake.files(table, head) if changed is None or f.partition in changed)


def _changed(
    table: str, contract: Contract, rules: Sequence[Rule], current: Pointer | None, head: int
) -> Partitions | None:
    """The changed partitions, if checking them and relying on earlier checks of the rest is enough; None: all rows."""
    if current is None or not contract.partitions or current.contract_digest != contract.digest:
        return None
    if any(r.kind.partial(r, contract.key) == "says_nothing" for r in rules) or not follow_key(contract):
        return None
    return lake.changed_partitions(table, current.delta_version, head)


def _fail_only_on_all_rows(rules: Sequence[Rule], contract: Contract) -> set[str]:
    """Rules that pass for the table if they pass for the changed rows, but whose failure only all rows can show."""
    return {r.id for r in rules if r.kind.partial(r, contract.key) == "may_pass"}


def _decide(row: Check, outcome: RuleOutcome, built: Run, current: Pointer | None) -> None:
    table = row.table_name
    if outcome.passed:
        inputs = built.input or {}
        move(
            table, row.delta_version, check=row, landing_id=inputs.get("landing_id"),
            inputs=inputs if "tables" in inputs else None, run_id=row.run_id,
        )  # fmt: skip
        return
    add_check(row)
    take_back(table, current)
    raise _failure(table, _errors(outcome), current)


def _row(table: str, version: int, contract: Contract, outcome: RuleOutcome, scope: str | None, run_id: str) -> Check:
    return Check(
        table_name=table, delta_version=version, contract_digest=contract.digest,
        suite_digest=outcome.suite_digest, result_sha256=outcome.result_sha256, passed=outcome.passed,
        score=outcome.score, grade=outcome.grade, dimensions=dict(outcome.dimensions),
        scope={"where": scope, "failed": [describe_failure(f) for f in outcome.failed]},
        run_id=run_id, checked_at=datetime.now(UTC),
    )  # fmt: skip


def _summary(outcome: RuleOutcome) -> str:
    return f"grade {outcome.grade}, score {outcome.score:.1f}, {outcome.rules} rules"


def _errors(outcome: RuleOutcome) -> list[str]:
    return [describe_failure(f) for f in outcome.failed if f.severity == "error"]


def describe_failure(failed: FailedRule) -> str:
    """A failed rule in one line: id, severity, description, how often it failed and an example."""
    rule = f"{failed.rule_id} ({failed.severity}: {failed.description}): "
    if failed.unexpected is None and failed.observed is None and failed.example is not None:
        return f"{rule}{failed.example}"
    count = f"{failed.unexpected} rows" if failed.unexpected is not None else f"found {failed.observed}"
    example = f", for example {failed.example}" if failed.example is not None else ""
    return f"{rule}{count}{example}"


def _failure(table: str, errors: list[str], current: Pointer | None, since: str = "") -> ExpectationsFailed:
    kept = (
        f"version {current.delta_version} remains the checked version" if current
        else "the table has no checked version"
    )  # fmt: skip
    failures = f"{len(errors)} expectation{'s' if len(errors) != 1 else ''} failed: " + "; ".join(errors)
    return ExpectationsFailed(
        f"{since}: {failures}" if since else failures,
        where=table,
        next_step=f"{kept}; see `exchange quality {table}`, then correct the source or the contract and run again",
    )
