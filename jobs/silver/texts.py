"""Groups a contract's columns by what they read, so that each can be computed once per distinct text."""

from __future__ import annotations

from collections.abc import Sequence

import sqlglot
from sqlglot import exp

from jobs.bronze.step import stored_names
from jobs.lake import ORIGIN
from jobs.lake.by_text import GOOD, NUMBER, VERDICT, Plan, Unit
from jobs.silver.split import Split

# A column of such a name could be mistaken for one of `jobs.lake.by_text`.
_RESERVED = "_text"


def plan_of(split: Split) -> Plan | None:
    """How a source's rows follow from texts; None if a row depends on more than the texts of its own cells."""
    source = split.source
    declared = source.declared
    if source.silver_sql or declared.reshape or declared.zones or split.dropped or len(split.refusals) >= GOOD:
        return None
    raw = {name.lower(): name for name in split.raw_columns}
    if any(name.lower().startswith(_RESERVED) for name in (*raw, *split.contract.names)):
        return None
    reads = _reads(split, raw)
    return None if reads is None else _plan(split, raw, *reads)


def _reads(split: Split, raw: dict[str, str]) -> tuple[list[set[str]], list[set[str]]] | None:
    """The published columns that each column of the contract reads, and each refusal; None if one reads more."""
    of_column = [{name.lower() for name in split.sources(c)} for c in split.contract.columns]
    names = {c.name.lower(): read for c, read in zip(split.contract.columns, of_column, strict=True)}
    converted = {split.converted(c): read for c, read in zip(split.contract.columns, of_column, strict=True)}
    of_refusal = []
    for refusal in split.refusals:
        known = {name: {name} for name in raw} | converted if refusal.of_type else names
        tree = sqlglot.parse_one(refusal.condition, dialect="spark")
        found = [known.get(column.name.lower()) for column in tree.find_all(exp.Column)]
        if tree.find(exp.Query) or None in found:
            return None
        of_refusal.append({name for read in found for name in read or ()})
    if any(not read <= raw.keys() for read in of_column):
        return None
    return of_column, of_refusal


def _plan(split: Split, raw: dict[str, str], of_column: list[set[str]], of_refusal: list[set[str]]) -> Plan | None:
    read = sorted(set().union(*of_column, *of_refusal))
    if not read:
        return None
    # Columns that are read together belong to one unit; so do constants, with whichever comes first.
    unit_of = {name: {name} for name in read}
    for together in (*of_column, *of_refusal):
        joined = set().union(*(unit_of[name] for name in together))
        for name in joined:
            unit_of[name] = joined
    groups = list({min(group): sorted(group) for group in unit_of.values()}.values())

    def is_of(reads: set[str], group: list[str]) -> bool:
        return bool(reads & set(group)) if reads else group is groups[0]

    columns = [[i for i, reads in enumerate(of_column) if is_of(reads, group)] for group in groups]
    refusals = [[i for i, reads in enumerate(of_refusal) if is_of(reads, group)] for group in groups]

    def query(numbers: Sequence[int], view: str) -> str:
        published = [raw[name] for n in numbers for name in groups[n]]
        verdicts = {f"{VERDICT}{n}": refusals[n] for n in numbers}
        return split.of_texts(view, NUMBER, published, [i for n in numbers for i in columns[n]], verdicts, GOOD)

    names = split.contract.names
    units = tuple(
        Unit(tuple(raw[name] for name in group), tuple(names[i] for i in columns[n])) for n, group in enumerate(groups)
    )
    stored = stored_names(split.source.declared.format)
    return Plan(units, query, {name: stored[name] for name in split.raw_columns}, ORIGIN, "_refused")
