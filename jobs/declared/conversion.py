"""Finds where an SQL expression loses a value or its decimals, so that the row is refused instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlglot
from sqlglot import exp

from jobs.declared.contract import Column, Contract
from jobs.declared.lossless import Text, decimal

_Find = Callable[[Any], Any | None]
_TEXT = (exp.DataType.Type.TEXT, exp.DataType.Type.VARCHAR)
# Node types that leave an expression over published text a text.
_TEXTUAL = (
    exp.Column, exp.Identifier, exp.Literal, exp.Null, exp.Paren, exp.Case, exp.If, exp.Coalesce, exp.Nullif,
    exp.Predicate, exp.Connector, exp.Not, exp.Trim, exp.Lower, exp.Upper, exp.Initcap, exp.Replace, exp.Substring,
    exp.SubstringIndex, exp.SplitPart, exp.Left, exp.Right, exp.Pad, exp.Translate, exp.RegexpReplace,
    exp.RegexpExtract, exp.Concat, exp.ConcatWs, exp.DPipe, exp.JSONExtractScalar, exp.JSONPath, exp.JSONPathPart,
    exp.DataType,
)  # fmt: skip
# Bookkeeping columns that are not text.
_TYPED = frozenset({"_row", "_logical_date"})
# An instant that begins with its year has no colon this early.
_EARLIEST_COLON = 6
_MICROSECONDS = 6


def conversion(expression: str) -> str:
    """SQL that computes the same as an expression, but trims the text that it converts and reads exponents of decimals.

    Args:
        expression: SQL over published text, as a contract declares it or as follows from a column's type.
    """
    root = sqlglot.parse_one(expression, dialect="spark")
    # What needs no change stays as its author wrote it.
    return _sql(_rewritten(root)) if any(map(_converts_text, root.find_all(exp.Cast))) else f"({expression})"


def failure(expression: str, contract: Contract, column: Column, converted: str) -> str | None:
    """SQL that is true where a conversion within an expression fails on a non-null value or loses part of its text.

    Only text can lose: what a computed value loses when it is converted, its author has asked for, as with
    ``try_cast(round(try_cast(x AS DOUBLE)) AS INT)``. Of a CASE or IF only the branch taken counts, and a COALESCE only
    if all of it is null: with these an author says what becomes of a value that cannot be converted.

    Args:
        expression: the expression as declared.
        contract: the contract, for messages.
        column: the column that the expression computes.
        converted: SQL of the expression's value, where it has been computed already.

    Returns:
        The condition; None if no value can fail.

    Raises:
        DeclarationError: a conversion would stop the whole run at one bad value.
    """
    root = sqlglot.parse_one(expression, dialect="spark")
    failed = _failure(root, contract, column)
    lost = _of_taken(root, lambda node: _text_of(node).is_lost)
    return _reading(converted, root, _either_of([failed, lost]))


def surplus(expression: str, converted: str) -> str | None:
    """SQL that is true where published text has more decimals than the DECIMAL it is converted to; None if none can.

    An engine would round them silently. Computed numbers are left alone, including those of ROUND, with which an author
    drops published decimals on purpose. The arguments are those of `failure`.
    """
    root = sqlglot.parse_one(expression, dialect="spark")
    return _reading(converted, root, _of_taken(root, _surplus))


def _reading(converted: str, root: Any, condition: Any | None) -> str | None:
    """A condition as SQL that reads the expression's value instead of computing it again."""
    if condition is None:
        return None
    value, computed = (sqlglot.parse_one(sql, dialect="spark") for sql in (converted, _sql(_rewritten(root))))
    return _sql(condition.transform(lambda node: value.copy() if node == computed else node))


def _surplus(node: Any) -> str | None:
    if node.to.this != exp.DataType.Type.DECIMAL:
        return None
    parameters = [int(p.name) for p in node.to.expressions]
    return _text_of(node).has_surplus(parameters[1] if len(parameters) > 1 else 0)


def _of_taken(node: Any, condition_of: Callable[[Any], str | None]) -> Any | None:
    """True where the condition of a conversion of text is, of those whose value the expression takes."""

    def find(within: Any) -> Any | None:
        return _of_taken(within, condition_of)

    if isinstance(node, exp.Case):
        return _taken(node.args["ifs"], node.args.get("default"), node.this, find)
    if isinstance(node, exp.If):
        return _taken([node], node.args.get("false"), None, find)
    if isinstance(node, exp.Coalesce):
        each = [node.this, *node.expressions]
        ifs = [exp.If(this=exp.not_(one.copy().is_(exp.null())), true=one.copy()) for one in each]
        return _taken(ifs, None, None, find)
    if _converts_text(node):
        condition = condition_of(node)
        return _parsed(condition) if condition else None
    return _either_of([find(child) for child in node.iter_expressions()])


def _is_text(value: Any) -> bool:
    """Whether an expression is published text, perhaps trimmed or chosen, and not a computed number."""
    nodes = list(value.walk())
    plain = all(isinstance(n, _TEXTUAL) or (isinstance(n, exp.Cast) and n.to.this in _TEXT) for n in nodes)
    columns = {n.name for n in nodes if isinstance(n, exp.Column)}
    return plain and bool(columns) and not columns & _TYPED and not _is_truth(value)


def _is_truth(value: Any) -> bool:
    """Whether an expression is a comparison, or chooses among comparisons."""
    value = value.unnest()
    if isinstance(value, exp.Case | exp.If):
        chosen = [*(i.args["true"] for i in value.args.get("ifs") or [value])]
        return any(_is_truth(one) for one in (*chosen, value.args.get("default"), value.args.get("false")) if one)
    if isinstance(value, exp.Coalesce | exp.Nullif):
        return _is_truth(value.this)
    return isinstance(value, exp.Predicate | exp.Connector | exp.Not)


def _converts_text(node: Any) -> bool:
    """Whether a node is a TRY_CAST of published text to another type."""
    is_try = isinstance(node, exp.Cast) and node.args.get("safe") and node.to.this not in _TEXT
    return bool(is_try) and _is_text(node.this)


def _rewritten(root: Any) -> Any:
    return root.copy().transform(lambda node: _attempt(node) if _converts_text(node) else node)


def _attempt(node: Any) -> Any:
    """The conversion of a text, trimmed."""
    if node.to.this == exp.DataType.Type.DECIMAL:
        return _parsed(decimal(_trimmed(node.this), _kind(node)))
    return exp.TryCast(this=_parsed(_trimmed(node.this)), to=node.to.copy(), safe=True)


def _text_of(node: Any) -> Text:
    return Text(_trimmed(node.this), _sql(_attempt(node)), _kind(node))


def _trimmed(value: Any) -> str:
    inner = value.unnest()
    is_trimmed = isinstance(inner, exp.Trim) and not inner.expression and not inner.args.get("position")
    # Some columns of silver.sql are not text.
    text = value if is_trimmed else exp.Trim(this=value.copy())
    return _sql(text)


def _kind(node: Any) -> str:
    return str(node.to.sql(dialect="spark")).replace(" ", "").upper()


def _parsed(condition: str) -> Any:
    return exp.paren(sqlglot.parse_one(condition, dialect="spark"))


def _failure(node: Any, contract: Contract, column: Column) -> Any | None:
    def find(within: Any) -> Any | None:
        return _failure(within, contract, column)

    if isinstance(node, exp.Case):
        return _branches(node.args["ifs"], node.args.get("default"), node.this, find)
    if isinstance(node, exp.If):
        return _branches([node], node.args.get("false"), None, find)
    inner = _either_of([find(child) for child in node.iter_expressions()])
    if isinstance(node, exp.Coalesce):
        return exp.and_(_rewritten(node).is_(exp.null()), inner) if inner else None
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
    branches = zip(ifs, conditions, strict=True)
    return exp.Case(
        this=operand.copy() if operand is not None else None,
        ifs=[exp.If(this=_rewritten(i.this), true=f if f else exp.false()) for i, f in branches],
        default=otherwise if otherwise else exp.false(),
    )


def _lost(attempt: Any, value: Any) -> Any:
    """True where a value is present, and the attempt to convert it yields null or an invented value."""
    nothing = _rewritten(attempt).is_(exp.null())
    kind = attempt.args.get("to")
    is_instant = kind is not None and kind.this in (exp.DataType.Type.TIMESTAMP, exp.DataType.Type.TIMESTAMPTZ)
    if is_instant and not _converts_text(attempt):
        # The engine reads a bare time of day as today's, so the row would differ from day to day.
        early = f"instr(CAST({_sql(value)} AS STRING), ':') BETWEEN 1 AND {_EARLIEST_COLON}"
        nothing = exp.or_(nothing, _parsed(early))
    if _cuts_fractions(attempt):
        cut = f"{_sql(value)} RLIKE '[.,][0-9]{{{_MICROSECONDS}}}0*[1-9]'"
        nothing = exp.or_(nothing, _parsed(cut))
    return exp.and_(exp.not_(_rewritten(value).is_(exp.null())), exp.paren(nothing))


def _cuts_fractions(attempt: Any) -> bool:
    """Whether a TRY_TO_TIMESTAMP reads more digits of a second than an instant keeps."""
    if not isinstance(attempt, exp.Anonymous) or attempt.name.lower() != "try_to_timestamp":
        return False
    return any("S" * (_MICROSECONDS + 1) in e.name for e in attempt.expressions[1:] if isinstance(e, exp.Literal))


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
