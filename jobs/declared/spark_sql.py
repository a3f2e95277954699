"""Spark SQL as text and as a tree, the same way for all who check, change or send it.

Functions are parsed by name only, so that what is checked is the name that the engine will look up.
"""

from __future__ import annotations

import logging
import re
from typing import Any, ClassVar

from sqlglot import exp
from sqlglot.dialects.spark import Spark
from sqlglot.errors import ErrorLevel, SqlglotError
from sqlglot.parsers.spark import SparkParser
from sqlglot.tokenizer_core import Token, TokenType

from jobs.errors import ExchangeError

# It warns on stderr about statements that it parses only in part, for example SHOW; here they are refused.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

NOT_A_QUERY = "not exactly one SELECT"
# Characters of a statement that a message repeats.
LONGEST_PIECE = 80
_ESCAPES = re.compile(r"\\(?:[\\'\"nrtb%_]|0(?![0-9]))")
_SYNTAX = ("CAST", "TRY_CAST", "EXTRACT", "TRIM", "SUBSTR", "SUBSTRING")


class SparkSql(Spark):
    """Spark SQL whose function calls keep the name they are written with."""

    class Parser(SparkParser):
        """Parses calls by name; only what has a syntax of its own keeps its parser."""

        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            k: v for k, v in SparkParser.FUNCTION_PARSERS.items() if k in _SYNTAX
        }
        NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            k: v for k, v in SparkParser.NO_PAREN_FUNCTION_PARSERS.items() if k in ("CASE", "IF", "TRANSFORM")
        }


class SqlMistake(ExchangeError):
    """SQL that does not parse, or has something that its grammar does not allow; callers add the file."""

    def __init__(
        self, what: str, *, expected: str | None = None, next_step: str | None = None,
        line: int | None = None, column: int | None = None,
    ) -> None:  # fmt: skip
        self.line, self.column = line, column
        super().__init__(what, expected=expected, next_step=next_step)


def text_of(tree: exp.Expr) -> str:
    """A checked tree, or part of one, as SQL for the engine.

    Raises:
        SqlMistake: it has something that cannot be written as Spark SQL.
    """
    try:
        return SparkSql().generate(
            tree, comments=False, identify=True, normalize_functions=False, unsupported_level=ErrorLevel.RAISE
        )
    except SqlglotError as error:
        raise SqlMistake(f"this cannot be said in Spark SQL: {error}", next_step="write it in another way") from None
    except RecursionError:
        raise too_deep() from None


def parse(text: str, *, is_query: bool) -> exp.Expr:
    """The tree of one query, or of one expression; the caller decides whether it is allowed.

    Raises:
        SqlMistake: it does not parse, or is not exactly one of them.
    """
    dialect = SparkSql()
    try:
        tokens = dialect.tokenize(text)
        for token in tokens:
            _check_string(text, token)
        trees = [tree for tree in dialect.parser().parse(tokens, text) if tree is not None]
    except SqlglotError as error:
        raise _unparsed(error, "the SQL does not parse" if is_query else "not an SQL expression") from None
    except RecursionError:
        raise too_deep() from None
    if is_query and (len(trees) != 1 or not isinstance(trees[0], exp.Query | exp.Values)):
        raise SqlMistake(NOT_A_QUERY, expected="one SELECT statement and nothing else")
    if not is_query and (len(trees) != 1 or isinstance(trees[0], exp.Alias | exp.Aliases | exp.Star | exp.Command)):
        raise SqlMistake("not exactly one SQL expression", expected="one SQL expression, without AS, and nothing else")
    _name_exists(trees[0])
    return trees[0]


def _name_exists(tree: exp.Expr) -> None:
    """Make EXISTS what it is where its query begins with a parenthesis, which sqlglot takes for a function's."""
    for call in list(tree.find_all(exp.Anonymous)):
        is_exists = str(call.this).upper() == "EXISTS" and len(call.expressions) == 1
        if is_exists and isinstance(query := call.expressions[0], exp.Query):
            call.replace(exp.Exists(this=query))


def _check_string(text: str, token: Token) -> None:
    """Refuse escapes that engines read differently, or that are mostly a mistake: '\\d' is 'd'."""
    if token.token_type != TokenType.STRING:
        return
    raw = text[token.start : token.end + 1]
    rest = _ESCAPES.sub("", raw)
    if "\\" in rest:
        escape = rest[rest.index("\\") :][:2]
        raise SqlMistake(
            f"the escape {escape} in the string {raw[:LONGEST_PIECE]}",
            expected=r"one of: \\ \' \" \n \r \t \b \0 \% \_",
            next_step=f"write \\{escape} for a backslash, or the character itself",
            line=token.line, column=token.col - len(raw) + 1,
        )  # fmt: skip


def _unparsed(error: Exception, what: str) -> SqlMistake:
    details = getattr(error, "errors", None)
    if not details:
        first = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()[0]
        return SqlMistake(f"{what}: {first}", next_step="correct it")
    near = (details[0].get("highlight") or "").strip()
    detail = f"{details[0].get('description')}" + (f" near '{near}'" if near else "")
    line, column = details[0].get("line"), details[0].get("col")
    return SqlMistake(f"{what}: {detail}", next_step="correct it", line=line, column=column)


def too_deep() -> SqlMistake:
    """The mistake for a tree that Python cannot walk within its limit of recursion."""
    return SqlMistake("the SQL is nested too deeply", next_step="write it more plainly")
