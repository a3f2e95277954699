"""Has Great Expectations decide, on the Delta version just built, whether a table satisfies its contract.

A first pass over all expectations asks GX only for yes or no; a second asks for counts and examples of those that
failed. An expectation that cannot be evaluated has failed. Values of personal columns are masked before anything is
stored or shown, because the evidence goes to buyers.

However many row rules it has, a table that passes costs GX one aggregate query and one grouping by a hash of the key.
Measured on Sail, 2 cores, as processor time for 8 row rules, a key of text and instant, and freshness, relative to the
same rules as two plain SQL statements (one aggregate, one grouping by the key): 1.1 times at 2 million rows, 0.7 times
at 10 million; with GX's own `UnexpectedRowsExpectation` for the key: 1.75 and 1.25 times; with its detailed result for
all rules: 2 and 1.25 times. The part that does not grow with the rows is GX's own work in Python, a tenth of a second.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from jobs.check import evidence
from jobs.check.elsewhere import NOTHING, Elsewhere
from jobs.check.examples import MASK, personal_columns
from jobs.check.grade import WEIGHTS, Grade, RuleResult, grade
from jobs.declared.compile import compile_rules
from jobs.declared.contract import Contract
from jobs.declared.rules import Rule
from jobs.lake import ping

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.datasource.fluent.interfaces import Batch
    from great_expectations.expectations.expectation import Expectation
    from pyspark.sql import DataFrame, SparkSession

# The counts in GX's results, which reveal no value; everything else in the result of a personal column is masked.
_COUNTS = frozenset({"element_count", "missing_count", "missing_percent", "unexpected_count", "unexpected_percent",
                     "unexpected_percent_total", "unexpected_percent_nonmissing"})  # fmt: skip
# GX has one project per process, with one current batch; and Python's warning filters, changed meanwhile, are the whole
# process's too.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class FailedRule:
    """A rule that failed.

    Attributes:
        unexpected: rows that break it; None if the rule is about the whole table.
        observed: the value found, if the rule is about one value.
        example: one offending row (personal values masked), or why the rule could not be evaluated.
    """

    rule_id: str
    severity: str
    dimension: str
    description: str
    unexpected: int | None
    observed: Any
    example: dict[str, str | None] | str | None


@dataclass(frozen=True)
class RuleOutcome:
    """The result of all rules of a contract.

    Attributes:
        passed: no rule of severity error failed.
        rules: number of rules evaluated.
        rows: number of rows evaluated.
        seconds: time taken, without GX's import.
    """

    passed: bool
    score: float
    grade: str
    dimensions: dict[str, float | None]
    failed: tuple[FailedRule, ...]
    result_sha256: str
    suite_digest: str
    rules: int
    rows: int
    seconds: float


@dataclass(frozen=True)
class _Result:
    rule: Rule
    validation: ExpectationValidationResult
    error: str | None = None
    elsewhere: int = 0

    @property
    def passed(self) -> bool:
        return self.holds_in_scope and not self.elsewhere

    @property
    def holds_in_scope(self) -> bool:
        return bool(self.validation.success) and self.error is None

    @property
    def unexpected(self) -> int | None:
        if self.rule.kind.breaks == "value" or self.error:
            return None
        in_scope = 0 if self.holds_in_scope else int((self.validation.result or {}).get("unexpected_count") or 0)
        return in_scope + self.elsewhere

    @property
    def observed(self) -> Any:
        return (self.validation.result or {}).get("observed_value")


def evaluate(
    frame: DataFrame,
    contract: Contract,
    *,
    delta_version: int,
    scope: str | None,
    logical_date: datetime,
    run_id: str,
    rows: int | None = None,
    elsewhere: Elsewhere = NOTHING,
) -> RuleOutcome:
    """Check a version of a table against its contract, and store the evidence.

    Args:
        frame: the rows of the version just built: all, or those that `scope` selects.
        contract: the rules to evaluate.
        delta_version: the version of the Delta table that `frame` reads, for the evidence.
        scope: the SQL predicate that selects `frame` from the table; None for the whole table.
        logical_date: the instant that freshness is measured from; UTC if it has no zone.
        run_id: the run of this check, for the evidence.
        rows: the number of rows of `frame`; None to count them.
        elsewhere: what is known of the rows outside `scope`; they count for the score and the grade.

    Raises:
        DeclarationError: Great Expectations cannot take a rule of the contract; names file, line and field.
        PySparkException: the engine is gone.
    """
    rules = compile_rules(contract)
    _import_once()
    started = time.perf_counter()
    instant = logical_date if logical_date.tzinfo else logical_date.replace(tzinfo=UTC)
    with _one_at_a_time, quiet():
        from jobs.check.kinds import suite_of

        suite = suite_of(contract, rules)
        decided = _decide(frame, rules, suite, contract, {"logical_date": instant.isoformat()})
        rows = frame.count() if rows is None else rows
    results = [replace(r, elsewhere=elsewhere.broken.get(r.rule.id, 0)) for r in decided]
    table_rows = rows + elsewhere.rows
    graded = grade((RuleResult(r.rule.dimension, r.rule.severity, r.passed, _bad_rows(r)) for r in results), table_rows)
    suite_document = _suite_document(suite)
    suite_digest = evidence.digest_of(suite_document)
    digest = evidence.keep(
        {
            "table": contract.table,
            "delta_version": delta_version,
            "scope": _masked_scope(scope, contract),
            "logical_date": instant.isoformat(),
            "run_id": run_id,
            "rows": rows,
            "table_rows": table_rows,
            **elsewhere.document(),
            "contract_sha256": contract.digest,
            "suite_sha256": suite_digest,
            "whole_table_rules_over": "table" if scope is None else "scope",
            "suite": suite_document,
            "great_expectations": version("great_expectations"),
            "rules": [_rule_document(r, contract) for r in results],
            "weights": WEIGHTS,
            **_grade_document(graded),
        }
    )
    failed = tuple(_failed_rule(r, frame, contract) for r in results if not r.passed)
    return RuleOutcome(
        passed=graded.passed, score=graded.score, grade=graded.grade, dimensions=graded.dimensions, failed=failed,
        result_sha256=digest, suite_digest=suite_digest, rules=len(rules), rows=rows,
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def count_broken(
    frame: DataFrame, contract: Contract, rules: Sequence[Rule], logical_date: datetime
) -> dict[str, int | None]:
    """The number of rows that break each of some rules of a contract; None for one that cannot be evaluated."""
    if not rules:
        return {}
    _import_once()
    with _one_at_a_time, quiet():
        from jobs.check.kinds import suite_of

        suite = suite_of(contract, compile_rules(contract))
        results = _decide(frame, tuple(rules), suite, contract, {"logical_date": logical_date.isoformat()})
    return {r.rule.id: r.unexpected for r in results}


def _decide(
    frame: DataFrame,
    rules: tuple[Rule, ...],
    suite: ExpectationSuite,
    contract: Contract,
    parameters: dict[str, Any],
) -> list[_Result]:
    """The result of each rule, in the suite's order."""
    expectations = {str((e.meta or {})["rule"]): e for e in suite.expectations}
    personal = bool(personal_columns(contract))
    batch = _batch_definition(frame.sparkSession).get_batch(batch_parameters={"dataframe": frame})
    validated = _validate_all(batch, suite.name, {r.id: expectations[r.id] for r in rules}, parameters)
    results = {r.id: _Result(r, validated[r.id], _masked_error(validated[r.id], personal)) for r in rules}
    return [results[name] for name in expectations if name in results]


def _validate_all(
    batch: Batch, name: str, expectations: dict[str, Expectation], parameters: dict[str, Any]
) -> dict[str, ExpectationValidationResult]:
    quick = _validate(batch, name, list(expectations.values()), "BOOLEAN_ONLY", parameters)
    # All aggregates share one query, so one that the engine rejects fails the others too: retry them one by one.
    for rule_id in [n for n, result in quick.items() if _error(result)]:
        quick |= _validate(batch, name, [expectations[rule_id]], "BOOLEAN_ONLY", parameters)
    broken = [expectations[n] for n, result in quick.items() if not result.success and not _error(result)]
    return quick | (_validate(batch, name, broken, "SUMMARY", parameters) if broken else {})


def _validate(
    batch: Batch,
    name: str,
    expectations: list[Expectation],
    result_format: Literal["BOOLEAN_ONLY", "SUMMARY"],
    parameters: dict[str, Any],
) -> dict[str, ExpectationValidationResult]:
    from great_expectations import ExpectationSuite

    part = ExpectationSuite(name=name, expectations=[e.copy() for e in expectations])
    validation = batch.validate(part, result_format=result_format, expectation_parameters=parameters)
    if any(_error(result) for result in validation.results):
        # GX turns every exception into a failed result, but an engine that is gone proves nothing about the rows.
        ping()
    return {_rule_of(result): result for result in validation.results}


def _rule_of(result: ExpectationValidationResult) -> str:
    configuration = result.expectation_config
    return str(configuration.meta["rule"]) if configuration and configuration.meta else ""


def _error(result: ExpectationValidationResult) -> str | None:
    """Why GX could not evaluate an expectation, in one line; None if it could."""
    info = result.exception_info or {}
    reports = [info] if "raised_exception" in info else [r for r in info.values() if isinstance(r, dict)]
    for report in reports:
        if report.get("raised_exception"):
            lines = [line for line in str(report.get("exception_message") or "").splitlines() if line.strip()]
            return (lines[0] if lines else "unknown error")[:300]
    return None


def _masked_error(result: ExpectationValidationResult, personal: bool) -> str | None:
    error = _error(result)
    # An engine that cannot convert a value quotes it in its message.
    return re.sub(r"'[^']*'|\"[^\"]*\"", f"'{MASK}'", error) if error and personal else error


def _rule_document(result: _Result, contract: Contract) -> dict[str, Any]:
    rule = result.rule
    validation: dict[str, Any] = result.validation.to_json_dict()
    # GX's own account of an error is a traceback with this machine's paths.
    validation["exception_info"] = {"raised_exception": result.error is not None, "exception_message": result.error}
    if _touches_personal(rule, contract):
        validation["result"] = _masked(validation.get("result") or {}, rule)
    return {
        "id": rule.id, "kind": rule.kind.name, "dimension": rule.dimension, "severity": rule.severity,
        "description": rule.description, "success": result.passed, "error": result.error,
        "by_row": rule.kind.breaks == "each_row", "unexpected": result.unexpected,
        "observed": (validation.get("result") or {}).get("observed_value"), "result": validation,
    }  # fmt: skip


def _bad_rows(result: _Result) -> int | None:
    return result.unexpected if result.rule.kind.breaks == "each_row" else None


def _failed_rule(result: _Result, frame: DataFrame, contract: Contract) -> FailedRule:
    rule = result.rule
    hidden = _touches_personal(rule, contract) and rule.kind.shows_values
    example: dict[str, str | None] | str | None = f"could not be evaluated: {result.error}" if result.error else None
    if not result.error:
        from jobs.check.kinds import example_of

        example = example_of(rule, frame, contract)
    return FailedRule(
        rule.id, rule.severity, rule.dimension, rule.description, result.unexpected,
        MASK if hidden and result.observed is not None else result.observed, example,
    )  # fmt: skip


def _touches_personal(rule: Rule, contract: Contract) -> bool:
    personal = personal_columns(contract)
    if rule.kind.hides_columns:
        return bool(personal)
    return bool(personal & set(rule.columns))


def _masked(result: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
    shown = _COUNTS if rule.kind.shows_values else _COUNTS | {"observed_value"}
    return {k: v if k in shown or v in (None, [], {}) else _masked_value(v) for k, v in result.items()}


def _masked_value(value: Any) -> Any:
    """The value's shape without its content: Data Docs expect lists of values and of counted values."""
    if isinstance(value, list):
        return [{"value": MASK, "count": v["count"]} if isinstance(v, dict) and "count" in v else MASK for v in value]
    return MASK


def _masked_scope(scope: str | None, contract: Contract) -> str | None:
    if scope is None or not any(name in scope for name in personal_columns(contract)):
        return scope
    return re.sub(r"'[^']*'|\b\d+(\.\d+)?\b", f"'{MASK}'", scope)


def _suite_document(suite: ExpectationSuite) -> dict[str, Any]:
    document: dict[str, Any] = suite.to_json_dict()
    expectations = [{k: v for k, v in e.items() if k != "id"} for e in document["expectations"]]
    return {"name": document["name"], "expectations": expectations}


def _grade_document(graded: Grade) -> dict[str, Any]:
    return {
        "passed": graded.passed,
        "score": graded.score,
        "grade": graded.grade,
        "dimensions": graded.dimensions,
    }


def _import_once() -> None:
    with _one_at_a_time, quiet():
        import jobs.check.kinds  # noqa: F401 - the import takes seconds, which the measured time leaves out


@lru_cache(maxsize=1)
def _batch_definition(_session: SparkSession) -> Any:
    """One GX context and dataframe asset per engine session, because a context keeps the first session it sees."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    # Persisting would compute the frame once more than necessary, and Sail ignores it.
    source = context.data_sources.add_spark("exchange", persist=False)
    return source.add_dataframe_asset("version").add_batch_definition_whole_dataframe("whole")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence GX's log and warnings: everything that matters is in its results."""
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
