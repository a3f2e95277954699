"""Proposes a product from a query: product.yaml, query.sql and a contract."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from jobs.declared.catalog import Licence, load_products, load_sources
from jobs.declared.columns import TYPES_ALLOWED, ColumnEntry, is_type, load_dictionary, plain_type
from jobs.declared.contract import Column, load_contract
from jobs.declared.drafts import NO_ADDRESS, TO_BE_WRITTEN, names_terms
from jobs.declared.grammar import PRODUCT
from jobs.declared.sql import input_tables, quote, read_query
from jobs.errors import ExchangeError, NotFound
from jobs.gold.determinism import inexact
from jobs.scaffold.document import Property, check_name, contract, flow, scalar, written
from jobs.settings import settings
from jobs.steps import steps_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_OPEN = ("general", "internal")
_LONGEST_KEY = 4
_KEY_CANDIDATES = 10
_LINE = 110


@dataclass(frozen=True)
class _QueryColumn:
    """One column of the query; ``required`` if it has a value in every row."""

    name: str
    type: str
    required: bool


def new_product(name: str, query: Path | None, table: str | None) -> list[str]:
    """Write product.yaml, query.sql and a contract that can be built unedited; return the lines to show the engineer.

    Args:
        name: the product's name, not used by another product.
        query: a file with the SELECT that builds it; or
        table: a checked table, all columns of which the product starts with.

    Raises:
        ExchangeError: the name is taken, the query is invalid, or an input has no checked version.
    """
    check_name(name, "product")
    root = settings().catalogue
    folder = root / "dags" / "products" / name
    if (folder / "product.yaml").exists():
        raise ExchangeError(f"product '{name}' exists already", where=str(folder), expected="a new name")
    text = _text(query, table)
    with TemporaryDirectory(prefix="exchange-query-") as scratch:
        draft = query or Path(scratch) / "query.sql"
        if query is None:
            draft.write_text(text, encoding="utf-8")
        inputs = input_tables(draft)
        _check_inputs(inputs)
        frame = _analysed(draft)
        grouped = _grouped(draft)
        doubtful = inexact(draft)
    columns, key, rows = _measured(frame, grouped)
    files = {
        folder / "product.yaml": _declaration(name, inputs),
        folder / "query.sql": text.rstrip().rstrip(";") + "\n",
        root / "expectations" / "gold" / f"{name}.yaml": _contract(name, inputs, columns, key),
    }
    with written(files):
        load_products().product(name)
        load_contract(f"gold.{name}")
    return [*[f"wrote {file}" for file in files], *_report(name, inputs, columns, key, rows, doubtful)]


def _text(query: Path | None, table: str | None) -> str:
    if query is not None:
        if not query.is_file():
            raise NotFound(
                f"there is no file '{query}'", expected="a file with one SELECT", next_step="correct the path"
            )
        return query.read_text(encoding="utf-8")
    source = str(table).lower()
    if source.partition(".")[0] not in ("silver", "gold"):
        raise ExchangeError(f"a product cannot start from '{table}'", expected="silver.<source> or gold.<product>")
    names = ",\n    ".join(quote(n) for n in load_contract(source).names)
    return f"-- One row per row of {source}.\nSELECT\n    {names}\nFROM {source}\n"


def _check_inputs(inputs: Sequence[str]) -> None:
    from jobs.lake.pointers import checked

    declared = sorted(
        [s.table for s in load_sources().sources.values()] + [p.table for p in load_products().products.values()]
    )
    for table in inputs:
        if table not in declared:
            what = f"the query reads {table}, which is not declared"
            raise NotFound(what, expected=f"one of: {', '.join(declared)}")
        checked(table)


def _analysed(file: Path) -> DataFrame:
    from pyspark.errors import PySparkException

    from jobs.lake.views import session

    spark = session()
    try:
        frame = spark.sql(read_query(file, PRODUCT).text)
        names = frame.columns
    except PySparkException as error:
        raise ExchangeError(
            f"the engine rejected the query: {' '.join(str(error).split())[:300]}",
            where=str(file),
            next_step="correct it; try it with `exchange sql`",
        ) from None
    repeated = sorted({n for n in names if names.count(n) > 1})
    unusable = [n for n in names if not n.replace("_", "a").isalnum() or n.startswith("_")]
    if repeated or unusable:
        raise ExchangeError(
            f"columns with a repeated or unusable name: {', '.join((*repeated, *unusable))}",
            where=str(file),
            expected="unique names of letters, digits and underscores",
            next_step="name them with AS in the SELECT",
        )
    return frame


def _grouped(file: Path) -> tuple[str, ...]:
    """Return the output columns that the query's last SELECT groups by: the likeliest key."""
    from sqlglot import exp

    statement = read_query(file, PRODUCT).tree
    group = statement.args.get("group")
    if not isinstance(statement, exp.Select) or group is None:
        return ()
    by = {e.sql(dialect="spark").lower() for e in group.expressions}
    places = {int(e.name) for e in group.expressions if isinstance(e, exp.Literal) and not e.is_string}
    return tuple(
        p.alias_or_name
        for position, p in enumerate(statement.selects, start=1)
        if position in places or p.alias_or_name.lower() in by or p.unalias().sql(dialect="spark").lower() in by
    )


def _measured(frame: DataFrame, grouped: Sequence[str]) -> tuple[tuple[_QueryColumn, ...], tuple[str, ...], int]:
    from jobs import lake
    from jobs.lake import connect

    types = {f.name: _contract_type(f.name, f.dataType.simpleString()) for f in frame.schema.fields}
    with lake.workspace("proposal", uuid.uuid4().hex) as work:
        answer = work.stage("answer", f"SELECT * FROM {work.show('query', frame)}")
        spark = connect()
        counts = ", ".join(f"count({quote(n)}) AS n{i}" for i, n in enumerate(types))
        counted = spark.sql(f"SELECT count(*) AS rows, {counts} FROM {answer}").collect()[0]
        rows = counted["rows"]
        columns = tuple(
            _QueryColumn(n, t, rows > 0 and counted[f"n{i}"] == rows) for i, (n, t) in enumerate(types.items())
        )
        return columns, _key(answer, columns, grouped, rows), rows


def _contract_type(name: str, kind: str) -> str:
    if is_type(kind):
        return plain_type(kind)
    raise ExchangeError(
        f"column '{name}' has the type {kind}",
        expected=TYPES_ALLOWED,
        next_step="cast or unnest it in the query",
    )


def _key(answer: str, columns: Sequence[_QueryColumn], grouped: Sequence[str], rows: int) -> tuple[str, ...]:
    from jobs.lake import connect

    def identifies_rows(chosen: Sequence[str]) -> bool:
        distinct = f"SELECT DISTINCT {', '.join(map(quote, chosen))} FROM {answer}"
        return bool(connect().sql(f"SELECT count(*) AS n FROM ({distinct})").collect()[0]["n"] == rows)

    if not rows:
        raise ExchangeError("the query returns no rows, so no key can be proposed", next_step="load data first")
    present = [c.name for c in columns if c.required]
    if grouped and set(grouped) <= set(present) and identifies_rows(grouped):
        return tuple(grouped)
    words = [c.name for c in columns if c.required and c.type in ("STRING", "DATE", "TIMESTAMP", "INT")]
    candidates = words[:_KEY_CANDIDATES]
    for size in range(1, min(_LONGEST_KEY, len(candidates)) + 1):
        for chosen in combinations(candidates, size):
            if identifies_rows(chosen):
                return chosen
    if present and identifies_rows(present):
        return tuple(present)
    raise ExchangeError(
        "no key identifies the query's rows: there are duplicates, or every column has nulls",
        expected="columns without nulls that identify each row",
        next_step="group by what a row describes",
    )


def _declaration(name: str, inputs: Sequence[str]) -> str:
    licence = _licence(inputs)
    terms = {"id": licence.id, "url": licence.url} if licence else {"id": "unknown", "url": NO_ADDRESS}
    if licence and licence.attribution:
        terms["attribution"] = licence.attribution
    title = name.replace("_", " ")
    return "\n".join(
        [
            f"title: {scalar(title[:1].upper() + title[1:])}",
            f"question: {TO_BE_WRITTEN}, what a buyer pays to know",
            f"buyers: [{TO_BE_WRITTEN}]",
            f"owner: {TO_BE_WRITTEN}",
            f"licence: {flow(terms)}",
            "",
        ]
    )


def _licence(inputs: Sequence[str]) -> Licence | None:
    """Return the licence that all inputs share, if it names terms."""
    sources, products = load_sources().sources, load_products().products
    licences = {
        (sources[own] if layer == "silver" else products[own]).declared.licence
        for layer, own in (table.split(".", 1) for table in inputs)
    }
    one = next(iter(licences))
    return one if len(licences) == 1 and names_terms(one) else None


def _contract(name: str, inputs: Sequence[str], columns: Sequence[_QueryColumn], key: Sequence[str]) -> str:
    input_columns: dict[str, Column] = {}
    for table in inputs:
        for column in load_contract(table).columns:
            input_columns.setdefault(column.name, column)
    guarded = bool(_guarded(inputs))
    properties = []
    for c in columns:
        entry, same = _entry(c.name), input_columns.get(c.name)
        described = entry or same
        properties.append(
            Property(
                name=c.name,
                type=entry.type if entry else c.type,
                description=described.description if described else TO_BE_WRITTEN,
                key_position=key.index(c.name) + 1 if c.name in key else None,
                required=c.required,
                unit=described.unit if described else None,
                classification=(entry and entry.classification) or _class(same, guarded=guarded),
            )
        )
    title = name.replace("_", " ")
    return contract(f"gold.{name}", _domain(inputs), title[:1].upper() + title[1:], properties)


def _entry(name: str) -> ColumnEntry | None:
    dictionary = load_dictionary()
    return dictionary.entries.get(name) if dictionary else None


def _class(same: Column | None, *, guarded: bool) -> str | None:
    """Return the class of the input column of the same name; a column computed from guarded inputs is personal."""
    if same is not None:
        return same.classification if same.classification != "general" else None
    return "personal" if guarded else None


def _guarded(inputs: Sequence[str]) -> list[str]:
    return [
        f"{table}.{column.name} ({column.classification})"
        for table in inputs
        for column in load_contract(table).columns
        if column.classification not in _OPEN
    ]


def _domain(inputs: Sequence[str]) -> str:
    return str(load_contract(inputs[0]).document.get("domain") or "exchange")


def _report(
    name: str,
    inputs: Sequence[str],
    columns: Sequence[_QueryColumn],
    key: Sequence[str],
    rows: int,
    doubtful: Sequence[str],
) -> list[str]:
    guarded = _guarded(inputs)
    lines = [f"found: reads {', '.join(inputs)}; {rows:,} rows; key {', '.join(key)}"]
    if guarded:
        lines.append(f"look at the classes: computed columns may reveal {', '.join(guarded)}")
    lines += [f"look at the digits: {part}; whole numbers and sums of decimals are exact" for part in doubtful]
    lines += [
        f"look at {c.name}: the query returns {c.type}, the column dictionary says {entry.type}, so the build casts it"
        for c in columns
        if (entry := _entry(c.name)) and entry.type != c.type
    ]
    return [
        *lines,
        "edit next:",
        "  in product.yaml: title, question, buyers, owner, licence, cautions",
        "  in the contract: the meaning, unit and range of each column, then status: active",
        f"nothing is released while a file says '{TO_BE_WRITTEN}' or the contract is a draft",
        "then try it:",
        *[f"  exchange {step.name} {name}" for step in steps_of("product")],
    ]
