"""The grammar of all SQL that people write: what a query, a rule or an expression may contain, read and call.

Everything is an allow-list: kinds of nodes of the parsed tree, tables, functions and types. What is not listed is
refused with its place, so that a form nobody thought of fails closed. The engine never gets the text as written, but
the text of the checked tree, without comments and with every name in backticks: wherever the parsers of sqlglot,
Sail and Spark differ (nested comments, hints, prefixes of strings), the engine cannot read what was not checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache

from sqlglot import exp

from jobs.declared import functions
from jobs.declared.spark_sql import LONGEST_PIECE, SparkSql, SqlMistake, parse, text_of, too_deep

_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_NODES: frozenset[type[exp.Expr]] = frozenset({
    # Queries
    exp.Select, exp.From, exp.Join, exp.Where, exp.Group, exp.Having, exp.Order, exp.Ordered, exp.Limit, exp.Offset,
    exp.Distinct, exp.Union, exp.Except, exp.Intersect, exp.Subquery, exp.With, exp.CTE, exp.Table, exp.TableAlias,
    exp.Alias, exp.Aliases, exp.Lateral, exp.Values, exp.Tuple, exp.Rollup, exp.Cube, exp.GroupingSets, exp.Window,
    exp.WindowSpec, exp.Filter, exp.IgnoreNulls, exp.RespectNulls,
    # Names and values
    exp.Column, exp.Identifier, exp.Star, exp.Dot, exp.Literal, exp.Boolean, exp.Null, exp.Interval, exp.IntervalSpan,
    exp.Var, exp.DataType, exp.DataTypeParam, exp.ColumnDef, exp.Bracket,
    # Operators
    exp.Paren, exp.And, exp.Or, exp.Not, exp.Is, exp.In, exp.Between, exp.Like, exp.ILike, exp.RegexpLike, exp.Escape,
    exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Exists, exp.Case, exp.If,
    exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod, exp.Neg, exp.DPipe, exp.BitwiseAnd, exp.BitwiseOr,
    exp.BitwiseXor, exp.BitwiseNot, exp.BitwiseLeftShift, exp.BitwiseRightShift,
    # Calls; all but the few with a syntax of their own are Anonymous
    exp.Anonymous, exp.Cast, exp.TryCast, exp.Extract, exp.Trim, exp.Substring,
})  # fmt: skip
# Reading may also ask for these, which are parsed even without parentheses.
_MOMENTS: dict[type[exp.Expr], str] = {exp.CurrentDate: "current_date", exp.CurrentTimestamp: "current_timestamp"}
_TYPES = frozenset({
    "BOOLEAN", "TINYINT", "SMALLINT", "INT", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL", "TEXT", "VARCHAR", "CHAR", "DATE",
    "TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMPLTZ", "TIMESTAMPNTZ", "BINARY", "ARRAY", "STRUCT", "MAP",
})  # fmt: skip
_TABLE_PARTS = frozenset({"this", "db", "alias", "joins", "laterals"})
_WORDS: dict[type[exp.Expr], str] = {
    exp.QueryTransform: "TRANSFORM … USING", exp.Hint: "a hint", exp.Version: "time travel", exp.Lambda: "a lambda",
    exp.TableSample: "TABLESAMPLE", exp.Pivot: "PIVOT or UNPIVOT", exp.Into: "INTO", exp.Placeholder: "a parameter",
    exp.Parameter: "a parameter", exp.RawString: "a raw string", exp.HexString: "a string of bytes",
    exp.Sort: "SORT BY", exp.Cluster: "CLUSTER BY", exp.Distribute: "DISTRIBUTE BY", exp.Qualify: "QUALIFY",
    exp.Concat: "two strings side by side", exp.Kwarg: "an argument by name", exp.Command: "this statement",
}  # fmt: skip


@dataclass(frozen=True)
class Grammar:
    """What one kind of SQL may read and call.

    Attributes:
        tables: what it may read, in words.
        schemas: names of the schemas whose tables it may name.
        names: names of tables without a schema that it may read, in lower case.
        calls: names of the functions it may call, in lower case.
        of_one_row: it is computed from one row: no queries, no aggregates, no windows.
        is_stable: its value may not depend on the moment, on chance or on the order of rows.
    """

    tables: str
    schemas: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    calls: frozenset[str] = functions.DECLARED
    of_one_row: bool = False
    is_stable: bool = True


PRODUCT = Grammar("only silver.<source> and gold.<product>", schemas=frozenset({"silver", "gold"}))
RESHAPE = Grammar("only the view bronze", names=frozenset({"bronze"}))
# Stands for `${table}` while a rule's query is parsed.
TABLE = "_the_table_of_the_contract_"
RULE = Grammar("only ${table}", names=frozenset({TABLE}))
ROW = Grammar("no table: it is computed from one row", calls=functions.SCALARS, of_one_row=True)
READABLE = ("silver", "gold", "release", "quarantine", "ops")
READING = Grammar(
    "silver.x, gold.x, release.x, quarantine.x and ops.runs",
    schemas=frozenset(READABLE),
    calls=functions.READING, is_stable=False,
)  # fmt: skip


@dataclass(frozen=True)
class Checked:
    """SQL that its grammar allows.

    Attributes:
        tree: as written; calls are `exp.Anonymous`, under the name they are written with.
        tables: the tables with a schema that it reads, sorted, in lower case.
        grammar: the one that allows it.
        is_query: whether it is a query, else an expression.
    """

    tree: exp.Expr
    tables: tuple[str, ...]
    grammar: Grammar
    is_query: bool

    @cached_property
    def sent(self) -> exp.Expr:
        """The tree of what the engine reads: printed, parsed and checked once more, so that printing neither adds nor
        loses anything. Takes twice the time of the check, so those who only ask what a query reads are spared it.

        Raises:
            SqlMistake: it cannot be written in a way that all parsers agree on.
        """
        text = text_of(self.tree)
        again = parse(text, is_query=self.is_query)
        tables: set[str] = set()
        _Visitor(self.grammar, tables).visit(again, self.grammar.names)
        if text_of(again) != text or tuple(sorted(tables)) != self.tables:
            raise SqlMistake("this cannot be written in one way for all engines", next_step="write it more plainly")
        return again

    @property
    def text(self) -> str:
        """What the engine reads; raises as `sent`."""
        return text_of(self.sent)

    @property
    def selects(self) -> list[exp.Expr]:
        """What the query selects, if it is a SELECT."""
        return list(self.tree.selects) if isinstance(self.tree, exp.Query) else []


def check_query(text: str, grammar: Grammar) -> Checked:
    """Check one SELECT, or VALUES.

    Raises:
        SqlMistake: it does not parse, is not exactly one query, or has something that the grammar does not allow.
    """
    return _checked(text, grammar, is_query=True)


@lru_cache(maxsize=4096)
def check_expression(text: str) -> Checked:
    """Check one expression over the columns of one row, as `check_query` does a query."""
    return _checked(text, ROW, is_query=False)


def _checked(text: str, grammar: Grammar, *, is_query: bool) -> Checked:
    tree = parse(text, is_query=is_query)
    tables: set[str] = set()
    try:
        _Visitor(grammar, tables).visit(tree, grammar.names)
    except RecursionError:
        raise too_deep() from None
    return Checked(tree, tuple(sorted(tables)), grammar, is_query)


@dataclass(frozen=True)
class _Visitor:
    grammar: Grammar
    tables: set[str]

    def visit(self, node: exp.Expr, names: frozenset[str]) -> None:
        """Check a node and all below it; `names` are the tables without a schema that can be read there."""
        kind = type(node)
        if kind not in _NODES and not self._is_moment(kind):
            raise _refused(node, _WORDS.get(kind, f"{kind.__name__} in"))
        if self.grammar.of_one_row and isinstance(node, exp.Query | exp.Window | exp.Values):
            raise _refused(node, "more than one row in", expected=self.grammar.tables)
        names = names | frozenset(self._definitions(node, names))
        if isinstance(node, exp.Table):
            self._table(node, names)
        elif isinstance(node, exp.Anonymous):
            self._call(node)
        elif isinstance(node, exp.Column):
            self._column(node)
        else:
            _check_form(node)
        for key, value in node.args.items():
            if key == "with_":
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, exp.Expr):
                    self.visit(child, names)

    def _is_moment(self, kind: type[exp.Expr]) -> bool:
        return _MOMENTS.get(kind) in self.grammar.calls

    def _definitions(self, node: exp.Expr, names: frozenset[str]) -> Iterator[str]:
        """The names that a WITH defines; each query of it can read those before."""
        definitions = node.args.get("with_")
        if definitions is None:
            return
        if definitions.args.get("recursive"):
            raise _refused(node, "WITH RECURSIVE in")
        for definition in definitions.expressions:
            self.visit(definition, names)
            name = definition.alias.lower()
            if name == TABLE:
                raise _refused(definition, "a name of ours in")
            names = names | {name}
            yield name

    def _table(self, table: exp.Table, names: frozenset[str]) -> None:
        if isinstance(table.this, exp.Anonymous):
            name = str(table.this.this).lower()
            if table.args.get("db") or name not in functions.TABLES or self.grammar.of_one_row:
                raise _refused(table.this, "the table function", expected=", ".join(sorted(functions.TABLES)))
            return
        surplus = [part for part, value in table.args.items() if value and part not in _TABLE_PARTS]
        named = isinstance(table.this, exp.Identifier) and _NAME.match(table.name)
        schema = table.db.lower()
        is_allowed = schema in self.grammar.schemas if schema else table.name.lower() in names
        if surplus or not named or not is_allowed:
            what = f"the query reads '{_piece(table)}'".replace(TABLE, "${table}")
            raise SqlMistake(
                what, expected=self.grammar.tables,
                next_step="name the table, without path, catalogue, function or time travel", **_place(table),
            )  # fmt: skip
        if schema:
            self.tables.add(f"{schema}.{table.name.lower()}")

    def _call(self, call: exp.Anonymous) -> None:
        name = call.this.lower() if isinstance(call.this, str) else ""
        known = functions.TABLES if isinstance(call.parent, exp.Table | exp.Lateral) else self.grammar.calls
        if isinstance(call.parent, exp.Dot):
            raise _refused(call, "a function of a schema in")
        if name not in known:
            near = get_close_matches(name, known, 3, 0.7)
            raise SqlMistake(
                f"the function {str(call.this)[:LONGEST_PIECE]}() is not allowed here",
                expected=f"perhaps {' or '.join(near)}" if near else "a function that both engines compute alike",
                next_step="use one of those that jobs/declared/functions.py lists", **_place(call),
            )  # fmt: skip
        if name in functions.COUNTS_UNITS and len(call.expressions) > functions.COUNTS_UNITS[name]:
            raise _refused(call, "a unit of time in", expected="date_add(d, 1), datediff(d, e) or t + INTERVAL 1 HOUR")
        if name in functions.NEEDS_ARGUMENT and not call.expressions and self.grammar.is_stable:
            raise _refused(call, "the present moment in", expected="an argument")
        if self.grammar.is_stable:
            self._require_order(call, name)

    def _require_order(self, call: exp.Anonymous, name: str) -> None:
        around = call.parent
        while isinstance(around, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
            around = around.parent
        if name in functions.WINDOWS and not isinstance(around, exp.Window):
            raise _refused(call, "the order of rows decides", expected="OVER (… ORDER BY …) after it")
        outer = around.this if isinstance(around, exp.Anonymous) else ""
        if name in functions.COLLECTIONS and str(outer).lower() not in functions.ORDERLESS:
            raise _refused(call, "the order of rows decides", expected="sort_array(…) around it")

    def _column(self, column: exp.Column) -> None:
        name = column.name.lower()
        if self.grammar.of_one_row or column.args.get("table"):
            return
        if name in functions.CALLED_WITHOUT_PARENTHESES and name not in self.grammar.calls:
            raise _refused(column, "what may be a call of a function", expected="<table>.<column>, if it is a column")


def _check_form(node: exp.Expr) -> None:
    """Refuse forms of allowed nodes that hide something."""
    if isinstance(node, exp.DataType) and node.this.name not in _TYPES:
        raise _refused(node, "the type")
    if isinstance(node, exp.TableAlias | exp.CTE) and node.alias and not _NAME.match(node.alias):
        raise _refused(node, "the name", expected="letters, digits and underscores")
    if isinstance(node, exp.Var) and not _NAME.match(node.name):
        raise _refused(node, "the word")
    if isinstance(node, exp.Dot) and not isinstance(node.expression, exp.Identifier | exp.Star):
        raise _refused(node, "a call within")
    if isinstance(node, exp.In) and (node.args.get("field") or node.args.get("unnest")):
        raise _refused(node, "IN without a list in", expected="IN (…)")
    if isinstance(node, exp.Select) and (node.args.get("kind") or node.args.get("operation_modifiers")):
        raise _refused(node, "a modifier of SELECT in")
    if isinstance(node, exp.Lateral) and not isinstance(node.this, exp.Anonymous | exp.Subquery):
        raise _refused(node, "LATERAL of")


def _refused(node: exp.Expr, what: str, *, expected: str | None = None) -> SqlMistake:
    return SqlMistake(
        f"{what} '{_piece(node)}' is not allowed here".replace(TABLE, "${table}"), expected=expected,
        next_step="write it with plain queries, operators and the functions of jobs/declared/functions.py",
        **_place(node),
    )  # fmt: skip


def _piece(node: exp.Expr) -> str:
    text = " ".join(str(node.sql(dialect=SparkSql, comments=False)).split())
    return text if len(text) <= LONGEST_PIECE else f"{text[: LONGEST_PIECE - 1]}…"


def _place(node: exp.Expr) -> dict[str, int | None]:
    """Line and column of the first token of a node that has them."""
    places = [(n.meta["line"], n.meta["start"], n.meta["col"]) for n in node.walk() if "line" in n.meta]
    if not places:
        return {"line": None, "column": None}
    line, _, column = min(places)
    return {"line": line, "column": column}
