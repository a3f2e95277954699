"""Finds where an SQL expression loses a value or its decimals, so that the row is refused instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlglot
from sqlglot import exp

from jobs.declared.contract import Column, Contract

_Find = Callable[[Any], Any | None]
_TEXT = (exp.DataType.Type.TEXT, exp.DataType.Type.VARCHAR)
# Node types that leave an expression over published text a text.
_TEXTUAL = (
    exp.Column, exp.Identifier, exp.Literal, exp.Null, exp.Paren, exp.Case, exp.If, exp.Coalesce, exp.Nullif,
    exp.Predicate, exp.Connector, exp.Not, exp.Trim, exp.Lower, exp.Upper, exp.Replace, exp.Substring, exp.Left,
    exp.Right, exp.RegexpReplace, exp.RegexpExtract, exp.Concat, exp.DataType,
)  # fmt: skip
# Any number with a negative exponent, like 1e-9, is longer.
_SHORTEST_SMALL = 3
# An instant that begins with its year has no colon this early.
_EARLIEST_COLON = 6


def failure(expression: str, contract: Contract, column: Column) -> str | None:
    """SQL that is true where a conversion within an expression fails on a non-null value; None if none can fail.

    Of a CASE or IF only the branch taken counts, and a COALESCE only if all of it is null: with these an author says
    what becomes of a value that cannot be converted.

    Raises:
        DeclarationError: a conversion would stop the whole run at one bad value.
    """
    condition = _failure(sqlglot.parse_one(expression, dialect="spark"), contract, column)
    return _sql(condition) if condition else None


def surplus(expression: str) -> str | None:
    """SQL that is true where published text has more decimals than the DECIMAL it is converted to; None if none can.

    An engine would round them silently. Computed numbers are left alone, including those of ROUND, with which an author
    drops published decimals on purpose.
    """
    condition = _surplus(sqlglot.parse_one(expression, dialect="spark"))
    return _sql(condition) if condition else None


def _surplus(node: Any) -> Any | None:
    if isinstance(node, exp.Case):
        return _taken(node.args["ifs"], node.args.get("default"), node.this, _surplus)
    if isinstance(node, exp.If):
        return _taken([node], node.args.get("false"), None, _surplus)
    if isinstance(node, exp.Coalesce):
        each = [node.this, *node.expressions]
        ifs = [exp.If(this=exp.not_(one.copy().is_(exp.null())), true=one.copy()) for one in each]
        return _taken(ifs, None, None, _surplus)
    inner = _either_of([_surplus(child) for child in node.iter_expressions()])
    decimal = isinstance(node, exp.Cast) and node.to.this == exp.DataType.Type.DECIMAL
    if not decimal or not _is_text(node.this):
        return inner
    parameters = [int(p.name) for p in node.to.expressions]
    places = parameters[1] if len(parameters) > 1 else 0
    text = f"CAST({_sql(node.this)} AS STRING)"
    # The first test is cheap and spares most numbers the second.
    long = f"length({text}) - instr({text}, '.') > {min(places, _SHORTEST_SMALL)}"
    digits = f"{text} RLIKE '[.][0-9]{{{places}}}[0-9]*[1-9]|[1-9][0-9.]*[eE]-'"
    too_long = sqlglot.parse_one(f"CASE WHEN {long} THEN {digits} ELSE false END", dialect="spark")
    return _either(inner, too_long)


def _is_text(value: Any) -> bool:
    """Whether an expression is published text, perhaps trimmed or chosen, and not a computed number."""
    nodes = list(value.walk())
    plain = all(isinstance(n, _TEXTUAL) or (isinstance(n, exp.Cast) and n.to.this in _TEXT) for n in nodes)
    return plain and any(isinstance(n, exp.Column) for n in nodes)


def _failure(node: Any, contract: Contract, column: Column) -> Any | None:
    def find(within: Any) -> Any | None:
        return _failure(within, contract, column)

    if isinstance(node, exp.Case):
        return _branches(node.args["ifs"], node.args.get("default"), node.this, find)
    if isinstance(node, exp.If):
        return _branches([node], node.args.get("false"), None, find)
    inner = _either_of([find(child) for child in node.iter_expressions()])
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


def _branches(ifs: list[Any], default: Any | None, operand: Any | None, find: _Find) -> Any | None:
    """The condition of the branch taken, or of a test."""
    return _either_of([*(find(i.this) for i in ifs), _taken(ifs, default, operand, find)])


def _taken(ifs: list[Any], default: Any | None, operand: Any | None, find: _Find) -> Any | None:
    """The condition of the branch taken."""
    conditions = [find(i.args["true"]) for i in ifs]
    otherwise = find(default) if default is not None else None
    if not any(conditions) and not otherwise:
        return None
    return exp.Case(
        this=operand.copy() if operand is not None else None,
        ifs=[exp.If(this=i.this.copy(), true=f if f else exp.false()) for i, f in zip(ifs, conditions, strict=True)],
        default=otherwise if otherwise else exp.false(),
    )


def _lost(attempt: Any, value: Any) -> Any:
    """True where a value is present, and the attempt to convert it yields null or an invented value."""
    nothing = attempt.copy().is_(exp.null())
    kind = attempt.args.get("to")
    if kind is not None and kind.this in (exp.DataType.Type.TIMESTAMP, exp.DataType.Type.TIMESTAMPTZ):
        # The engine reads a bare time of day as today's, so the row would differ from day to day.
        early = f"instr(CAST({_sql(value)} AS STRING), ':') BETWEEN 1 AND {_EARLIEST_COLON}"
        nothing = exp.or_(nothing, sqlglot.parse_one(early, dialect="spark"))
    return exp.and_(exp.not_(value.copy().is_(exp.null())), exp.paren(nothing))


def _either_of(conditions: list[Any | None]) -> Any | None:
    present = [c for c in conditions if c]
    return exp.or_(*present) if present else None


def _either(first: Any | None, second: Any) -> Any:
    return exp.or_(first, second) if first else second


def yields(expression: str, kind: str) -> bool:
    """Whether an expression is a conversion to that very type, or to none."""
    root = sqlglot.parse_one(expression, dialect="spark")
    if isinstance(root, exp.Cast):
        return bool(root.args.get("safe")) and root.to.sql(dialect="spark").replace(" ", "").upper() == kind
    return isinstance(root, exp.Anonymous) and root.name.lower() == "try_to_timestamp" and kind == "TIMESTAMP"


def _refuse(node: Any, contract: Contract, column: Column) -> None:
    """Refuse a conversion that can raise an error; one of a literal, to text, or of a try_ function cannot."""
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
