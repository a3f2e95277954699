"""Compiles a source's declaration and contract into SQL that reshapes and types rows and separates refused ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from sqlglot import exp

from jobs.bronze.step import WHOLE_FILE, columns_of
from jobs.declared.catalog import Source
from jobs.declared.compile import row_rules
from jobs.declared.contract import Column, Contract
from jobs.declared.conversion import conversion, failure, surplus, yields
from jobs.declared.grammar import RESHAPE
from jobs.declared.lossless import out_of_range
from jobs.declared.sql import columns_read, literal, quote, read_query
from jobs.errors import DeclarationError
from jobs.lake import ORIGIN, Workspace
from jobs.silver.local_times import LocalTimes, local_times

_RULE = "_rule"
_EXTRA = "_extra"
# The rule of a file that could not be read at all.
FILE_RULE = "format.file"


@dataclass(frozen=True)
class RefusalReason:
    """One reason to refuse a row.

    Attributes:
        columns: the contract's columns that it concerns.
        shown: the published columns to show the values of.
        condition: SQL that is true for refused rows: over published text if `of_type`, else over typed columns.
    """

    rule: str
    columns: tuple[str, ...]
    shown: tuple[str, ...]
    condition: str
    of_type: bool = False


@dataclass(frozen=True)
class Split:
    """The SQL that turns a source's bronze rows into silver rows.

    Each property is one SELECT; `good` yields the contract's columns and the origin columns.

    Attributes:
        source: the source.
        contract: its table's contract.
        work: the workspace whose views it reads.
        rows: name there of the view of the readable records; all records are in the view `bronze`.
        spans: where the batch's local times lie, as `spanned` finds it.
    """

    source: Source
    contract: Contract
    work: Workspace
    rows: str = "bronze"
    spans: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @cached_property
    def local(self) -> LocalTimes:
        """The columns that hold local times."""
        return local_times(self.source, self.contract, self.spans)

    def spanned(self) -> Split:
        """The same for the rows there are: it reads them, and asks only for zones' stretches that they fall into."""
        if not self.local.zones:
            return self
        spans = self.local.spans_of(self._local_cells, [self.converted(c) for c in self.contract.columns])
        return replace(self, spans=spans)

    @property
    def _local_cells(self) -> str:
        return f"SELECT {self._conversions(self.local.zones)} FROM ({self.cells})"

    @cached_property
    def reshaped(self) -> str:
        """Rows in silver's grain with every cell as published text; nothing is dropped yet."""
        if self.source.silver_sql:
            return self._own_query()
        readable = f"SELECT * FROM {self.work.view(self.rows)}"
        if self.rows == "bronze":
            readable += " WHERE _refused IS NULL"
        if not self.source.declared.reshape:
            return readable
        unpivot = self.source.declared.reshape.unpivot
        kept = {k.strip() for k in unpivot.keep}
        wide = [c for c in columns_of(self.source) if c not in kept]
        keep = ", ".join(quote(c) for c in (*[k.strip() for k in unpivot.keep], *self._undeclared, *ORIGIN))
        cells = ", ".join(map(quote, wide))
        name, value = quote(unpivot.name), quote(unpivot.value)
        return (
            f"SELECT {keep}, {name}, {value} FROM (SELECT {keep}, {cells} FROM ({readable}))"
            f" UNPIVOT INCLUDE NULLS ({value} FOR {name} IN ({cells}))"
        )

    @cached_property
    def raw_columns(self) -> tuple[str, ...]:
        """Names of the text columns of `reshaped`, without the origin columns."""
        if self.source.silver_sql:
            selects = read_query(self.source.silver_sql, RESHAPE).selects
            names = [n for p in selects for n in (columns_of(self.source) if p.is_star else (p.alias_or_name,))]
            return self._distinct(tuple(n for n in names if not n.startswith("_")), self.source.silver_sql)
        if not self.source.declared.reshape:
            return columns_of(self.source)
        unpivot = self.source.declared.reshape.unpivot
        return self._distinct((*(k.strip() for k in unpivot.keep), unpivot.name, unpivot.value), self.source.file)

    def _distinct(self, names: tuple[str, ...], file: Path) -> tuple[str, ...]:
        lower = [n.lower() for n in names]
        twice = sorted({n for n in names if lower.count(n.lower()) > 1})
        if twice:
            raise DeclarationError(
                f"the reshaped rows have two columns named {', '.join(twice)}", file=file, expected="each name once",
                next_step="rename one of them",
            )  # fmt: skip
        return names

    @cached_property
    def _undeclared(self) -> tuple[str, ...]:
        """The column of undeclared cells, where the contract reads it."""
        if self.source.silver_sql:
            return ()
        transforms = [(c.name, c.transform) for c in self.contract.columns if c.transform]
        read = [n for c, t in transforms for n in columns_read(t, self.contract.file, f"{c}.transformLogic")]
        return (_EXTRA,) if any(n.lower() == _EXTRA for n in read) else ()

    @cached_property
    def dropped(self) -> str | None:
        """SQL that is true for reshaped rows declared as placeholders to drop; None if none are declared."""
        terms = []
        for drop in self.source.declared.drop:
            self._require_column(drop.column, f"drop of {drop.column}")
            listed = ", ".join(literal(v) for v in drop.values)
            empty = f" OR {quote(drop.column)} IS NULL" if "" in drop.values else ""
            terms.append(f"({quote(drop.column)} IN ({listed}){empty})")
        return " OR ".join(terms) or None

    @cached_property
    def cells(self) -> str:
        """Reshaped rows that are not dropped, with the publisher's words for "no value" replaced by nulls."""
        null_values = self.source.declared.format.null_values
        keep = f" WHERE NOT coalesce({self.dropped}, false)" if self.dropped else ""
        if self.source.silver_sql or not null_values:
            return f"SELECT * FROM ({self.reshaped}){keep}"
        cells = ", ".join(map(self._cell, self.raw_columns))
        origin = ", ".join(map(quote, (*self._undeclared, *ORIGIN)))
        return f"SELECT {cells}, {origin} FROM ({self.reshaped}){keep}"

    def _cell(self, name: str) -> str:
        """A published column, null where it has one of the publisher's words for "no value"."""
        cell, listed = quote(name), ", ".join(literal(v) for v in self.source.declared.format.null_values)
        return f"CASE WHEN {cell} IN ({listed}) THEN NULL ELSE {cell} END AS {cell}" if listed else cell

    @cached_property
    def refusals(self) -> tuple[RefusalReason, ...]:
        """All reasons to refuse a row: first types, then the contract's row rules."""
        typing = [r for c in self.contract.columns for r in (self._typing(c), self._decimals(c)) if r]
        local = [r for c in self.contract.columns for r in self._local(c)]
        return (*typing, *local, *self._rules())

    @cached_property
    def typed(self) -> str:
        """Every row, typed, with the number of its first reason for refusal in `_rule` (null for a good row).

        Stage it as the workspace's view `typed`, which the other queries read: an engine that filters by `_rule` would
        otherwise recompute each expression behind it at each use, some ten times. Only refused rows carry their
        published cells, singly and as JSON.
        """
        everything = range(len(self.contract.columns))
        first, rules = self._first(range(len(self.refusals)))
        verdict = f"coalesce(_typing, {rules})"
        # Conditions read a converted value from here instead of converting its text again.
        converted, expressions = self._conversions(everything), self._expressions(everything)
        columns = ", ".join(map(quote, (*self.contract.names, *ORIGIN)))
        origin = ", ".join(map(quote, ORIGIN))
        published = (*self.raw_columns, *self._undeclared)
        each = ", ".join(f"CAST({quote(c)} AS STRING) AS _cell{i}" for i, c in enumerate(published))
        shown = ", ".join(f"{literal(c)}, _cell{i}" for i, c in enumerate(published))
        of_refused = {f"_cell{i}": f"_cell{i}" for i in range(len(published))}
        of_refused["_cells"] = f"to_json(named_struct({shown}))"
        kept = ", ".join(f"CASE WHEN {_RULE} IS NOT NULL THEN {sql} END AS {name}" for name, sql in of_refused.items())
        names = [self.converted(c) for c in self.contract.columns]
        cells = self.local.located(f"SELECT *, {converted} FROM ({self.cells})", names)
        flags = "".join(f", {flag}" for flag in self.local.flags(names))
        inner = f"SELECT {expressions}, {first} AS _typing, {origin}, {each}{flags} FROM ({cells})"
        columns = ", ".join((columns, *self.local.flag_names))
        return f"SELECT {columns}, {_RULE}, {kept} FROM (SELECT *, {verdict} AS {_RULE} FROM ({inner}))"

    def of_texts(
        self, view: str, number: str, published: Sequence[str], columns: Sequence[int],
        verdicts: Mapping[str, Sequence[int]], good: int,
    ) -> str:  # fmt: skip
        """SELECT of some of the contract's columns for each row of a view that has what they read, with its number.

        Args:
            view: name of the view.
            number: its column that numbers the rows.
            published: its other columns, which are published ones.
            columns: places in the contract of the columns to compute.
            verdicts: further columns: each has the number of the first of these refusals that is true.
            good: their value where none is.
        """
        cells = ", ".join(self._cell(name) for name in published)
        names = ", ".join(quote(self.contract.names[i]) for i in columns)
        firsts = {name: self._first(refusals) for name, refusals in verdicts.items()}
        typing = ", ".join(f"{first} AS {name}" for name, (first, _) in firsts.items())
        each = ", ".join(f"coalesce({name}, {rules}, {good}) AS {name}" for name, (_, rules) in firsts.items())
        comma = ", " if columns else ""
        converted, expressions = self._conversions(columns), self._expressions(columns)
        texts = f"SELECT {number}, {cells} FROM {view}"
        inner = f"SELECT {number}, {expressions}{comma}{typing} FROM (SELECT *{comma}{converted} FROM ({texts}))"
        return f"SELECT {number}, {names}{comma}{each} FROM ({inner})"

    def _first(self, numbers: Iterable[int]) -> tuple[str, str]:
        """SQL of the number of the first of some refusals that is true, of those of a type and of the others."""
        cases = {True: "", False: ""}
        for i in numbers:
            cases[self.refusals[i].of_type] += f" WHEN {self.refusals[i].condition} THEN {i}"
        typing, rules = (f"CASE{case} END" if case else "CAST(NULL AS INT)" for case in (cases[True], cases[False]))
        return typing, rules

    def _conversions(self, columns: Iterable[int]) -> str:
        chosen = [self.contract.columns[i] for i in columns]
        return ", ".join(f"{conversion(self.expression(c))} AS {self.converted(c)}" for c in chosen)

    def _expressions(self, columns: Iterable[int]) -> str:
        chosen = [(i, self.contract.columns[i]) for i in columns]
        return ", ".join(f"{self.local.instant(i, self.converted(c))} AS {quote(c.name)}" for i, c in chosen)

    @cached_property
    def good(self) -> str:
        """The rows of the view `typed` that no rule refuses."""
        columns = ", ".join(map(quote, (*self.contract.names, *ORIGIN)))
        return f"SELECT {columns} FROM {self.work.view('typed')} WHERE {_RULE} IS NULL"

    @cached_property
    def refused_keys(self) -> str:
        """The keys and places of the refused rows of the view `typed`."""
        columns = ", ".join(map(quote, (*self.contract.key, *ORIGIN)))
        return f"SELECT {columns} FROM {self.work.view('typed')} WHERE {_RULE} IS NOT NULL"

    @cached_property
    def refused(self) -> str:
        """The refused rows of the view `typed`, in quarantine's columns: rule, column, value, record and origin."""
        return f"{self._refused_cells()} UNION ALL {refused_records(self.work)}"

    def _refused_cells(self) -> str:
        rule = _case(_RULE, [literal(r.rule) for r in self.refusals])
        column = _case(_RULE, [literal(", ".join(r.columns)) for r in self.refusals])
        value = _case(_RULE, [self._shown(r) for r in self.refusals])
        origin = ", ".join(map(quote, ORIGIN))
        return (
            f"SELECT {rule} AS rule, {column} AS column_name, {value} AS value, _cells AS record, {origin}"
            f" FROM {self.work.view('typed')} WHERE {_RULE} IS NOT NULL"
        )

    def _shown(self, refusal: RefusalReason) -> str:
        places = {c.lower(): i for i, c in enumerate((*self.raw_columns, *self._undeclared))}
        values = [
            f"_cell{places[c.lower()]}" if c.lower() in places else f"CAST({quote(c)} AS STRING)" for c in refusal.shown
        ]
        return f"concat_ws(', ', {', '.join(values)})" if values else "CAST(NULL AS STRING)"

    def expression(self, column: Column) -> str:
        """The SQL that computes a column from the published text."""
        if column.transform:
            is_typed = column.type == "STRING" or yields(column.transform, column.type)
            return f"({column.transform})" if is_typed else f"try_cast(({column.transform}) AS {column.type})"
        source = quote(self._same_name(column))
        # silver.sql may return columns that are typed already.
        text = f"CAST({source} AS STRING)" if self.source.silver_sql else source
        return text if column.type == "STRING" else f"try_cast(trim({text}) AS {column.type})"

    def converted(self, column: Column) -> str:
        """Name of a column's value before it is known whether the row is good; published columns may have its name."""
        return f"_converted{self.contract.columns.index(column)}"

    def _typing(self, column: Column) -> RefusalReason | None:
        """Refuses a cell that has a value not of the promised type."""
        sources = self.sources(column)
        for name in sources:
            self._require_column(name, f"transformLogic of {column.name}")
        source = column.transform or quote(sources[0])
        expression = self.expression(column) if column.type != "STRING" else source
        converted = self.converted(column)
        condition = failure(expression, self.contract, column, converted)
        if column.type in ("DATE", "TIMESTAMP"):
            condition = " OR ".join(filter(None, (condition, f"({out_of_range(converted, column.type)})")))
        if not condition:
            return None
        return RefusalReason(f"{column.name}.type", (column.name,), sources, condition, of_type=True)

    def _local(self, column: Column) -> list[RefusalReason]:
        """Refuses local times that do not exist, come twice or have an offset."""
        sources, place = self.sources(column), self.contract.columns.index(column)
        text = f"CAST({quote(sources[0])} AS STRING)" if len(sources) == 1 else None
        found = self.local.refusals(place, self.converted(column), sources, text)
        return [RefusalReason(rule, (column.name,), sources, condition, of_type=True) for rule, condition in found]

    def _decimals(self, column: Column) -> RefusalReason | None:
        """Refuses a number with more decimals than the promised type."""
        is_decimal = column.type.startswith("DECIMAL")
        condition = surplus(self.expression(column), self.converted(column)) if is_decimal else None
        if not condition:
            return None
        return RefusalReason(f"{column.name}.decimals", (column.name,), self.sources(column), condition, of_type=True)

    def _rules(self) -> list[RefusalReason]:
        sources = {c.name: self.sources(c) for c in self.contract.columns}
        return [
            RefusalReason(
                rule.id,
                rule.columns,
                tuple(dict.fromkeys(s for c in rule.columns for s in sources.get(c, ()))),
                f"NOT ({rule.predicate})",
            )
            for rule in row_rules(self.contract)
        ]

    def sources(self, column: Column) -> tuple[str, ...]:
        """Names of the columns of `reshaped` that a column is computed from."""
        if not column.transform:
            return (self._same_name(column),)
        return columns_read(column.transform, self.contract.file, f"{column.name}.transformLogic")

    def _same_name(self, column: Column) -> str:
        for name in self.raw_columns:
            if name.lower() == column.name.lower():
                return name
        raise DeclarationError(
            f"column '{column.name}' has no published source",
            file=self.contract.file,
            field=f"{column.name}.transformLogic",
            expected=f"a published column of that name, or SQL over: {', '.join(self.raw_columns)}",
        )

    def _require_column(self, name: str, where: str) -> None:
        readable = {c.lower() for c in (*self.raw_columns, *self._undeclared, *ORIGIN)}
        if name.lower() not in readable:
            raise DeclarationError(
                f"the {where} reads '{name}', which the rows do not have",
                file=self.contract.file,
                expected=f"one of: {', '.join((*self.raw_columns, *ORIGIN))}",
                next_step="correct the name, or add the column to format.columns",
            )

    def _own_query(self) -> str:
        file = self.source.silver_sql
        assert file is not None  # noqa: S101 - narrows the type; the caller checked it
        query = read_query(file, RESHAPE)
        missing = [c for c in ORIGIN if c not in [p.alias_or_name for p in query.selects]]
        if missing and not query.tree.find(exp.Star):
            raise DeclarationError(
                f"silver.sql does not select {', '.join(missing)}", file=file,
                expected=f"the columns of a row's origin: {', '.join(ORIGIN)}",
            )  # fmt: skip
        # This WITH gives it this build's view under the name `bronze`.
        bronze = f"WITH bronze AS (SELECT * FROM {self.work.view('bronze')})"
        return f"SELECT * FROM ({bronze} SELECT * FROM ({query.text}))"


def refused_records(work: Workspace) -> str:
    """SELECT of the unreadable records and files, in quarantine's columns."""
    origin = ", ".join(map(quote, ORIGIN))
    rule = (
        f"CASE WHEN _row = {WHOLE_FILE} THEN {literal(FILE_RULE)}"
        " ELSE concat('format.', regexp_extract(_refused, '^([a-z_]*)', 1)) END"
    )
    return (
        f"SELECT {rule} AS rule, CAST(NULL AS STRING) AS column_name, _refused AS value, _raw AS record, {origin}"
        f" FROM {work.view('bronze')} WHERE _refused IS NOT NULL"
    )


def _case(name: str, values: list[str]) -> str:
    return f"CASE {name} " + " ".join(f"WHEN {i} THEN {v}" for i, v in enumerate(values)) + " END"
