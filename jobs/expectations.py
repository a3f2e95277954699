"""The exchange's vocabulary for Great Expectations: each rule of a contract as an expectation that GX itself decides.

Importing this module imports Great Expectations (seconds), so it is imported inside functions, once per process.

GX's own expectation types are used where they need no query of their own. Three kinds of rule would: a predicate over
several columns, the share of bad rows, and uniqueness. They are expectations of ours whose metrics GX puts into the one
aggregate query that it sends for all rules of a batch (`table.rows_breaking`), or which need exactly one query
(`table.repeated_keys`, `table.scalar`).
"""

from __future__ import annotations

import os
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar

# Set before the import: GX reports usage by default, and without internet the process would then hang at exit.
os.environ["GX_ANALYTICS_ENABLED"] = "false"

import great_expectations.expectations as gxe  # noqa: E402 - the variable above must be set first
from great_expectations import ExpectationSuite  # noqa: E402 - as above
from great_expectations.core.metric_domain_types import MetricDomainTypes  # noqa: E402 - as above
from great_expectations.core.metric_function_types import MetricPartialFunctionTypes  # noqa: E402 - as above
from great_expectations.core.suite_parameters import SuiteParameterDict  # noqa: E402, TC002 - pydantic reads it
from great_expectations.exceptions import ExpectationNotFoundError  # noqa: E402 - as above
from great_expectations.execution_engine import SparkDFExecutionEngine  # noqa: E402 - as above
from great_expectations.expectations.expectation import BatchExpectation, Expectation  # noqa: E402 - as above
from great_expectations.expectations.metrics.metric_provider import metric_partial, metric_value  # noqa: E402 - as above
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider  # noqa: E402 - as above
from great_expectations.expectations.registry import get_expectation_impl  # noqa: E402 - as above
from pyspark.sql import functions as F  # noqa: E402, N812 - the field's name for it

from jobs.contract import Contract  # noqa: E402 - as above
from jobs.rules import Rule, satisfied  # noqa: E402 - as above

SEVERITIES = {"error": "critical", "warning": "warning", "info": "info"}
AS_OF = "logical_date"


class RowsBreaking(TableMetricProvider):
    """How many rows a predicate is false for; bundled by GX with every other aggregate of the batch."""

    metric_name = "table.rows_breaking"
    value_keys = ("predicate",)

    @metric_partial(
        engine=SparkDFExecutionEngine,
        partial_fn_type=MetricPartialFunctionTypes.AGGREGATE_FN,
        domain_type=MetricDomainTypes.TABLE,
    )
    def _spark(cls, metric_domain_kwargs: Any, metric_value_kwargs: Any, **_: Any) -> Any:  # noqa: N805 - GX binds the class
        broken = F.expr(f"not ({metric_value_kwargs['predicate']})")
        return F.sum(F.when(broken, 1).otherwise(0)), metric_domain_kwargs, {}


class RepeatedKeys(TableMetricProvider):
    """How many keys occur more than once, and how many rows are beyond the first of their key.

    Rows are grouped by a 64-bit hash of the key first, which is cheaper than by the key itself when that is text. Distinct
    hashes prove distinct keys; only if two rows share a hash is the key itself grouped, so the answer is exact.
    """

    metric_name = "table.repeated_keys"
    value_keys = ("columns",)

    @metric_value(engine=SparkDFExecutionEngine)
    def _spark(
        cls, execution_engine: Any, metric_domain_kwargs: Any, metric_value_kwargs: Any, **_: Any
    ) -> dict[str, int]:  # noqa: N805 - GX binds the class
        frame, _kwargs, _accessor = execution_engine.get_compute_domain(metric_domain_kwargs, MetricDomainTypes.TABLE)
        keys = [F.col(_quoted(name)) for name in metric_value_kwargs["columns"]]
        frame = frame.select(*keys).dropna()
        hashed = frame.groupBy(F.xxhash64(*keys).alias("hash")).agg(F.count(F.lit(1)).alias("n"))
        largest = hashed.agg(F.max("n")).collect()[0][0]
        if largest is None or largest == 1:
            return {"keys": 0, "rows": 0}
        groups = frame.groupBy(*keys).agg(F.count(F.lit(1)).alias("n")).where("n > 1")
        found = groups.agg(F.count(F.lit(1)), F.sum(F.col("n") - 1)).collect()[0]
        return {"keys": int(found[0]), "rows": int(found[1] or 0)}


class Scalar(TableMetricProvider):
    """The one value that a query over the batch returns; ``${table}`` in the query is the batch."""

    metric_name = "table.scalar"
    value_keys = ("query",)

    @metric_value(engine=SparkDFExecutionEngine)
    def _spark(
        cls, execution_engine: Any, metric_domain_kwargs: Any, metric_value_kwargs: Any, **_: Any
    ) -> Any:  # noqa: N805 - GX binds the class
        frame, _kwargs, _accessor = execution_engine.get_compute_domain(metric_domain_kwargs, MetricDomainTypes.TABLE)
        view = f"batch_{uuid.uuid4().hex}"
        frame.createOrReplaceTempView(view)
        try:
            rows = frame.sparkSession.sql(metric_value_kwargs["query"].replace("${table}", view)).limit(2).collect()
        finally:
            frame.sparkSession.catalog.dropTempView(view)
        if len(rows) != 1 or len(rows[0]) != 1:
            raise ValueError(f"the query returned {'no row' if not rows else 'more than one value'}, expected one value")
        return rows[0][0]


class _Rule(BatchExpectation):
    """What the exchange's own expectations share: they are about the whole batch and written for Spark."""

    library_metadata: ClassVar[dict[str, Any]] = {"maturity": "production", "tags": ["exchange"], "contributors": []}
    args_keys: ClassVar[tuple[str, ...]] = ()


class ExpectRowsToSatisfy(_Rule):
    """Every row satisfies an SQL predicate; a row for which it is unknown (a null in it) does not break it."""

    predicate: str
    metric_dependencies = ("table.row_count", "table.rows_breaking")
    success_keys = ("predicate",)

    def _validate(self, metrics: dict[str, Any], **_: Any) -> dict[str, Any]:
        rows, broken = metrics["table.row_count"], metrics["table.rows_breaking"] or 0
        return {"success": broken == 0, "result": _counted(rows, broken)}


class ExpectShareOfRowsToBe(_Rule):
    """The number or percentage of rows that break a predicate is within a limit."""

    predicate: str
    unit: str
    sign: str
    limit: Any
    metric_dependencies = ("table.row_count", "table.rows_breaking")
    success_keys = ("predicate", "unit", "sign", "limit")

    def _validate(self, metrics: dict[str, Any], **_: Any) -> dict[str, Any]:
        rows, broken = metrics["table.row_count"], metrics["table.rows_breaking"] or 0
        observed = broken if self.unit == "rows" else (100 * broken / rows if rows else 0.0)
        passed = satisfied(observed, self.sign, self.limit)
        return {"success": passed, "result": _counted(rows, broken) | {"observed_value": observed}}


class ExpectKeyToBeUnique(_Rule):
    """No two rows agree in all of these columns; rows with a null among them are not compared."""

    columns: list[str]
    metric_dependencies = ("table.row_count", "table.repeated_keys")
    success_keys = ("columns",)

    def _validate(self, metrics: dict[str, Any], **_: Any) -> dict[str, Any]:
        rows, repeated = metrics["table.row_count"], metrics["table.repeated_keys"]
        result = _counted(rows, repeated["rows"]) | {"observed_value": repeated["keys"]}
        return {"success": repeated["rows"] == 0, "result": result}


class ExpectQueryResultToBe(_Rule):
    """The one value a query returns is within a limit; no value is not."""

    query: str
    sign: str
    limit: Any
    metric_dependencies = ("table.scalar",)
    success_keys = ("query", "sign", "limit")

    def _validate(self, metrics: dict[str, Any], **_: Any) -> dict[str, Any]:
        observed = metrics["table.scalar"]
        return {"success": satisfied(observed, self.sign, self.limit), "result": {"observed_value": observed}}


class ExpectColumnToBeFresh(_Rule):
    """The newest value of a column is at most so many days older than the instant a check is made for."""

    column: str
    days: float
    as_of: str | SuiteParameterDict
    metric_dependencies = ("column.max",)
    domain_keys = ("batch_id", "column")
    success_keys = ("days", "as_of")

    def _validate(self, metrics: dict[str, Any], **_: Any) -> dict[str, Any]:
        newest = metrics["column.max"]
        if newest is None:
            return {"success": False, "result": {"observed_value": None}}
        oldest = datetime.fromisoformat(str(self.as_of)) - timedelta(days=self.days)
        passed = _instant(newest, oldest) >= oldest
        return {"success": passed, "result": {"observed_value": str(newest)}}


def suite_of(contract: Contract, rules: tuple[Rule, ...]) -> ExpectationSuite:
    """The suite of a table: one expectation per rule, in order, each naming its rule in ``meta``.

    Raises:
        DeclarationError: a rule names an expectation type that GX does not have, or arguments it does not take.
    """
    expectations = [_expectation(contract, rule) for rule in rules]
    return ExpectationSuite(name=contract.table, expectations=expectations, meta={"contract_sha256": contract.digest})


def _expectation(contract: Contract, rule: Rule) -> Expectation:
    kind, kwargs = _core(rule) or _own(rule) or _given(contract, rule)
    try:
        return kind(
            **kwargs,
            severity=SEVERITIES[rule.severity],
            meta={"rule": rule.id, "dimension": rule.dimension},
            # Data Docs read a description as a template, in which a dollar begins a parameter.
            description=rule.description.replace("$", "$$"),
        )
    except (ValueError, TypeError) as error:
        detail = "; ".join(line.strip() for line in str(error).splitlines()[1:4]) or str(error)
        raise contract.mistake(
            f"{rule.id}: the expectation does not take these arguments: {detail}"[:300], rule.location,
            expected=f"arguments of {kind.__name__}",
        ) from None  # fmt: skip


def _core(rule: Rule) -> tuple[type[Expectation], dict[str, Any]] | None:
    given, column = rule.parameters, rule.columns[0] if rule.columns else ""
    if rule.kind == "not_null":
        return gxe.ExpectColumnValuesToNotBeNull, {"column": column}
    if rule.kind == "in_set":
        return gxe.ExpectColumnValuesToBeInSet, {"column": column, "value_set": list(given["values"])}
    if rule.kind == "pattern":
        return gxe.ExpectColumnValuesToMatchRegex, {"column": column, "regex": given["pattern"]}
    if rule.kind == "length":
        bounds = {"min_value": given["minimum"], "max_value": given["maximum"]}
        return gxe.ExpectColumnValueLengthsToBeBetween, {"column": column, **bounds}
    if rule.kind == "range" and not given["temporal"]:
        bounds = {"min_value": given["minimum"], "max_value": given["maximum"]}
        strict = {"strict_min": given["strict_minimum"], "strict_max": given["strict_maximum"]}
        return gxe.ExpectColumnValuesToBeBetween, {"column": column, **bounds, **strict}
    return None


def _own(rule: Rule) -> tuple[type[Expectation], dict[str, Any]] | None:
    given = rule.parameters
    if rule.kind in ("row_sql", "range"):
        return ExpectRowsToSatisfy, {"predicate": rule.predicate}
    if rule.kind == "unique":
        return ExpectKeyToBeUnique, {"columns": list(rule.columns)}
    if rule.kind == "freshness":
        return ExpectColumnToBeFresh, {
            "column": rule.columns[0], "days": given["days"], "as_of": {"$PARAMETER": AS_OF},
        }  # fmt: skip
    if rule.kind not in ("share", "scalar_sql", "row_count"):
        return None
    sign, limit = given["limit"]
    bound = {"sign": sign, "limit": list(limit) if isinstance(limit, tuple) else limit}
    if rule.kind == "share":
        return ExpectShareOfRowsToBe, {"predicate": f"not ({given['bad']})", "unit": given["unit"], **bound}
    query = given["query"] if rule.kind == "scalar_sql" else "SELECT COUNT(*) FROM ${table}"
    return ExpectQueryResultToBe, {"query": query, **bound}


def _given(contract: Contract, rule: Rule) -> tuple[type[Expectation], dict[str, Any]]:
    name = rule.parameters["type"]
    try:
        return get_expectation_impl(name), rule.parameters["kwargs"]
    except ExpectationNotFoundError:
        raise contract.mistake(
            f"{rule.id}: Great Expectations has no expectation '{name}'", rule.location,
            expected="a type such as expect_column_mean_to_be_between",
        ) from None  # fmt: skip


def _counted(rows: int, broken: int) -> dict[str, Any]:
    percent = 100 * broken / rows if rows else 0.0
    return {"element_count": rows, "unexpected_count": broken, "unexpected_percent": percent}


def _instant(value: Any, like: datetime) -> datetime:
    # A date counts as young as its last moment; GX hands aggregates over as ISO text.
    if isinstance(value, str):
        value = date.fromisoformat(value) if len(value) == len("2026-01-31") else datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day) + timedelta(days=1, microseconds=-1)  # noqa: DTZ001 - below
    return value if value.tzinfo or not like.tzinfo else value.replace(tzinfo=UTC)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
