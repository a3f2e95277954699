"""What both JSON formats share: every value as text exactly as the publisher wrote it, gathered record by record.

No library keeps a number's own digits and goes on after damage. pyarrow.json and DuckDB 2.0 read 1.10 as 1.1 and
twenty digits as 1.2345678901234567e+19, Arrow even refuses a number in a column declared as text; Arrow and Polars 2.1
stop at the first damaged line. Python's json keeps digits by `parse_float=str`, but then 1.10 and "1.10" are the same,
of a key written twice only the last stays, and no value has a line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring

import pyarrow as pa

from jobs.bronze.formats.batches import Batches, RefusedRecord
from jobs.bronze.formats.text import shown
from jobs.errors import RefusedFile

SHOWN_KEYS = 20
_CONSTANTS = {None: "null", True: "true", False: "false"}
_KINDS = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}


class _Number(str):
    """A number's own digits: 1.10 stays 1.10, and a code of thirty digits stays whole."""

    __slots__ = ()


DECODER = json.JSONDecoder(parse_float=_Number, parse_int=_Number, parse_constant=_Number)


def empty(where: str) -> RefusedFile:
    """The refusal of a file without content."""
    return RefusedFile(
        "an empty file",
        where=where,
        expected="JSON",
        next_step="fetch it again; if it is still empty, ask the publisher",
    )


class Rows:
    """Gathers records until they are handed on as batches."""

    def __init__(self, columns: tuple[str, ...], batches: Batches) -> None:
        self._columns = columns
        self._declared = frozenset(columns)
        self._batches = batches
        self._cells: list[list[str | None]] = []
        self._extra: list[str | None] = []
        self._numbers: list[int] = []
        self._refusals: list[RefusedRecord] = []

    def add(self, number: int, value: object, raw: Callable[[], str]) -> None:
        """Add a parsed record, or refuse it; ``raw`` gives its text, which only a refusal needs."""
        if not isinstance(value, dict):
            kind = "a number" if isinstance(value, _Number) else _KINDS[type(value)]
            self.refuse(number, f"not_an_object: found {kind}", raw())
            return
        if self._declared.isdisjoint(value):
            keys = ", ".join(list(value)[:SHOWN_KEYS])
            self.refuse(number, f"no_declared_column: found {keys or 'an empty object'}", raw())
            return
        cells = [_text(value.get(name)) for name in self._columns]
        others = {key: kept for key, kept in value.items() if key not in self._declared}
        extra = compact(others) if others else None
        try:
            "".join([cell for cell in (*cells, extra) if cell]).encode()
        except UnicodeEncodeError:
            self.refuse(number, "undecodable: a text holds half a character (a lone surrogate)", raw())
            return
        self._cells.append(cells)
        self._extra.append(extra)
        self._numbers.append(number)

    def refuse(self, number: int, reason: str, raw: str) -> None:
        """Add a refused record."""
        self._refusals.append(RefusedRecord(number, shown(reason), raw))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Hand on what was gathered, and begin again."""
        if self._cells:
            columns = [pa.array(cells, pa.string()) for cells in zip(*self._cells, strict=True)]
            extra = pa.array(self._extra, pa.string())
            yield self._batches.good(columns, extra, pa.array(self._numbers, pa.int64()))
        if self._refusals:
            yield self._batches.refused(self._refusals)
        self._cells, self._extra, self._numbers, self._refusals = [], [], [], []


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else compact(value)


def compact(value: object) -> str:
    """Write a parsed value as compact JSON, numbers in their own digits."""
    if isinstance(value, _Number):
        return value
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, dict):
        inner = [f"{encode_basestring(key)}:{compact(kept)}" for key, kept in value.items()]
        return "{" + ",".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ",".join([compact(kept) for kept in value]) + "]"
    return _CONSTANTS[value]  # type: ignore[index]  # nothing else comes out of the decoder
