"""What both JSON formats share: every value as text exactly as the publisher wrote it, collected record by record.

No library both keeps a number's own digits and continues after damage. pyarrow.json and DuckDB 2.0 read 1.10 as 1.1 and
twenty digits as 1.2345678901234567e+19, and Arrow refuses a number in a column declared as text; Arrow and Polars 2.1
stop at the first damaged line. Python's json keeps digits with `parse_float=str`, but then 1.10 and "1.10" are equal,
only the last of two equal keys survives, and values have no line numbers.
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
_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}


class _Number(str):
    """A number's own digits: 1.10 stays 1.10, and a code of thirty digits stays whole."""

    __slots__ = ()


DECODER = json.JSONDecoder(parse_float=_Number, parse_int=_Number, parse_constant=_Number)


def empty(where: str) -> RefusedFile:
    """The refusal of an empty file."""
    return RefusedFile(
        "an empty file",
        where=where,
        expected="JSON",
        next_step="fetch it again; if it is still empty, ask the publisher",
    )


class Rows:
    """Collects records until they are yielded as batches."""

    def __init__(self, columns: tuple[str, ...], batches: Batches) -> None:
        self._columns = columns
        self._declared = frozenset(columns)
        self._batches = batches
        self._cells: list[list[str | None]] = []
        self._extra: list[str | None] = []
        self._numbers: list[int] = []
        self._refusals: list[RefusedRecord] = []

    def add(self, number: int, value: object, raw: Callable[[], str]) -> None:
        """Add a parsed record or refuse it; ``raw`` returns its text, which only a refusal needs."""
        if not isinstance(value, dict):
            kind = "a number" if isinstance(value, _Number) else _KINDS[type(value)]
            self.refuse(number, f"not_an_object: found {kind}", raw())
            return
        if self._declared.isdisjoint(value):
            keys = ", ".join(list(value)[:SHOWN_KEYS])
            self.refuse(number, f"no_declared_column: found {keys or 'an empty object'}", raw())
            return
        cells = [_text(value.get(name)) for name in self._columns]
        others = {key: cell for key, cell in value.items() if key not in self._declared}
        extra = compact(others) if others else None
        try:
            "".join([cell for cell in (*cells, extra) if cell]).encode()
        except UnicodeEncodeError:
            self.refuse(number, "undecodable: a string holds half a character (a lone surrogate)", raw())
            return
        self._cells.append(cells)
        self._extra.append(extra)
        self._numbers.append(number)

    def refuse(self, number: int, reason: str, raw: str) -> None:
        """Add a refused record."""
        self._refusals.append(RefusedRecord(number, shown(reason), raw))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the collected records and start over."""
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
    """A parsed value as compact JSON, numbers with their own digits."""
    if isinstance(value, _Number):
        return value
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, dict):
        inner = [f"{encode_basestring(key)}:{compact(item)}" for key, item in value.items()]
        return "{" + ",".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ",".join([compact(item) for item in value]) + "]"
    return _CONSTANTS[value]  # type: ignore[index]  # the decoder yields no other type
