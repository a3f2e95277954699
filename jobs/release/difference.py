"""Compares two versions of a table by key: changes of schema, and rows added, removed and changed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jobs import lake
from jobs.declared.sql import quote
from jobs.errors import ExchangeError
from jobs.release.manifest import SchemaChange, TermChange
from jobs.release.snapshot import Snapshot

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

RowKind = Literal["added", "removed", "changed"]
ROW_KINDS: tuple[RowKind, ...] = ("added", "removed", "changed")

_DECIMAL = re.compile(r"^decimal\((\d+),(-?\d+)\)$")
# Engines agree on the hash of decimals that fit 64 bits; wider ones are hashed as text.
_NARROW_DECIMAL = 18


@dataclass(frozen=True)
class Fingerprint:
    """Two sums of 64-bit row hashes: equal for equal rows, whatever their order, files or engine; can be updated."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Fingerprint) -> Fingerprint:
        return Fingerprint(self.forward + other.forward, self.backward + other.backward)

    def __sub__(self, other: Fingerprint) -> Fingerprint:
        return Fingerprint(self.forward - other.forward, self.backward - other.backward)

    def __str__(self) -> str:
        return f"{self.forward}:{self.backward}"

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """The inverse of `str`."""
        forward, backward = map(int, text.split(":"))
        return cls(forward, backward)


@dataclass(frozen=True)
class Side:
    """One version, with its contract's key and required columns."""

    version: Snapshot
    key: tuple[str, ...]
    required: frozenset[str]


@dataclass(frozen=True)
class Difference:
    """Counts of rows by key, changes of schema and of terms, and the fingerprint of the later version's rows."""

    added: int
    removed: int
    changed: int
    schema: tuple[SchemaChange, ...]
    fingerprint: Fingerprint
    terms: tuple[TermChange, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether readers see no difference."""
        return not (self.has_table_changes or self.terms)

    @property
    def has_table_changes(self) -> bool:
        """Whether rows or columns differ."""
        return bool(self.added or self.removed or self.changed or self.schema)


@dataclass(frozen=True)
class RowDifference:
    """One row that differs: its key, and its columns before and after (None if the row does not exist there)."""

    kind: RowKind
    key: dict[str, Any]
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def difference(before: Side, after: Side, recorded: Fingerprint | None = None) -> Difference:
    """Compare two versions of one table; exact counts in one pass over the partitions whose files differ.

    Args:
        before: the earlier version.
        after: the later one.
        recorded: the earlier version's fingerprint; without it, the later version is read whole to compute its own.
    """
    schema = schema_changes(before, after)
    if before.key != after.key:
        # Under a new key, no row can be matched with one before.
        return Difference(after.version.rows, before.version.rows, 0, schema, fingerprint(after.version))
    same_columns = before.version.business_columns == after.version.business_columns
    partitions = _touched(before.version, after.version)
    if same_columns and not partitions:
        return Difference(0, 0, 0, schema, recorded or fingerprint(after.version))
    added, removed, changed, old_sum, new_sum = _count(before, after, partitions)
    if same_columns and recorded:
        return Difference(added, removed, changed, schema, recorded - old_sum + new_sum)
    return Difference(added, removed, changed, schema, fingerprint(after.version))


def schema_changes(before: Side, after: Side) -> tuple[SchemaChange, ...]:
    """The changes of schema, sorted by column; the order of columns does not matter."""
    old, new = before.version.business_columns, after.version.business_columns
    changes: list[SchemaChange] = []
    if before.key != after.key:
        changes.append(SchemaChange(kind="key_changed", before=", ".join(before.key), after=", ".join(after.key)))
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            changes.append(SchemaChange(kind="column_removed", column=name, before=old[name]))
        elif name not in old:
            changes.append(SchemaChange(kind="column_added", column=name, after=new[name]))
        elif old[name] != new[name]:
            changes.append(SchemaChange(kind="type_changed", column=name, before=old[name], after=new[name]))
        elif name in before.required and name not in after.required:
            changes.append(SchemaChange(kind="may_be_absent", column=name))
        elif name in after.required and name not in before.required:
            changes.append(SchemaChange(kind="always_present", column=name))
    return tuple(changes)


def fingerprint(version: Snapshot) -> Fingerprint:
    """The fingerprint of all rows of a version, which it reads whole."""
    forward, backward = _hashes({n: (quote(n), t) for n, t in version.business_columns.items()})
    frame = lake.read_table(version.table, version.version).selectExpr(
        f"sum(cast({forward} as decimal(38,0))) forward", f"sum(cast({backward} as decimal(38,0))) backward"
    )
    row = _collect(frame, version)[0]
    return Fingerprint(int(row["forward"] or 0), int(row["backward"] or 0))


def rows_of(before: Side, after: Side, kind: RowKind, limit: int) -> list[RowDifference]:
    """The first rows, in key order, that were added, removed or changed between two versions.

    Raises:
        ExchangeError: the key changed, so rows cannot be matched.
    """
    if before.key != after.key:
        raise ExchangeError(
            "rows cannot be compared one by one because the key changed",
            where=after.version.table,
            expected=f"the key {', '.join(before.key)} on both sides, found {', '.join(after.key)}",
        )
    old, new = _side_frames(before, after, _touched(before.version, after.version))
    names = [f"k{i}" for i in range(len(after.key))]
    # A hash is null only if the row has no counterpart.
    condition = {
        "added": "b1 is null",
        "removed": "a1 is null",
        "changed": "b1 <> a1 or b2 <> a2",
    }[kind]
    joined = _joined(old, new, names).where(condition)
    first = joined.orderBy(*[f"{side}_{n}" for n in names for side in ("a", "b")]).limit(limit)
    keys = [f"coalesce(a_{n}, b_{n}) key_{n}" for n in names]
    rows = _collect(first.selectExpr(*keys, "b_row", "a_row"), after.version)
    return [
        RowDifference(
            kind=kind,
            key={column: row[f"key_k{i}"] for i, column in enumerate(after.key)},
            before=_named(row["b_row"], before.version) if kind != "added" else None,
            after=_named(row["a_row"], after.version) if kind != "removed" else None,
        )
        for row in rows
    ]


def _collect(frame: DataFrame, version: Snapshot) -> list[dict[str, Any]]:
    from pyspark.errors import PySparkException

    try:
        # Through Arrow, instants keep their zone.
        rows: list[dict[str, Any]] = frame.toArrow().to_pylist()
    except PySparkException as error:
        raise ExchangeError(
            f"the engine cannot read the rows: {str(error).strip().splitlines()[0][:300]}",
            where=f"{version.table} version {version.version}",
            expected="the data files that the table's log lists",
            next_step=f"`exchange verify {version.table.split('.')[1]}` shows what is missing or damaged",
        ) from None
    return rows


def _named(row: dict[str, Any], version: Snapshot) -> dict[str, Any]:
    return {name: row[f"c{i}"] for i, name in enumerate(version.business_columns)}


def _touched(before: Snapshot, after: Snapshot) -> frozenset[Any]:
    changed = before.files.keys() ^ after.files.keys()
    if before.partitions != after.partitions:
        return frozenset({()})
    return frozenset((before.files.get(p) or after.files[p]).partition for p in changed)


def _count(before: Side, after: Side, partitions: frozenset[Any]) -> tuple[int, int, int, Fingerprint, Fingerprint]:
    old, new = _side_frames(before, after, partitions)
    names = [f"k{i}" for i in range(len(after.key))]
    counts = _joined(old.drop("row"), new.drop("row"), names).selectExpr(
        "count(case when b1 is null then 1 end) added",
        "count(case when a1 is null then 1 end) removed",
        "count(case when b1 <> a1 or b2 <> a2 then 1 end) changed",
        *[f"sum(cast({c} as decimal(38,0))) s_{c}" for c in ("b1", "b2", "a1", "a2")],
    )
    row = _collect(counts, after.version)[0]
    old_sum = Fingerprint(int(row["s_b1"] or 0), int(row["s_b2"] or 0))
    new_sum = Fingerprint(int(row["s_a1"] or 0), int(row["s_a2"] or 0))
    return row["added"], row["removed"], row["changed"], old_sum, new_sum


def _joined(old: DataFrame, new: DataFrame, names: list[str]) -> DataFrame:
    """One full outer join by key, null-safe; columns b1, b2 (before) and a1, a2 (after) are null on a missing side."""
    old = old.withColumnsRenamed({"h1": "b1", "h2": "b2", "row": "b_row"} | {n: f"b_{n}" for n in names})
    new = new.withColumnsRenamed({"h1": "a1", "h2": "a2", "row": "a_row"} | {n: f"a_{n}" for n in names})
    on = [old[f"b_{n}"].eqNullSafe(new[f"a_{n}"]) for n in names]
    return old.join(new, on, "full_outer")


def _side_frames(before: Side, after: Side, partitions: frozenset[Any]) -> tuple[DataFrame, DataFrame]:
    new_types = after.version.business_columns
    common = [n for n in before.version.business_columns if n in new_types]
    return (
        _side_frame(before.version, after.key, {n: new_types[n] for n in common}, partitions),
        _side_frame(after.version, after.key, {n: new_types[n] for n in common}, partitions),
    )


def _side_frame(
    version: Snapshot, key: tuple[str, ...], compared: dict[str, str], partitions: frozenset[Any]
) -> DataFrame:
    """Key columns k0…, two hashes of the columns that both sides share, and the row, of the touched partitions."""
    frame = lake.read_table(version.table, version.version)
    everything = {f.partition for f in version.files.values()} | {()}
    if not partitions >= everything - {()} and () not in partitions:
        frame = frame.where(lake.predicate(partitions))

    def value(name: str) -> str:
        kind = compared[name]
        return quote(name) if version.columns[name] == kind else f"try_cast({quote(name)} as {_sql_type(kind)})"

    forward, backward = _hashes({n: (value(n), t) for n, t in compared.items()})
    fields = ", ".join(f"'c{i}', {quote(n)}" for i, n in enumerate(version.business_columns))
    return frame.selectExpr(
        *[f"{value(n)} k{i}" for i, n in enumerate(key)],
        f"{forward} h1",
        f"{backward} h2",
        f"named_struct({fields}) row",
    )


def _hashes(columns: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """SQL of a row's two hashes from each column's expression and Delta type; independent of the columns' order."""
    terms: list[str] = []
    for name in sorted(columns):
        expression, kind = columns[name]
        wide = (decimal := _DECIMAL.match(kind)) and int(decimal.group(1)) > _NARROW_DECIMAL
        # The hash function skips nulls, so whether a value is null is hashed too.
        terms += [f"cast({expression} as string)" if wide else expression, f"isnull({expression})"]
    return f"xxhash64({', '.join(terms)})", f"xxhash64({', '.join(reversed(terms))})"


def _sql_type(kind: str) -> str:
    names = {"long": "bigint", "integer": "int", "short": "smallint", "byte": "tinyint"}
    return names.get(kind, kind)
