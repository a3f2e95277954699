"""Gold: one table per product, built by one query over the checked versions of its inputs."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from jobs import lake
from jobs.declared.catalog import Product
from jobs.declared.contract import Contract, load_contract
from jobs.declared.grammar import PRODUCT
from jobs.declared.spark_sql import text_of
from jobs.declared.sql import normalized, quote, read_query
from jobs.errors import DeclarationError, ExchangeError
from jobs.lake import connect
from jobs.lake.engine_errors import translate_engine_errors
from jobs.lake.partitions import check_partitions
from jobs.lake.pointers import advance, begin, checked, pointer
from jobs.lake.views import current_rows
from jobs.registry.models import Pointer
from jobs.registry.runs import Counts, StepOutcome, leaving

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def run(product: Product, _logical_date: datetime, run_id: str) -> StepOutcome:
    """The step, as `jobs.flow` calls it: `gold`, once every input has a checked version."""
    waits_for = [table for table in product.inputs if pointer(table) is None]
    if waits_for and len(waits_for) < len(product.inputs):
        # The first event of one input starts it, too.
        return StepOutcome("unchanged", message=f"waits for a checked version of {', '.join(waits_for)}")
    return gold(product, run_id)


def gold(product: Product, run_id: str, *, full: bool = False) -> StepOutcome:
    """Build the next version of the product's table, if an input, its query or its contract changed.

    A product that declares a partition is rebuilt only where its inputs' partitions changed, or entirely with `full`.

    Raises:
        NotFound: an input has no checked version yet.
        DeclarationError: query.sql or the contract is unusable, or they do not match.
    """
    contract = load_contract(product.table)
    check_partitions(contract)
    _require_partition(product, contract)
    versions = {table: checked(table).delta_version for table in product.inputs}
    current = begin(product.table)
    inputs = {"tables": versions, "query": query_digest(product), "contract": contract.digest}
    if current and current.inputs == inputs and not full:
        return StepOutcome(status="unchanged", input=inputs)
    with leaving(StepOutcome(input=inputs)), lake.workspace(run_id, "gold", product.name) as work:
        return _build(work, product, contract, current, inputs, full=full)


def _build(
    work: lake.Workspace, product: Product, contract: Contract, current: Pointer | None, inputs: dict[str, Any], *,
    full: bool,
) -> StepOutcome:  # fmt: skip
    fields = lake.fields_of(contract.columns)
    lake.create(product.table, fields, contract.partitions, product.declared.title)
    by_partition = product.declared.partition in contract.partitions and not full
    changed = _changed_partitions(product, current, inputs) if by_partition else None
    if changed == ():
        if current:
            advance(product.table, inputs=inputs)
        return StepOutcome(status="unchanged", input=inputs)
    where = lake.predicate(changed) if changed else None
    frame = _result(work, product, contract, inputs["tables"], where)
    if not changed and not lake.is_shaped(product.table, fields, contract.partitions):
        lake.replace(product.table, fields, contract.partitions, product.declared.title)
    with translate_engine_errors(product.query_file):
        version = lake.overwrite(product.table, frame, slice_of=where)
    return StepOutcome(counts=Counts(rows_out=lake.rows(product.table)), input=inputs, output_version=version)


def _require_partition(product: Product, contract: Contract) -> None:
    """Require that a declared partition is one of the table's.

    Raises:
        DeclarationError: the contract does not partition the table by it, so it would have no effect.
    """
    declared = product.declared.partition
    if declared and declared not in contract.partitions:
        partitioned = ", ".join(contract.partitions) or "no column"
        raise DeclarationError(
            f"the table is not partitioned by '{declared}', so no run could rebuild only a part of it",
            file=product.file, field="partition",
            expected=f"a column that {contract.file} partitions by: {partitioned}",
            next_step=f"mark '{declared}' as partitioned in the contract, or remove `partition:`",
        )  # fmt: skip


def query_digest(product: Product) -> str:
    """sha256 of the product's parsed query, so that layout and comments do not count."""
    return hashlib.sha256(normalized(product.query_file).encode()).hexdigest()


def is_current(product: Product) -> bool:
    """Whether the product's checked version was built from its current inputs, query and contract."""
    current = pointer(product.table)
    tables = {t: p.delta_version for t in product.inputs if (p := pointer(t))}
    inputs = {"tables": tables, "query": query_digest(product), "contract": load_contract(product.table).digest}
    return current is not None and current.inputs == inputs and lake.exists(product.table)


def _changed_partitions(product: Product, current: Pointer | None, inputs: dict[str, Any]) -> Any:
    """Partitions of the product to rebuild; None for the whole table."""
    before = (current.inputs or {}) if current else {}
    is_same_definition = before.get("query") == inputs["query"] and before.get("contract") == inputs["contract"]
    if not product.declared.partition or not is_same_definition or set(before["tables"]) != set(inputs["tables"]):
        return None
    changed: set[tuple[tuple[str, str | None], ...]] = set()
    for table, until in inputs["tables"].items():
        if before["tables"][table] == until:
            continue
        try:
            partitions = lake.changed_partitions(table, before["tables"][table], until)
        except ExchangeError:
            # The version read last time no longer exists, so the difference is unknown.
            return None
        for partition in partitions:
            key = tuple((n, v) for n, v in partition if n == product.declared.partition)
            if not key:
                return None
            changed.add(key)
    return tuple(sorted(changed, key=str))


def _result(
    work: lake.Workspace, product: Product, contract: Contract, versions: dict[str, int], where: str | None
) -> DataFrame:
    statement = read_query(product.query_file, PRODUCT).sent.copy()
    for table in list(statement.find_all(exp.Table)):
        if not table.db:
            continue
        name = f"{table.db}.{table.name}".lower()
        frame = current_rows(name, versions[name])
        # A lookup table without the partition column is read whole.
        if where and product.declared.partition in lake.columns_at(name, versions[name]):
            frame = frame.where(where)
        view = work.show(f"{table.db}__{table.name}".lower(), frame)
        alias = table.alias or table.name
        table.replace(exp.to_table(view).as_(alias))
    for column in statement.find_all(exp.Column):
        # The views have no schema: gold.x.value becomes x.value.
        column.set("db", None)
    frame = _run(text_of(statement), product)
    _require_contract_columns(frame, contract, product)
    return frame.selectExpr(*[f"CAST({quote(c.name)} AS {c.type}) AS {quote(c.name)}" for c in contract.columns])


def _run(sql: str, product: Product) -> DataFrame:
    from pyspark.errors import PySparkException

    try:
        frame = connect().sql(sql)
        _ = frame.columns
    except PySparkException as error:
        raise DeclarationError(
            f"the engine rejected the query: {str(error).strip().splitlines()[0][:300]}",
            file=product.query_file,
            next_step="correct the query; try it with `exchange sql`",
        ) from None
    return frame


def _require_contract_columns(frame: DataFrame, contract: Contract, product: Product) -> None:
    missing = [c for c in contract.names if c not in frame.columns]
    extra = [c for c in frame.columns if c not in contract.names]
    if missing or extra:
        difference = "; ".join(
            f"{kind}: {', '.join(names)}"
            for kind, names in (("missing", missing), ("not in the contract", extra))
            if names
        )
        raise DeclarationError(
            f"the query's columns differ from the contract's ({difference})",
            file=product.query_file,
            expected=f"exactly: {', '.join(contract.names)}",
            next_step=f"correct the query or {contract.file}",
        )
