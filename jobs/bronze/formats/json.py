"""A JSON document: an array of objects, or of arrays, somewhere in a document of any size."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import pyarrow as pa

from jobs.bronze.formats.batches import Batches
from jobs.bronze.formats.json_text import SHOWN_KEYS, Rows, compact, decode_at, empty
from jobs.bronze.formats.text import MARKS, Utf8, refuse_page, shown
from jobs.bronze.formats.window import BOUNDS, Bounds
from jobs.declared.format import JsonDocument
from jobs.declared.published import is_optional, names_of
from jobs.errors import RefusedFile
from jobs.land import Member

_STRUCTURE = re.compile(r'["{}\[\]]')
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.S)
_SPACE = re.compile(r"[ \t\r\n]*")


def read(member: Member, form: JsonDocument, bounds: Bounds = BOUNDS) -> Iterator[pa.RecordBatch]:
    """Read the array at ``record_path`` as it streams. ``_row`` is the record's number in the array (from 1).

    Values become text as in JSON lines. A record may be as large as a block.

    Raises:
        RefusedFile: empty, an HTML page, not JSON, truncated, or without an array at the path (the message shows what
            is there instead, for example a publisher's error reply). It may be raised after some batches.
    """
    text = Utf8(member.stream, form.encoding)
    cursor = _Cursor(text, bounds.block, member.name)
    first = cursor.peek()
    refuse_page(text.head, member.name, "a JSON document")
    if not first:
        raise empty(member.name)
    rows = Rows(form.columns, Batches(form.columns, member.name))
    size = 0
    names = tuple(names_of(c)[0] for c in form.columns) if form.records == "arrays" else ()
    for number, (value, raw) in enumerate(_walk(cursor, form.path, (), member.name), start=1):
        if form.records == "arrays_after_header" and number == 1:
            names = _header(value, form, member.name)
            continue
        if names and isinstance(value, list):
            _add_array(rows, number, value, raw, names)
        else:
            rows.add(number, value, partial(shown, raw))
        size += len(raw)
        if size >= bounds.block:
            yield from rows.batches()
            size = 0
    yield from rows.batches()
    if cursor.peek():
        raise cursor.wrong("text after the end of the document", "one document; declare type: json_lines for several")


def _header(value: Any, form: JsonDocument, where: str) -> tuple[str, ...]:
    """The names in the first array, each as text."""
    names = tuple(name if isinstance(name, str) else compact(name) for name in value) if isinstance(value, list) else ()
    missing = [c for c in form.columns if sum(map(names.count, names_of(c))) != 1 and not is_optional(c)]
    if missing:
        raise RefusedFile(
            f"the first array does not name {', '.join(missing)} once; it is {compact(value)[:200]}",
            where=where,
            expected="an array of names, each declared column once",
            next_step="correct `columns:`, or declare `records: arrays` if there are no names",
        )
    return names


def _add_array(rows: Rows, number: int, value: list[Any], raw: str, names: Sequence[str]) -> None:
    if len(value) != len(names):
        kind = "too_many_cells" if len(value) > len(names) else "too_few_cells"
        rows.refuse(number, f"{kind}: expected {len(names)}, found {len(value)}", shown(raw))
        return
    rows.add(number, dict(zip(names, value, strict=True)), lambda: shown(raw))


def _walk(cursor: _Cursor, path: tuple[str, ...], above: tuple[str, ...], where: str) -> Iterator[tuple[Any, str]]:
    if not path:
        if cursor.peek() != "[":
            raise _no_array(cursor, above, where)
        yield from cursor.array()
        return
    if cursor.peek() == "[" and path[0].isdecimal():
        yield from _walk_array(cursor, path, above, where)
        return
    if cursor.peek() != "{":
        raise _no_array(cursor, above, where, path[0])
    skipped: dict[str, str] = {}
    is_present = False
    for key in cursor.keys():  # noqa: SIM118 - a cursor is not a mapping
        if key == path[0] and not is_present:
            is_present = True
            yield from _walk(cursor, path[1:], (*above, key), where)
        else:
            value = cursor.skip()
            if len(skipped) < SHOWN_KEYS:
                skipped[key] = value
    if not is_present:
        raise _no_key(path[0], above, skipped, where)


def _walk_array(
    cursor: _Cursor, path: tuple[str, ...], above: tuple[str, ...], where: str
) -> Iterator[tuple[Any, str]]:
    number = -1
    for number in cursor.positions():
        if number == int(path[0]):
            yield from _walk(cursor, path[1:], (*above, path[0]), where)
        else:
            cursor.skip()
    if number < int(path[0]):
        raise RefusedFile(
            f"{'.'.join(above) or 'the document'} is an array of {number + 1}, counted from 0",
            where=where,
            expected=f"record_path {'.'.join((*above, path[0]))}...",
            next_step="correct record_path, or read what the publisher replied",
        )


def _no_array(cursor: _Cursor, above: tuple[str, ...], where: str, key: str | None = None) -> RefusedFile:
    place = ".".join(above) or "the document"
    expected = f"an object with the key {key!r}" if key else "an array of records"
    if cursor.peek() == "{":
        values = {name: cursor.skip() for name, _ in zip(cursor.keys(), range(SHOWN_KEYS), strict=False)}
        problem = f"{place} is an object with {_listed(values)}"
    else:
        problem = f"{place} is {'an array' if cursor.peek() == '[' else cursor.skip()}"
    return RefusedFile(
        problem, where=where, expected=expected, next_step="correct record_path, or read what the publisher replied"
    )


def _no_key(key: str, above: tuple[str, ...], values: Mapping[str, str], where: str) -> RefusedFile:
    place = ".".join(above) or "the document"
    return RefusedFile(
        f"{place} has no key {key!r}, only {_listed(values) or 'an empty object'}",
        where=where,
        expected=f"record_path {'.'.join((*above, key))}...",
        next_step="correct record_path, or read what the publisher replied",
    )


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in values.items())


class _Cursor:
    """A position in a JSON document of any size, of which only the part being read is in memory."""

    def __init__(self, text: Utf8, limit: int, where: str) -> None:
        self._text = text
        self._limit = limit
        self._where = where
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors=MARKS)
        self._buffer = ""
        self._at = 0
        self._passed = 0
        self._ended = False

    def wrong(self, problem: str, expected: str | None = None) -> RefusedFile:
        """The refusal of the document, with the problem at this position."""
        return RefusedFile(
            f"{problem} at character {self._passed + self._at + 1}",
            where=self._where,
            expected=expected,
            next_step="fetch it again; if it is still damaged, tell the publisher",
        )

    def peek(self) -> str:
        """Skip white space and return the next character; empty at the end."""
        while True:
            match = _SPACE.match(self._buffer, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def keys(self) -> Iterator[str]:
        """Iterate over an object: yields each key with the cursor at its value, which the caller reads or skips."""
        self._take("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() != '"':
                raise self._syntax("a key in quotes")
            key = self.value()[0]
            self._take(":")
            yield key
            if self.peek() != ",":
                self._take("}")
                return
            self._at += 1

    def array(self) -> Iterator[tuple[Any, str]]:
        """Iterate over an array: each value with its text."""
        self._take("[")
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            self.peek()
            yield self.value()
            if self.peek() != ",":
                self._take("]")
                return
            self._at += 1

    def positions(self) -> Iterator[int]:
        """Iterate over an array: yields each position with the cursor at its value, which the caller reads or skips."""
        self._take("[")
        if self.peek() == "]":
            self._at += 1
            return
        for number in count():
            self.peek()
            yield number
            if self.peek() != ",":
                self._take("]")
                return
            self._at += 1

    def value(self) -> tuple[Any, str]:
        """Read the value at the cursor; returns it parsed, and its text."""
        while True:
            problem = "a value that does not end"
            try:
                value, end = decode_at(self._buffer, self._at)
            except RecursionError as error:
                raise self.wrong("values nested too deeply") from error
            except json.JSONDecodeError as error:
                problem = f"not JSON ({error.msg})"
            else:
                # A number may continue in what has not been read yet.
                if end < len(self._buffer) or self._ended:
                    raw = self._buffer[self._at : end]
                    self._at = end
                    return value, raw
            if len(self._buffer) - self._at > self._limit:
                raise self.wrong(f"{problem} within {self._limit} characters, in the value that begins")
            if not self._more():
                raise self.wrong(f"{problem}; the document may be truncated, in the value that begins")

    def skip(self) -> str:
        """Skip the value at the cursor, whatever its size; returns a short description of it."""
        opening = self.peek()
        if opening not in ("{", "["):
            return compact(self.value()[0])[:100]
        depth = 0
        while True:
            match = _STRUCTURE.search(self._buffer, self._at)
            if match is None:
                self._at = len(self._buffer)
                self._need_more()
                continue
            self._at = match.start()
            if match.group() == '"':
                self._skip_string()
                continue
            self._at += 1
            depth += 1 if match.group() in "{[" else -1
            if depth == 0:
                return "an object" if opening == "{" else "an array"

    def _skip_string(self) -> None:
        while not (match := _STRING.match(self._buffer, self._at)):
            if len(self._buffer) - self._at > self._limit:
                raise self.wrong("a string that does not end")
            self._need_more()
        self._at = match.end()

    def _take(self, mark: str) -> None:
        if self.peek() != mark:
            raise self._syntax(repr(mark))
        self._at += 1

    def _syntax(self, expected: str) -> RefusedFile:
        char = self.peek()
        return self.wrong(f"not JSON: found {char!r}" if char else "the document is truncated", expected)

    def _need_more(self) -> None:
        if not self._more():
            raise self.wrong("the document is truncated")

    def _more(self) -> bool:
        if self._ended:
            return False
        data = self._text.read(1 << 20)
        self._ended = not data
        self._passed += self._at
        self._buffer = self._buffer[self._at :] + self._decoder.decode(data, final=self._ended)
        self._at = 0
        return True
