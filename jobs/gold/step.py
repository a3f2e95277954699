"""Gold: one table per product, built by one query over the checked versions of its inputs."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from jobs import lake
from jobs.declared.catalog import Product
from jobs.declared.contract import Contract, load_contract
from jobs.declared.sql import quote, read_select
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
    """The step, as `jobs.flow` calls it; see `gold`."""
    return gold(product, run_id)


def gold(product: Product, run_id: str, *, full: bool = False) -> StepOutcome:
    """Build the next version of the product's table, if an input, its query or its contract moved.

    A product that declares a partition is rebuilt only where its inputs' partitions moved; with `full` all of it is.

    Raises:
        NotFound: an input has no checked version yet.
        DeclarationError: query.sql or the contract cannot be used, or they do not fit each other.
    """
    contract = load_contract(product.table)
    check_partitions(contract)
    versions = {table: checked(table).delta_version for table in product.inputs}
    stands = begin(product.table)
    inputs = {"tables": versions, "query": query_digest(product), "contract": contract.digest}
    if stands and stands.inputs == inputs and not full:
        return StepOutcome(status="unchanged", input=inputs)
    with leaving(StepOutcome(input=inputs)), lake.workspace(run_id, "gold", product.name) as work:
        return _build(work, product, contract, stands, inputs, full=full)


def _build(
    work: lake.Workspace, product: Product, contract: Contract, stands: Pointer | None, inputs: dict[str, Any], *,
    full: bool,
) -> StepOutcome:  # fmt: skip
    fields = lake.fields_of(contract.columns)
    lake.create(product.table, fields, contract.partitions, product.declared.title)
    by_partition = product.declared.partition in contract.partitions and not full
    moved = _moved(product, stands, inputs) if by_partition else None
    if moved == ():
        if stands:
            advance(product.table, inputs=inputs)
        return StepOutcome(status="unchanged", input=inputs)
    frame = _built(work, product, contract, inputs["tables"], lake.predicate(moved) if moved else None)
    if not moved and not lake.is_shaped(product.table, fields, contract.partitions):
        lake.replace(product.table, fields, contract.partitions, product.declared.title)
    with translate_engine_errors(product.query_file):
        version = lake.overwrite(product.table, frame, slice_of=lake.predicate(moved) if moved else None)
    return StepOutcome(counts=Counts(rows_out=lake.rows(product.table)), input=inputs, output_version=version)


def query_digest(product: Product) -> str:
    """sha256 of the product's query as it parses, so that layout and comments do not count."""
    return hashlib.sha256(read_select(product.query_file).sql(dialect="spark", comments=False).encode()).hexdigest()


def is_current(product: Product) -> bool:
    """Whether the product's checked version was built from its inputs, query and contract as they are now."""
    stands = pointer(product.table)
    tables = {t: p.delta_version for t in product.inputs if (p := pointer(t))}
    wanted = {"tables": tables, "query": query_digest(product), "contract": load_contract(product.table).digest}
    return stands is not None and stands.inputs == wanted and lake.exists(product.table)


def _moved(product: Product, stands: Pointer | None, inputs: dict[str, Any]) -> Any:
    """Partitions of the product to rebuild; None for the whole table."""
    before = (stands.inputs or {}) if stands else {}
    same_rules = before.get("query") == inputs["query"] and before.get("contract") == inputs["contract"]
    if not product.declared.partition or not same_rules or set(before["tables"]) != set(inputs["tables"]):
        return None
    moved: set[tuple[tuple[str, str | None], ...]] = set()
    for table, until in inputs["tables"].items():
        if before["tables"][table] == until:
            continue
        try:
            touched = lake.changed_partitions(table, before["tables"][table], until)
        except ExchangeError:
            # The version that was read then is not there any more, so nobody knows what differs from it.
            return None
        for partition in touched:
            named = tuple((n, v) for n, v in partition if n == product.declared.partition)
            if not named:
                return None
            moved.add(named)
    return tuple(sorted(moved, key=str))


def _built(
    work: lake.Workspace, product: Product, contract: Contract, versions: dict[str, int], only: str | None
) -> DataFrame:
    statement = read_select(product.query_file).copy()
    for table in list(statement.find_all(exp.Table)):
        if not table.db:
            continue
        name = f"{table.db}.{table.name}".lower()
        frame = current_rows(name, versions[name])
        view = work.show(f"{table.db}__{table.name}".lower(), frame.where(only) if only else frame)
        alias = table.alias or table.name
        table.replace(exp.to_table(view).as_(alias))
    for column in statement.find_all(exp.Column):
        # What was gold.x.value is x.value now.
        column.set("db", None)
    frame = _run(statement.sql(dialect="spark"), product)
    _fit(frame, contract, product)
    return frame.selectExpr(*[f"CAST({quote(c.name)} AS {c.type}) AS {quote(c.name)}" for c in contract.columns])


def _run(sql: str, product: Product) -> DataFrame:
    from pyspark.errors import PySparkException

    try:
        frame = connect().sql(sql)
        _ = frame.columns
    except PySparkException as error:
        raise DeclarationError(
            f"the engine refuses the query: {str(error).strip().splitlines()[0][:300]}",
            file=product.query_file,
            next_step="correct the query; `exchange sql` tries one out",
        ) from None
    return frame


def _fit(frame: DataFrame, contract: Contract, product: Product) -> None:
    missing = [c for c in contract.names if c not in frame.columns]
    extra = [c for c in frame.columns if c not in contract.names]
    if missing or extra:
        found = "; ".join(
            f"{what}: {', '.join(names)}"
            for what, names in (("missing", missing), ("not in the contract", extra))
            if names
        )
        raise DeclarationError(
            f"the query's columns are not those of the contract ({found})",
            file=product.query_file,
            expected=f"exactly: {', '.join(contract.names)}",
            next_step=f"correct the query or {contract.file}",
        )
