"""Finds the parts of a product's query whose digits may differ between engines, before the product is published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import sqlglot
from sqlglot import exp
from sqlglot.errors import OptimizeError

from jobs.declared.contract import load_contract
from jobs.declared.grammar import PRODUCT
from jobs.declared.sql import read_query

_SPREADS = (
    exp.Stddev, exp.StddevPop, exp.StddevSamp, exp.Variance, exp.VariancePop, exp.Corr, exp.CovarPop, exp.CovarSamp,
)  # fmt: skip
_CURVES = (exp.Ln, exp.Log, exp.Exp, exp.Pow)


def inexact(file: Path) -> tuple[str, ...]:
    """Parts of a query whose last digits depend on the engine or on the order of rows, each with the reason.

    Whole numbers, sums of decimals, and doubles computed row by row with + - * / and sqrt are the same everywhere.

    Args:
        file: the query; the types come from the contracts of its inputs.

    Raises:
        DeclarationError: the query or the contract of an input is unusable.
    """
    try:
        statement = _typed(file)
    except OptimizeError:
        # The engine resolves names that the parser cannot; such a query is not analysed.
        return ()
    nodes = _inexact_nodes(statement)
    return tuple(f"{node.sql(dialect='spark', comments=False)} ({reason})" for node, reason in nodes)


def _inexact_nodes(statement: exp.Expr) -> Iterator[tuple[exp.Expr, str]]:
    for node in statement.find_all(exp.Div, exp.Avg, exp.Sum, *_SPREADS, *_CURVES):
        kinds = [_kind(operand) for operand in ((node.left, node.right) if isinstance(node, exp.Div) else (node.this,))]
        if isinstance(node, exp.Div) and "decimal" in kinds and "double" not in kinds:
            yield node, "engines compute different digits for a quotient of decimals"
        elif isinstance(node, exp.Avg) and "decimal" in kinds:
            yield node, "engines compute different digits for a mean of decimals"
        elif isinstance(node, exp.Sum | exp.Avg) and "double" in kinds:
            yield node, "a sum of doubles depends on their order"
        elif isinstance(node, _SPREADS):
            yield node, "it is computed from sums of doubles, which depend on their order"
        elif isinstance(node, _CURVES) and not node.find_ancestor(exp.Round):
            yield node, "engines differ in its last digit: round it"


def _typed(file: Path) -> exp.Expr:
    from sqlglot.optimizer.annotate_types import annotate_types
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.schema import MappingSchema

    schema = MappingSchema(dialect="spark")
    query = read_query(file, PRODUCT)
    for table in query.tables:
        schema.add_table(table, {c.name: c.type for c in load_contract(table).columns})
    # The grammar knows functions by name only; here their meaning counts.
    statement = sqlglot.parse_one(query.text, dialect="spark").transform(_decimal_literal)
    qualified = qualify(statement, schema=schema, dialect="spark", quote_identifiers=False)
    return annotate_types(qualified, schema=schema, dialect="spark")


def _decimal_literal(node: exp.Expr) -> exp.Expr:
    # 100.0 is a decimal in Spark's SQL but a double to the parser.
    text = node.name
    if not isinstance(node, exp.Literal) or node.is_string or "." not in text or not text.replace(".", "").isdigit():
        return node
    digits = text.replace(".", "")
    return exp.cast(node.copy(), f"DECIMAL({len(digits)}, {len(text.partition('.')[2])})", dialect="spark")


def _kind(node: exp.Expr) -> str:
    if node.is_type("decimal"):
        return "decimal"
    return "double" if node.is_type("double", "float") else ""
