"""Proposes the key of a table: what names a row, and not what happens to differ in the sample.

A key that is too wide keeps a row twice when it is corrected; one that is too narrow loses rows of the next delivery.
So a column is left out only on evidence: another column determines it, or chance alone would have brought rows that
agree in the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.scaffold.columns import Proposal
from jobs.scaffold.names import CODES

if TYPE_CHECKING:
    import pyarrow as pa

# Names of what numbers rows and does nothing else.
_ROW_IDS = frozenset({"id", "uuid", "guid", "objectid", "fid", "rowid", "row_id", "record_id"})
_COUNTERS = frozenset({
    "year", "month", "quarter", "week", "day", "hour", "minute", "age", "number", "rank", "index", "line", "row",
    "period", "date",
})  # fmt: skip
_CALENDAR = frozenset({"year", "month", "quarter", "week", "day", "hour", "minute", "period", "date"})
_PERIOD = re.compile(r"^(19|20)[0-9]{2}([-/ ]?(Q[1-4]|[0-9]{2}))?$")
# Dates that describe a thing and do not name an observation of it.
_OF_A_THING = frozenset({
    "opened", "closed", "listed", "added", "created", "founded", "birth", "born", "updated", "modified", "changed",
    "registered", "issued", "expires", "expiry", "start", "end", "due",
})  # fmt: skip
# From as many rows on, a column of codes without a repetition is taken for what numbers them.
_EVIDENCE = 50
_COLLISIONS = 5
_COMPARED = 24
_LONG = 40
_SHORTEST_CODE = 3
_HEAD = 20_000


@dataclass(frozen=True)
class Key:
    """A proposed key.

    Attributes:
        columns: names of columns; empty if no columns name a row, so that only its place in the file does.
        copies: rows that are equal in every column to an earlier one.
        doubts: what the engineer should review.
    """

    columns: tuple[str, ...]
    copies: int
    doubts: tuple[str, ...] = ()


def is_measure(column: Proposal) -> bool:
    """Whether a column is a figure, whose values identify a row only by chance."""
    if column.type.startswith("DECIMAL"):
        return True
    return column.type in ("INT", "BIGINT") and not _COUNTERS & set(column.name.split("_"))


def key_of(table: pa.Table, columns: Sequence[Proposal]) -> Key:
    """Propose the key of a sample, whose columns have the published names of the proposals."""
    rows = _Rows(table, columns)
    usable = [c for c in columns if c.required and c.type not in ("DOUBLE", "BOOLEAN")]
    dimensions = [c for c in usable if not is_measure(c) or _is_number_of_a_thing(rows, c, columns)]
    copies = table.num_rows - rows.number
    found = _of_row_id(rows, dimensions) or _of_dimensions(rows, dimensions)
    if found:
        return Key(_named(columns, found), copies, _doubts(rows, found, dimensions))
    if usable and rows.tells_apart(usable):
        figures = ", ".join(c.name for c in usable if is_measure(c))
        doubt = f"{figures} is a figure; rows that differ only there need review"
        return Key(_named(columns, usable), copies, (doubt,))
    return Key((), copies)


def _is_number_of_a_thing(rows: _Rows, column: Proposal, columns: Sequence[Proposal]) -> bool:
    """Whether integers name things: in the first column, or repeated with as many digits each."""
    if column.type not in ("INT", "BIGINT") or column.unit:
        return False
    return column is columns[0] or rows.has_codes(column)


def _named(columns: Sequence[Proposal], chosen: Sequence[Proposal]) -> tuple[str, ...]:
    return tuple(c.name for c in columns if c in chosen)


def _of_row_id(rows: _Rows, dimensions: Sequence[Proposal]) -> list[Proposal]:
    """The column that numbers rows, if there is one; with the one date of a list that is delivered again."""
    for column in dimensions:
        if column.name in _ROW_IDS and rows.is_unique(column):
            return [column]
    codes = [c for c in dimensions if c.name.rsplit("_", 1)[-1] in CODES and rows.is_unique(c)]
    if not codes:
        return []
    times = [c for c in dimensions if c is not codes[0] and rows.is_time(c)]
    if rows.number >= _EVIDENCE:
        times = [c for c in times if rows.distinct(c) == 1]
    return [codes[0], *(c for c in times if not _OF_A_THING & set(c.name.split("_")) or rows.distinct(c) == 1)]


def _of_dimensions(rows: _Rows, dimensions: Sequence[Proposal]) -> list[Proposal]:
    """All that names a row, without what follows from the rest and what is left out on evidence."""
    if not dimensions or not rows.tells_apart(dimensions):
        return []
    kept = list(dimensions)
    if len(kept) > _COMPARED and rows.tells_apart(kept[:_COMPARED]):
        kept = kept[:_COMPARED]
    for column in sorted(kept[:_COMPARED], key=lambda c: (_rank(rows, c), -kept.index(c))):
        rest = [c for c in kept if c is not column]
        if rest and rows.tells_apart(rest) and (rows.follows(column, rest) or _would_collide(rows, column, rest)):
            kept = rest
    return kept


def _rank(rows: _Rows, column: Proposal) -> int:
    """What to try to leave out first: remarks, then names, then codes, and times last."""
    if rows.is_time(column):
        return 3
    if column.name.rsplit("_", 1)[-1] in CODES:
        return 2
    return 0 if rows.is_long(column) else 1


def _would_collide(rows: _Rows, column: Proposal, rest: Sequence[Proposal]) -> bool:
    """Whether rows would agree in the rest of the key by chance, if the column named them, and none do."""
    if rows.is_time(column) or rows.distinct(column) == 1:
        return False
    # An instant, or a text, differs from row to row without naming it.
    room = 1.0
    for other in rest:
        fine = other.type == "TIMESTAMP" and rows.distinct(other) > rows.number / 2
        room *= rows.number**2 if fine else rows.distinct(other)
    return rows.number**2 / (2 * room) >= _COLLISIONS


def _doubts(rows: _Rows, key: Sequence[Proposal], dimensions: Sequence[Proposal]) -> tuple[str, ...]:
    if rows.number < _EVIDENCE:
        few = f"{rows.number} rows are few to tell; every column that may name a row is in it"
        return (few,) if len(key) > 1 else ()
    single = next((c.name for c in dimensions if rows.is_unique(c) and c not in key), None)
    return (f"{single} alone differs in all {rows.number:,} rows too",) if single else ()


class _Rows:
    """The distinct rows of a sample, each column as numbers that stand for its texts."""

    def __init__(self, table: pa.Table, columns: Sequence[Proposal]) -> None:
        import numpy as np

        self._table = table
        self._codes: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._texts: dict[str, list[str]] = {}
        names = [c.published for c in columns]
        for name in names:
            encoded = table.column(name).combine_chunks().dictionary_encode()
            self._codes[name] = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            self._texts[name] = encoded.dictionary.to_pylist()
        _, first = np.unique(self._together(names), return_index=True)
        self.number = len(first)
        for name in names:
            self._codes[name] = self._codes[name][np.sort(first)]
            self._counts[name] = len(np.unique(self._codes[name]))

    def distinct(self, column: Proposal) -> int:
        """How many values a column has."""
        return self._counts[column.published]

    def is_unique(self, column: Proposal) -> bool:
        """Whether a column has another value in each row."""
        return self.distinct(column) == self.number

    def has_codes(self, column: Proposal) -> bool:
        """Whether a column's integers repeat and all have the same number of digits, at least three."""
        sizes = {len(text.strip()) for text in self._texts[column.published]}
        return len(sizes) == 1 and sizes.pop() >= _SHORTEST_CODE and 2 * self.distinct(column) <= self.number

    def is_long(self, column: Proposal) -> bool:
        """Whether a column's texts are remarks rather than names."""
        texts = self._texts[column.published]
        return column.type == "STRING" and sum(map(len, texts)) > _LONG * max(len(texts), 1)

    def is_time(self, column: Proposal) -> bool:
        """Whether a column says when, or is a part of that."""
        if column.type in ("DATE", "TIMESTAMP") or _CALENDAR & set(column.name.split("_")):
            return True
        texts = self._texts[column.published]
        return column.type == "STRING" and bool(texts) and all(map(_PERIOD.match, texts))

    def tells_apart(self, columns: Sequence[Proposal]) -> bool:
        """Whether no two rows agree in all these columns."""
        import numpy as np

        room = 1
        for column in columns:
            room = min(room * self.distinct(column), self.number)
        if room < self.number:
            return False
        names = [c.published for c in columns]
        if self.number > _HEAD and len(np.unique(self._together(names, _HEAD))) < _HEAD:
            return False
        return len(np.unique(self._together(names))) == self.number

    def follows(self, column: Proposal, others: Sequence[Proposal]) -> bool:
        """Whether one of the others determines a column, with so many repetitions that it is no chance."""
        if self.number < _EVIDENCE:
            return False
        return any(
            self.distinct(other) * 2 <= self.number
            and (self.is_time(other) or not self.is_time(column))
            and self.distinct(other) >= self.distinct(column) > 1
            and self._pairs(column, other) == self.distinct(other)
            for other in others
        )

    def _pairs(self, column: Proposal, other: Proposal) -> int:
        import numpy as np

        return len(np.unique(self._together([other.published, column.published])))

    def _together(self, names: Sequence[str], head: int | None = None) -> Any:
        """One number for each row, equal where all columns are equal."""
        import numpy as np

        first, *others = (self._codes[name][:head] for name in names)
        together = first
        for codes in others:
            _, together = np.unique(together, return_inverse=True)
            together = together * (int(codes.max(initial=0)) + 2) + codes + 1
        return together
