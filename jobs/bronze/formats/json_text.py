"""What both JSON formats share: every value as text exactly as the publisher wrote it, collected record by record.

No library both keeps a number's own digits and continues after damage. pyarrow.json and DuckDB 2.0 read 1.10 as 1.1 and
twenty digits as 1.2345678901234567e+19, and Arrow refuses a number in a column declared as text; Arrow and Polars 2.1
stop at the first damaged line. Python's json keeps digits with `parse_float=str`, but then 1.10 and "1.10" are equal,
only the last of two equal keys survives, and values have no line numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

import pyarrow as pa

from jobs.bronze.formats.batches import Batches, RefusedRecord
from jobs.bronze.formats.text import shown
from jobs.declared.published import names_of, published_names
from jobs.errors import RefusedFile

SHOWN_KEYS = 20
_CONSTANTS = {None: "null", True: "true", False: "false"}
_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}


class _Number(str):
    """A number's own digits: 1.10 stays 1.10, and a code of thirty digits stays whole."""

    __slots__ = ()


class _KeyTwice(ValueError):
    """An object names a key twice; JSON leaves open which of the values counts."""


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """Stands for a value that holds an object with a key twice."""

    reason: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise _KeyTwice(next(name for name in made if names.count(name) > 1))
    return made


_DIGITS: dict[str, Any] = {"parse_float": _Number, "parse_int": _Number, "parse_constant": _Number}
_STRICT = json.JSONDecoder(object_pairs_hook=_object, **_DIGITS)
_LENIENT = json.JSONDecoder(**_DIGITS)


def decode_at(text: str, start: int) -> tuple[Any, int]:
    """Decode the value at a position; returns it, or `Ambiguous`, and where it ends.

    Raises:
        JSONDecodeError: there is no whole value.
        RecursionError: it is nested too deeply.
    """
    try:
        return _STRICT.raw_decode(text, start)
    except _KeyTwice as error:
        _, end = _LENIENT.raw_decode(text, start)
        return Ambiguous(f"duplicate_key: {str(error)[:100]!r}"), end


def decode(text: str) -> Any:
    """Decode a text that is one value; see `decode_at`."""
    try:
        return _STRICT.decode(text)
    except _KeyTwice as error:
        _LENIENT.decode(text)
        return Ambiguous(f"duplicate_key: {str(error)[:100]!r}")


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
        self._names = tuple(names_of(column) for column in columns)
        self._first_names = tuple(names[0] for names in self._names)
        self._renamed = any(len(names) > 1 for names in self._names)
        self._declared = frozenset(published_names(columns))
        self._batches = batches
        self._cells: list[list[str | None]] = []
        self._extra: list[str | None] = []
        self._numbers: list[int] = []
        self._refusals: list[RefusedRecord] = []

    def add(self, number: int, value: object, raw: Callable[[], str]) -> None:
        """Add a parsed record or refuse it; ``raw`` returns its text, which only a refusal needs."""
        if isinstance(value, Ambiguous):
            self.refuse(number, value.reason, raw())
            return
        if not isinstance(value, dict):
            kind = "a number" if isinstance(value, _Number) else _KINDS[type(value)]
            self.refuse(number, f"not_an_object: found {kind}", raw())
            return
        if self._declared.isdisjoint(value):
            keys = ", ".join(list(value)[:SHOWN_KEYS])
            self.refuse(number, f"no_declared_column: found {keys or 'an empty object'}", raw())
            return
        others = {key: cell for key, cell in value.items() if key not in self._declared}
        if self._renamed and (twice := self._two_names(value)):
            self.refuse(number, twice, raw())
            return
        cells = [_text(value.get(key)) for key in self._keys(value)]
        extra = compact(others) if others else None
        try:
            "".join([cell for cell in (*cells, extra) if cell]).encode()
        except UnicodeEncodeError:
            self.refuse(number, "undecodable: a string holds half a character (a lone surrogate)", raw())
            return
        self._cells.append(cells)
        self._extra.append(extra)
        self._numbers.append(number)

    def _keys(self, value: dict[str, object]) -> Sequence[str]:
        """The key of each column in a record; any of its names if the record has none of them."""
        if not self._renamed:
            return self._first_names
        return [next((name for name in names if name in value), names[0]) for names in self._names]

    def _two_names(self, value: dict[str, object]) -> str | None:
        """Why a record cannot be read that has two keys for one column; None if it has not."""
        for column, names in zip(self._columns, self._names, strict=True):
            present = [name for name in names if name in value]
            if len(present) > 1:
                return f"two_names: {' and '.join(present)} are declared as names of one column, {column}"
        return None

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
    if isinstance(value, Ambiguous):
        return value.reason
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, dict):
        inner = [f"{encode_basestring(key)}:{compact(item)}" for key, item in value.items()]
        return "{" + ",".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ",".join([compact(item) for item in value]) + "]"
    return _CONSTANTS[value]  # type: ignore[index]  # the decoder yields no other type
