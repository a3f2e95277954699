"""The one shape of the batches that every format yields: declared columns, then bookkeeping columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

BOOKKEEPING = ("_extra", "_refused", "_raw", "_row", "_member")


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """One record that could not be read as a row: the line it begins on, the reason, and its text."""

    row: int
    reason: str
    raw: str


class Batches:
    """Builds the batches of one member.

    Args:
        columns: the declared names, in declared order.
        member: value of ``_member``.
    """

    def __init__(self, columns: Sequence[str], member: str) -> None:
        self.member = member
        text = [pa.field(name, pa.string()) for name in (*columns, "_extra", "_refused", "_raw")]
        self.schema = pa.schema([*text, pa.field("_row", pa.int64()), pa.field("_member", pa.string())])
        self._width = len(columns)

    def good(self, cells: Sequence[pa.Array], extra: pa.Array | None, rows: pa.Array) -> pa.RecordBatch:
        """Make a batch of good rows from one array per declared column."""
        nulls = pa.nulls(len(rows), pa.string())
        return self._batch([*cells, nulls if extra is None else extra, nulls, nulls], rows)

    def refused(self, refusals: Sequence[RefusedRecord]) -> pa.RecordBatch:
        """Make a batch of refused records."""
        nulls = pa.nulls(len(refusals), pa.string())
        reasons = pa.array([refusal.reason for refusal in refusals], pa.string())
        raws = pa.array([refusal.raw for refusal in refusals], pa.string())
        rows = pa.array([refusal.row for refusal in refusals], pa.int64())
        return self._batch([*[nulls] * (self._width + 1), reasons, raws], rows)

    def _batch(self, text: list[pa.Array], rows: pa.Array) -> pa.RecordBatch:
        member = pa.repeat(pa.scalar(self.member, pa.string()), len(rows))
        return pa.RecordBatch.from_arrays([*text, rows, member], schema=self.schema)


def extra_json(names: Sequence[str], columns: Sequence[pa.Array], nameless: Sequence[bool]) -> pa.Array:
    """Encode undeclared columns as one JSON object per row.

    Args:
        names: the undeclared columns' names.
        columns: their values.
        nameless: True for a column without a name, whose blank cells are left out.

    Returns:
        One text per row; null where nothing is left.
    """
    if any(nameless) or any(pc.any(pc.match_substring_regex(cells, r"[\x00-\x1f]")).as_py() for cells in columns):
        return _extra_by_row(names, columns, nameless)
    parts: list[pa.Array | pa.Scalar] = []
    for number, (name, cells) in enumerate(zip(names, columns, strict=True)):
        opening = ("," if number else "{") + json.dumps(name, ensure_ascii=False) + ':"'
        escaped = pc.replace_substring(pc.replace_substring(cells, "\\", "\\\\"), '"', '\\"')
        parts += [pa.scalar(opening), escaped, pa.scalar('"')]
    return pc.binary_join_element_wise(*parts, pa.scalar("}"), pa.scalar(""))


def _extra_by_row(names: Sequence[str], columns: Sequence[pa.Array], nameless: Sequence[bool]) -> pa.Array:
    kept: list[str | None] = []
    for row in zip(*(cells.to_pylist() for cells in columns), strict=True):
        values = {
            name: value
            for name, value, may_be_blank in zip(names, row, nameless, strict=True)
            if not may_be_blank or (value and not value.isspace())
        }
        kept.append(json.dumps(values, ensure_ascii=False, separators=(",", ":")) if values else None)
    return pa.array(kept, pa.string())
