"""Check: run a table's expectations on the version just built, and move its pointer there only if they hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jobs import lake
from jobs.declared.catalog import Product, Source
from jobs.declared.compile import compile_rules
from jobs.declared.contract import Contract, load_contract
from jobs.declared.rules import Rule
from jobs.errors import ExchangeError, ExpectationsFailed
from jobs.lake.engine_errors import translate_engine_errors
from jobs.lake.partitions import follow_key
from jobs.lake.pointers import confirm, move, pointer, take_back
from jobs.lake.views import current_rows, keeps_revisions
from jobs.registry.checks import add_check, latest_checks
from jobs.registry.models import Check, Pointer, Run
from jobs.registry.runs import Counts, Status, StepOutcome, check_before, last_build, leaving, was_built_since

if TYPE_CHECKING:
    from jobs.check.evaluate import Outcome

Partitions = Sequence[lake.Partition]


def run(subject: Source | Product, logical_date: datetime, run_id: str) -> StepOutcome:
    """The step, as `jobs.flow` calls it; see `check`."""
    return check(subject.table, logical_date, run_id)


def check(table: str, logical_date: datetime, run_id: str) -> StepOutcome:
    """Evaluate the newest version of a table and let the pointer stand on it, or take the version back.

    A version that stands already is evaluated again if the contract has changed in what leaves its rows as they are.
    Only partitions that changed since the checked version are evaluated, as long as the contract is the same one and
    all its rules can be decided partition by partition.

    Raises:
        ExpectationsFailed: a rule of severity error failed; the message names each with an example. Also, where nothing
            was built since, if one failed last time: asking again must not look like passing.
        ExchangeError: the newest version was made by no recorded build.
    """
    stands = pointer(table)
    head = lake.version(table)
    if stands and stands.head_version == head and _is_to_be_checked_again(table, stands):
        return _check_again(table, stands, logical_date, run_id)
    if head is None or (stands and stands.head_version == head):
        _refuse_failed(table, stands)
        if stands is None:
            return StepOutcome(status="unchanged")
        status: Status = "succeeded" if _was_cut_off(table, stands) else "unchanged"
        return StepOutcome(status, output_version=stands.delta_version)
    built = last_build(table, head)
    if built is None:
        if stands is None and not lake.rows(table):
            _refuse_failed(table, stands)
            return StepOutcome(status="unchanged")
        raise ExchangeError(
            f"version {head} of {table} was left by a build that did not end",
            next_step=f"run the build again: exchange {table.split('.')[0]} {table.split('.')[1]}",
        )
    contract = load_contract(table)
    rules = compile_rules(contract)
    changed = _changed(table, contract, rules, stands, head)
    with translate_engine_errors(contract.file):
        outcome = _evaluated(table, contract, head, changed, logical_date, run_id)
        if changed is not None and {f.rule_id for f in outcome.failed} & _decided_by_all(rules, contract):
            changed = None
            outcome = _evaluated(table, contract, head, changed, logical_date, run_id)
    scope = lake.predicate(changed) if changed is not None else None
    row = _row(table, head, contract, outcome, scope, run_id)
    checked = StepOutcome(counts=Counts(rows_in=outcome.rows), output_version=head, message=_told(outcome))
    with leaving(checked):
        _decide(row, outcome, built, stands)
    return checked


def _refuse_failed(table: str, stands: Pointer | None) -> None:
    last = next(iter(latest_checks(table, limit=1)), None)
    if last is None or last.passed:
        return
    if stands and last.delta_version == stands.delta_version:
        # It failed an earlier contract; by the one of now it passed.
        return
    if not was_built_since(table, last.checked_at):
        errors = [told for told in (last.scope or {}).get("failed") or [] if " (error: " in told]
        raise _failure(table, errors, stands, f"nothing was built since version {last.delta_version} failed")


def _is_to_be_checked_again(table: str, stands: Pointer) -> bool:
    from jobs.declared.catalog import find_source
    from jobs.silver.step import is_to_be_checked_again

    layer, name = table.split(".", 1)
    # A product is built anew whatever changes in its contract, which its release has in it.
    return layer == "silver" and is_to_be_checked_again(find_source(name), load_contract(table), stands)


def _check_again(table: str, stands: Pointer, logical_date: datetime, run_id: str) -> StepOutcome:
    contract = load_contract(table)
    with translate_engine_errors(contract.file):
        outcome = _evaluated(table, contract, stands.delta_version, None, logical_date, run_id)
    row = _row(table, stands.delta_version, contract, outcome, None, run_id)
    checked = StepOutcome(
        counts=Counts(rows_in=outcome.rows), output_version=stands.delta_version, message=_told(outcome)
    )
    with leaving(checked):
        if not outcome.passed:
            add_check(row)
            raise _failure(table, _errors(outcome), stands)
        confirm(table, row)
    return checked


def _was_cut_off(table: str, stands: Pointer) -> bool:
    """Whether the check before this one moved the pointer and was killed before it could tell anyone."""
    before = check_before(table)
    return before is not None and before.status == "running" and before.started_at <= stands.moved_at


def _evaluated(
    table: str, contract: Contract, head: int, changed: Partitions | None, logical_date: datetime, run_id: str
) -> Outcome:
    from jobs.check.evaluate import evaluate

    frame = current_rows(table, head)
    scope = lake.predicate(changed) if changed is not None else None
    return evaluate(
        frame.where(scope) if scope else frame, contract, delta_version=head, scope=scope, logical_date=logical_date,
        run_id=run_id, rows=_rows(table, head, changed),
    )  # fmt: skip


def _rows(table: str, head: int, changed: Partitions | None) -> int | None:
    """Number of rows to check, as the log tells it; it does not tell which of them are current."""
    if keeps_revisions(table, head):
        return None
    return sum(f.rows for f in lake.files(table, head) if changed is None or f.partition in changed)


def _changed(
    table: str, contract: Contract, rules: Sequence[Rule], stands: Pointer | None, head: int
) -> Partitions | None:
    """The partitions that changed, if what holds of them and held before holds of all; None for all rows."""
    if stands is None or not contract.partitions or stands.contract_digest != contract.digest:
        return None
    if any(r.kind.partial(r, contract.key) == "says_nothing" for r in rules) or not follow_key(contract):
        return None
    return lake.changed_partitions(table, stands.delta_version, head)


def _decided_by_all(rules: Sequence[Rule], contract: Contract) -> set[str]:
    """Rules that hold of all rows if they hold of some, and whose failure only all rows can tell."""
    return {r.id for r in rules if r.kind.partial(r, contract.key) == "may_pass"}


def _decide(row: Check, outcome: Outcome, built: Run, stands: Pointer | None) -> None:
    table = row.table_name
    if outcome.passed:
        inputs = built.input or {}
        move(
            table, row.delta_version, check=row, landing_id=inputs.get("landing_id"),
            inputs=inputs if "tables" in inputs else None, run_id=row.run_id,
        )  # fmt: skip
        return
    add_check(row)
    take_back(table, stands)
    raise _failure(table, _errors(outcome), stands)


def _row(table: str, version: int, contract: Contract, outcome: Outcome, scope: str | None, run_id: str) -> Check:
    return Check(
        table_name=table, delta_version=version, contract_digest=contract.digest,
        suite_digest=outcome.suite_digest, result_sha256=outcome.result_sha256, passed=outcome.passed,
        score=outcome.score, grade=outcome.grade, dimensions=dict(outcome.dimensions),
        scope={"where": scope, "failed": [_shown(f) for f in outcome.failed]},
        run_id=run_id, checked_at=datetime.now(UTC),
    )  # fmt: skip


def _told(outcome: Outcome) -> str:
    return f"grade {outcome.grade}, score {outcome.score:.1f}, {outcome.rules} rules"


def _errors(outcome: Outcome) -> list[str]:
    return [_shown(f) for f in outcome.failed if f.severity == "error"]


def _shown(failed: Any) -> str:
    example = f", such as {failed.example}" if failed.example is not None else ""
    count = f"{failed.unexpected} rows" if failed.unexpected is not None else f"found {failed.observed}"
    told = f"{failed.rule_id} ({failed.severity}: {failed.description}): "
    if failed.unexpected is None and failed.observed is None and failed.example is not None:
        return f"{told}{failed.example}"
    return f"{told}{count}{example}"


def _failure(table: str, errors: list[str], stands: Pointer | None, since: str = "") -> ExpectationsFailed:
    kept = f"version {stands.delta_version} stays the checked one" if stands else "the table has no checked version"
    told = f"{len(errors)} expectation{'s' if len(errors) != 1 else ''} failed: " + "; ".join(errors)
    return ExpectationsFailed(
        f"{since}: {told}" if since else told,
        where=table,
        next_step=f"{kept}; see `exchange quality {table}`, then correct the source or the contract and run again",
    )
