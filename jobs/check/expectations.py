"""Expectations of the exchange's own, for rules that Great Expectations' types would answer with a query each.

Importing this module imports Great Expectations (seconds), so import it inside functions.

GX's own types serve wherever they need no query of their own. They would need one for a predicate over several columns,
the share of bad rows, uniqueness, and a value computed by a query. Our types for these have metrics that GX puts into
the one aggregate query of a batch (`table.rows_breaking`), or that take exactly one query (`table.repeated_keys`,
`table.scalar`). Bounds of dates and instants are predicates too, so that they are compared in the column's type, as in
the split into good and quarantined rows.
"""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.core.metric_function_types import MetricPartialFunctionTypes
from great_expectations.execution_engine.sparkdf_execution_engine import SparkDFExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation
from great_expectations.expectations.metrics.metric_provider import metric_partial, metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider
from pyspark.sql import functions as F
from typing_extensions import override

from jobs.declared.rules import satisfied
from jobs.declared.sql import quote

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

AS_OF = "logical_date"
_DATE_LENGTH = len("2026-01-31")

Kwargs = dict[str, Any]


class RowsBreaking(TableMetricProvider):
    """The number of rows for which a predicate is false; GX bundles it with all other aggregates of the batch."""

    metric_name = "table.rows_breaking"
    value_keys = ("predicate",)

    @metric_partial(
        engine=SparkDFExecutionEngine,
        partial_fn_type=MetricPartialFunctionTypes.AGGREGATE_FN,
        domain_type=MetricDomainTypes.TABLE,
    )
    def _spark(
        cls, metric_domain_kwargs: Kwargs, metric_value_kwargs: Kwargs, **_: Any
    ) -> tuple[Column, Kwargs, Kwargs]:
        broken = F.expr(f"not ({metric_value_kwargs['predicate']})")
        return F.sum(F.when(broken, 1).otherwise(0)), metric_domain_kwargs, {}


class RepeatedKeys(TableMetricProvider):
    """How many keys occur more than once, and how many rows come after the first of their key.

    Rows are first grouped by a 64-bit hash of the key, which is cheaper than grouping by a textual key. Distinct hashes
    prove distinct keys; rows are grouped by the key itself only if hashes repeat, so the answer is exact.
    """

    metric_name = "table.repeated_keys"
    value_keys = ("columns",)

    @metric_value(engine=SparkDFExecutionEngine)
    def _spark(
        cls, execution_engine: Any, metric_domain_kwargs: Kwargs, metric_value_kwargs: Kwargs, **_: Any
    ) -> dict[str, int]:
        keys = [F.col(quote(name)) for name in metric_value_kwargs["columns"]]
        frame = _frame(execution_engine, metric_domain_kwargs).select(*keys).dropna()
        hashed = frame.groupBy(F.xxhash64(*keys).alias("hash")).agg(F.count(F.lit(1)).alias("n"))
        largest = hashed.agg(F.max("n")).collect()[0][0]
        if largest is None or largest == 1:
            return {"keys": 0, "rows": 0}
        groups = frame.groupBy(*keys).agg(F.count(F.lit(1)).alias("n")).where("n > 1")
        totals = groups.agg(F.count(F.lit(1)), F.sum(F.col("n") - 1)).collect()[0]
        return {"keys": int(totals[0]), "rows": int(totals[1] or 0)}


class Scalar(TableMetricProvider):
    """The one value that a query over the batch returns; ``${table}`` in the query is the batch."""

    metric_name = "table.scalar"
    value_keys = ("query",)

    @metric_value(engine=SparkDFExecutionEngine)
    def _spark(cls, execution_engine: Any, metric_domain_kwargs: Kwargs, metric_value_kwargs: Kwargs, **_: Any) -> Any:
        frame = _frame(execution_engine, metric_domain_kwargs)
        view = f"batch_{uuid.uuid4().hex}"
        frame.createOrReplaceTempView(view)
        try:
            rows = frame.sparkSession.sql(metric_value_kwargs["query"].replace("${table}", view)).limit(2).collect()
        finally:
            frame.sparkSession.catalog.dropTempView(view)
        if len(rows) != 1 or len(rows[0]) != 1:
            raise ValueError(
                f"the query returned {'no row' if not rows else 'more than one value'}, expected one value"
            )
        return rows[0][0]


class _Rule(BatchExpectation):
    """Base of the exchange's own expectations, which are about a whole batch and run on Spark only."""

    library_metadata: ClassVar[dict[str, Any]] = {"maturity": "production", "tags": ["exchange"], "contributors": []}
    args_keys: ClassVar[tuple[str, ...]] = ()


class ExpectRowsToSatisfy(_Rule):
    """Every row satisfies an SQL predicate; a row for which it is null does not break it."""

    predicate: str
    metric_dependencies = ("table.row_count", "table.rows_breaking")
    success_keys = ("predicate",)

    @override
    def _validate(
        self, metrics: Kwargs, runtime_configuration: Kwargs | None = None, execution_engine: Any = None
    ) -> Kwargs:
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

    @override
    def _validate(
        self, metrics: Kwargs, runtime_configuration: Kwargs | None = None, execution_engine: Any = None
    ) -> Kwargs:
        rows, broken = metrics["table.row_count"], metrics["table.rows_breaking"] or 0
        observed = broken if self.unit == "rows" else (100 * broken / rows if rows else 0.0)
        passed = satisfied(observed, self.sign, self.limit)
        return {"success": passed, "result": _counted(rows, broken) | {"observed_value": observed}}


class ExpectKeyToBeUnique(_Rule):
    """No two rows have the same values in all of these columns; rows with a null among them are not compared."""

    columns: list[str]
    metric_dependencies = ("table.row_count", "table.repeated_keys")
    success_keys = ("columns",)

    @override
    def _validate(
        self, metrics: Kwargs, runtime_configuration: Kwargs | None = None, execution_engine: Any = None
    ) -> Kwargs:
        rows, repeated = metrics["table.row_count"], metrics["table.repeated_keys"]
        result = _counted(rows, repeated["rows"]) | {"observed_value": repeated["keys"]}
        return {"success": repeated["rows"] == 0, "result": result}


class ExpectQueryResultToBe(_Rule):
    """The one value that a query returns is within a limit; null is not."""

    query: str
    sign: str
    limit: Any
    metric_dependencies = ("table.scalar",)
    success_keys = ("query", "sign", "limit")

    @override
    def _validate(
        self, metrics: Kwargs, runtime_configuration: Kwargs | None = None, execution_engine: Any = None
    ) -> Kwargs:
        observed = metrics["table.scalar"]
        return {"success": satisfied(observed, self.sign, self.limit), "result": {"observed_value": observed}}


class ExpectColumnToBeFresh(_Rule):
    """The newest value of a column is at most `days` days older than the check's logical date, `as_of`."""

    column: str
    days: float
    as_of: str | dict[str, Any]
    metric_dependencies = ("column.max",)
    domain_keys = ("batch_id", "column")
    success_keys = ("days", "as_of")

    @override
    def _validate(
        self, metrics: Kwargs, runtime_configuration: Kwargs | None = None, execution_engine: Any = None
    ) -> Kwargs:
        newest = metrics["column.max"]
        if newest is None:
            return {"success": False, "result": {"observed_value": None}}
        oldest = datetime.fromisoformat(str(self.as_of)) - timedelta(days=self.days)
        passed = _instant(newest) >= oldest
        return {"success": passed, "result": {"observed_value": str(newest)}}


def _frame(execution_engine: Any, domain: Kwargs) -> DataFrame:
    frame: DataFrame = execution_engine.get_compute_domain(domain, MetricDomainTypes.TABLE)[0]
    return frame


def _counted(rows: int, broken: int) -> dict[str, Any]:
    percent = 100 * broken / rows if rows else 0.0
    return {"element_count": rows, "unexpected_count": broken, "unexpected_percent": percent}


def _instant(value: Any) -> datetime:
    """The last instant (UTC) that a value or its ISO text can mean: for a date, its last microsecond."""
    if isinstance(value, str):
        value = date.fromisoformat(value) if len(value) == _DATE_LENGTH else datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime(value.year, value.month, value.day, tzinfo=UTC) + timedelta(days=1, microseconds=-1)
