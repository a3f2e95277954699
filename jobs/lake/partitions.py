"""Finds the partitions that can hold a batch's keys, so that a day's rows are compared with a day's rows only."""

from __future__ import annotations

from typing import Any

import sqlglot
from sqlglot import exp

from jobs.declared.contract import Column, Contract
from jobs.declared.conversion import yields
from jobs.declared.sql import quote
from jobs.lake import log
from jobs.lake.engine import connect

_KINDS = ("STRING", "DATE", "TINYINT", "SMALLINT", "INT", "BIGINT")

# Sorting rows by partition costs more than reading them once per partition only if there are few partitions. Appends on
# Sail 0.7.2, two cores, in processor seconds and peak memory:
#   rows          partitions   apart            sorted
#   2 million     12            3.5 s            2.6 s
#   8 million     12           10.7 s, 1.2 GB   11.1 s, 1.8 GB
#   20 million    12           15.9 s, 1.5 GB   28.4 s, 3.7 GB
#   2 million     60           11.3 s            2.5 s
#   20 million    60           34.8 s, 4.2 GB   28.5 s, 3.6 GB
APART_FROM_ROWS = 8_000_000
_APART_AT_MOST = 16
# Where partitions overlap in the files that are read, the same stretch is read once for each of them.
_OVERLAP = 1.5


def check_partitions(contract: Contract) -> None:
    """Refuse partition columns whose values can be written in more than one way.

    Raises:
        DeclarationError: a partition column is neither text, a date nor a whole number.
    """
    for position, column in enumerate(contract.columns):
        if column.partition_position is not None and column.type not in _KINDS:
            raise contract.mistake(
                f"the partition column '{column.name}' has the type {column.type}",
                ("schema", 0, "properties", position, "partitioned"),
                expected=f"one of: {', '.join(_KINDS)}",
                next_step="partition by a column computed from it, for example its month",
            )


def partition_filter(table: str, contract: Contract, view: str) -> str | None:
    """SQL over alias t for the table's partitions that can hold a key of the view; None if none of them exists.

    That is the whole table unless every partition column is part of the key or computed from it: otherwise a key can be
    in two partitions.
    """
    if not contract.partitions or not follow_key(contract):
        return "true"
    names = ", ".join(map(quote, contract.partitions))
    of_batch = {
        tuple((n, _text(row[n])) for n in contract.partitions)
        for row in connect().sql(f"SELECT DISTINCT {names} FROM {view}").collect()
    }
    present = of_batch & {f.partition for f in log.files(table)}
    return log.predicate(present, "t") if present else None


def lying_together(contract: Contract, rows: str) -> list[log.Partition] | None:
    """The partitions that rows fall into, if they are few and arrived about one after the other; else None.

    Args:
        contract: the table's contract.
        rows: a view of the table's columns, origin columns included.
    """
    if not contract.partitions:
        return None
    names = ", ".join(map(quote, contract.partitions))
    stretches = (
        f"SELECT {names}, count(*) AS _n, max(_row) - min(_row) + 1 AS _stretch FROM {rows}"
        f" GROUP BY {names}, _landing_sha256, _file"
    )
    grouped = f"SELECT {names}, sum(_n) AS _n, sum(_stretch) AS _stretch FROM ({stretches}) GROUP BY {names}"
    partitions = connect().sql(grouped).limit(_APART_AT_MOST + 1).collect()
    if len(partitions) > _APART_AT_MOST:
        return None
    if sum(p["_stretch"] for p in partitions) > _OVERLAP * sum(p["_n"] for p in partitions):
        return None
    return [tuple((n, None if p[n] is None else str(p[n])) for n in contract.partitions) for p in partitions]


def follow_key(contract: Contract) -> bool:
    """Whether the contract's SQL shows that all rows of a key are in one partition."""
    columns = {c.name: c for c in contract.columns}
    of_key = {sql for name in contract.key for sql in _forms(columns[name])}
    return all(name in contract.key or _computed_from(columns[name], of_key) for name in contract.partitions)


def whole_table_read(contract: Contract) -> str | None:
    """Why every run reads the whole table, in one sentence; None if it reads only the partitions that it touches."""
    if not contract.partitions or follow_key(contract):
        return None
    return (
        f"every run reads the whole table: nothing shows that its partition ({', '.join(contract.partitions)})"
        f" follows from its key ({', '.join(contract.key)}); compute it in transformLogic from that of the key, such as"
        " date_format(<transformLogic of the key>, 'yyyy-MM')"
    )


def _text(value: object) -> str | None:
    # In the name of a partition Delta stores an empty text as null.
    return None if value is None or value == "" else str(value)


def _forms(column: Column) -> set[str]:
    """Expressions over published text whose value is that of a key column."""
    source = column.transform or quote(column.name)
    forms = {f"try_cast({source} AS {column.type})", f"try_cast(trim({source}) AS {column.type})"}
    if column.type == "STRING" or yields(source, column.type):
        forms.add(source)
    return {_plain(sqlglot.parse_one(form, dialect="spark")) for form in forms}


def _computed_from(column: Column, forms: set[str]) -> bool:
    parsed = sqlglot.parse_one(column.transform or quote(column.name), dialect="spark")
    rest = parsed.transform(lambda node: exp.Null() if _plain(node) in forms else node)
    return rest.find(exp.Column) is None


def _plain(node: Any) -> str:
    """An expression's SQL, regardless of the case and quoting of its names."""
    named = node.transform(
        lambda n: exp.to_identifier(n.name.lower(), quoted=True) if isinstance(n, exp.Identifier) else n
    )
    return str(named.sql(dialect="spark"))
