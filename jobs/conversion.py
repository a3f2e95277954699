"""Finds where an SQL expression may fail to convert a value, so that the row is refused instead of losing the value."""

from __future__ import annotations

from typing import Any

import sqlglot
from sqlglot import exp

from jobs.contract import Column, Contract

_TEXT = (exp.DataType.Type.TEXT, exp.DataType.Type.VARCHAR)
# An instant that begins with its year has no colon this early.
_EARLIEST_COLON = 6


def failure(expression: str, contract: Contract, column: Column) -> str | None:
    """SQL that is true where a conversion within an expression fails on a value that is there; None if none can fail.

    Only the branch of a CASE or IF that is taken counts, and of COALESCE only a whole that comes to nothing: with these
    an author says what becomes of a value that cannot be converted.

    Raises:
        DeclarationError: a conversion would stop the whole run at one bad value.
    """
    found = _failure(sqlglot.parse_one(expression, dialect="spark"), contract, column)
    return _sql(found) if found else None


def _failure(node: Any, contract: Contract, column: Column) -> Any | None:
    if isinstance(node, exp.Case):
        return _branches(node.args["ifs"], node.args.get("default"), node.this, contract, column)
    if isinstance(node, exp.If):
        return _branches([node], node.args.get("false"), None, contract, column)
    within = [f for f in (_failure(c, contract, column) for c in node.iter_expressions()) if f]
    inner = exp.or_(*within) if within else None
    if isinstance(node, exp.Coalesce):
        return exp.and_(node.copy().is_(exp.null()), inner) if inner else None
    if isinstance(node, exp.Cast):
        # The parser calls a CAST of Spark a TryCast too, and tells them apart by `safe`.
        if not node.args.get("safe"):
            _refuse(node, contract, column)
            return inner
        return _either(inner, _lost(node, node.this))
    if isinstance(node, exp.TsOrDsToDate | exp.StrToTime | exp.ToNumber):
        _refuse(node, contract, column)
    if isinstance(node, exp.Anonymous) and node.name.lower().startswith("try_") and node.expressions:
        return _either(inner, _lost(node, node.expressions[0]))
    return inner


def _branches(
    ifs: list[Any], default: Any | None, operand: Any | None, contract: Contract, column: Column
) -> Any | None:
    """The failure of the branch that is taken, or of a condition."""
    conditions = [f for f in (_failure(i.this, contract, column) for i in ifs) if f]
    failures = [_failure(i.args["true"], contract, column) for i in ifs]
    otherwise = _failure(default, contract, column) if default is not None else None
    if any(failures) or otherwise:
        taken = exp.Case(
            this=operand.copy() if operand is not None else None,
            ifs=[exp.If(this=i.this.copy(), true=f if f else exp.false()) for i, f in zip(ifs, failures, strict=True)],
            default=otherwise if otherwise else exp.false(),
        )
        conditions.append(taken)
    return exp.or_(*conditions) if conditions else None


def _lost(attempt: Any, value: Any) -> Any:
    """True where there is a value, and the attempt to convert it yields none, or one of its own invention."""
    nothing = attempt.copy().is_(exp.null())
    kind = attempt.args.get("to")
    if kind is not None and kind.this in (exp.DataType.Type.TIMESTAMP, exp.DataType.Type.TIMESTAMPTZ):
        # The engine reads a time of day as one of today, which would give another row on another day.
        early = f"instr(CAST({_sql(value)} AS STRING), ':') BETWEEN 1 AND {_EARLIEST_COLON}"
        nothing = exp.or_(nothing, sqlglot.parse_one(early, dialect="spark"))
    return exp.and_(exp.not_(value.copy().is_(exp.null())), exp.paren(nothing))


def _either(first: Any | None, second: Any) -> Any:
    return exp.or_(first, second) if first else second


def yields(expression: str, kind: str) -> bool:
    """Whether an expression is a conversion to that very type, or to none."""
    root = sqlglot.parse_one(expression, dialect="spark")
    if isinstance(root, exp.Cast):
        return bool(root.args.get("safe")) and root.to.sql(dialect="spark").replace(" ", "").upper() == kind
    return isinstance(root, exp.Anonymous) and root.name.lower() == "try_to_timestamp" and kind == "TIMESTAMP"


def _refuse(node: Any, contract: Contract, column: Column) -> None:
    """Refuse a conversion that raises an error, unless nothing can go wrong: of a literal, to text, or of a try_."""
    value = node.this.unnest()
    tried = isinstance(value, exp.TryCast) and value.args.get("safe")
    tried = tried or (isinstance(value, exp.Anonymous) and value.name.lower().startswith("try_"))
    is_cast = isinstance(node, exp.Cast)
    if isinstance(value, exp.Literal) or (node.to.this in _TEXT if is_cast else tried):
        return
    raise contract.mistake(
        f"the transformLogic of {column.name} uses {_sql(node)[:80]}, which stops the whole run at one bad value",
        ("schema", 0, "properties", contract.columns.index(column), "transformLogic"),
        expected="TRY_CAST(… AS …) or TRY_TO_TIMESTAMP(…, 'format'), which refuse that row only",
    )


def _sql(node: Any) -> str:
    return str(node.sql(dialect="spark"))
