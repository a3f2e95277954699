"""Finds the records in a JSON sample, whatever their publisher wraps around them, or says why there are none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.bronze.formats.json_text import SHOWN_KEYS
from jobs.declared.format import JsonDocument, JsonLines
from jobs.errors import RefusedFile
from jobs.scaffold.found import Found
from jobs.scaffold.names import known_as

LARGEST_DOCUMENT = 256 << 20
_RECORDS = 100_000
# Keys whose arrays describe columns and not rows.
_DESCRIBING = frozenset({"columns", "fields", "schema", "headers", "header", "meta", "metadata", "links", "errors"})
_WORD = re.compile(r"^[^\W\d][^\r\n]*(?<=\S)$")
_FIGURE = re.compile(r"^[+-]?[0-9]")
_NAMES = ("name", "fieldName", "field", "id", "key", "title", "label")


@dataclass(frozen=True)
class _Array:
    """An array of a document that may hold its records."""

    path: tuple[str, ...]
    values: list[Any]

    @property
    def are_objects(self) -> bool:
        return all(isinstance(v, dict) for v in self.values)

    @property
    def describes(self) -> bool:
        return bool(self.path) and self.path[-1].lower() in _DESCRIBING


def lines_of(text: str, shared: dict[str, Any], *, whole: bool) -> Found | None:
    """The form of JSON lines; None if the sample is one document."""
    lines = [line for line in text.splitlines() if line.strip()]
    lines = lines if whole or len(lines) < 2 else lines[:-1]
    first, second = _parsed(lines[0]), _parsed(lines[1]) if len(lines) > 1 else None
    if not isinstance(first, dict) or (not isinstance(second, dict) and any(_arrays(first))):
        return None
    records = [r for r in map(_parsed, lines) if isinstance(r, dict)]
    doubts: tuple[str, ...] = ()
    inner = {type(v) for v in first.values()}
    if len(records) == 1 and inner and inner <= {dict, list}:
        kind = "objects" if inner == {dict} else "arrays" if inner == {list} else "objects and arrays"
        doubts = (
            f"the document is one record whose values are {kind}, each kept as JSON text; if every key is a record, or"
            " every array a column, ask the publisher for a list of records, or write a silver.sql that takes it apart",
        )
    columns, more = _columns(records)
    return Found(JsonLines(columns=columns, **shared), (*doubts, *more))


def document_of(data: str, shared: dict[str, Any], where: str) -> Found:
    """The form of a document.

    Raises:
        RefusedFile: it holds no records that can be read; the message says what it holds.
    """
    document = _parsed(data)
    if document is None:
        raise RefusedFile(
            "starts like JSON but does not parse",
            where=where,
            expected=f"one object per line, or one document of at most {LARGEST_DOCUMENT >> 20} MiB",
            next_step="check whether its end is missing, or whether it is nested too deeply",
        )
    arrays = [a for a in _arrays(document) if a.values]
    if not arrays:
        raise RefusedFile(
            f"the document has no array of records, only {_described(document)}",
            where=where,
            expected="a list of objects, or of arrays with a value for each column",
            next_step="read what the publisher replied, or ask for the data as a list of records",
        )
    # An array that describes columns is no data, unless there is nothing else.
    best = min(arrays, key=lambda a: (a.describes, -len(a.values), not a.are_objects, len(a.path)))
    others = [".".join(a.path) for a in arrays if a is not best and len(a.values) > 1 and not a.describes][:3]
    doubts = (f"the document has other arrays too: {', '.join(others)}",) if others and best.path else ()
    path = ".".join(best.path)
    if best.are_objects:
        columns, more = _columns(best.values[:_RECORDS])
        return Found(JsonDocument(record_path=path, columns=columns, **shared), (*doubts, *more))
    return _of_arrays(best, path, document, doubts, shared, where)


def _of_arrays(
    best: _Array, path: str, document: Any, doubts: tuple[str, ...], shared: dict[str, Any], where: str
) -> Found:
    widths = {len(v) for v in best.values}
    place = path or "the document"
    if len(widths) > 1:
        raise RefusedFile(
            f"{place} is an array of arrays of {min(widths)} to {max(widths)} values, whose columns cannot be told",
            where=where,
            expected="as many values in each",
            next_step="ask the publisher for a list of objects",
        )
    width = widths.pop()
    names = next((n for n in _name_lists(document) if len(n) == width and len({x.lower() for x in n}) == width), None)
    if not names and _is_header(best.values):
        first = tuple(best.values[0])
        form = JsonDocument(record_path=path, records="arrays_after_header", columns=known_as(first), **shared)
        return Found(form, (*doubts, f"the first array is taken for the names of columns: {', '.join(first)}"))
    doubt = "columns are bound by their place in each array" + ("" if names else "; no names were found for them")
    columns = known_as(names) if names else tuple(f"column_{i}" for i in range(1, width + 1))
    return Found(JsonDocument(record_path=path, records="arrays", columns=columns, **shared), (*doubts, doubt))


def _is_header(values: list[list[Any]]) -> bool:
    """Whether the first array names columns: words, each once, none of which is a value below."""
    first = values[0]
    if len(values) < 2 or not all(isinstance(n, str) and _WORD.match(n) for n in first):
        return False
    below = [{v for v in column if isinstance(v, str)} for column in zip(*values[1:_RECORDS], strict=True)]
    typed = any(not isinstance(v, str) or _FIGURE.match(v) for row in values[1:_RECORDS] for v in row)
    return len({n.lower() for n in first}) == len(first) and typed and not any(map(set.__contains__, below, first))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _arrays(value: Any, path: tuple[str, ...] = ()) -> Iterator[_Array]:
    """Every array of objects, or of arrays of plain values, that a dotted path can name."""
    if isinstance(value, list):
        if (value and all(isinstance(v, dict) for v in value)) or (
            value and all(isinstance(v, list) and v for v in value) and not _is_table_of_tables(value)
        ):
            yield _Array(path, value)
        else:
            for position, inner in enumerate(value[:SHOWN_KEYS]):
                if isinstance(inner, list | dict):
                    yield from _arrays(inner, (*path, str(position)))
    if isinstance(value, dict):
        for key, inner in value.items():
            if key and "." not in key:
                yield from _arrays(inner, (*path, key))


def _is_table_of_tables(value: list[list[Any]]) -> bool:
    return all(isinstance(v, list | dict) for row in value for v in row)


def _columns(records: Sequence[dict[str, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys that can be columns, and the doubts about the others, which are kept in _extra."""
    names = list(dict.fromkeys(key for record in records for key in record))
    usable = [n for n in names if n and n.strip() == n]
    if not usable:
        raise RefusedFile(
            "the records have no usable keys", expected="objects with named values", next_step="look at the sample"
        )
    shown = ", ".join(repr(name) for name in names if name not in usable)
    doubts = (f"the keys {shown} are blank or begin or end with a blank; _extra keeps their values",) if shown else ()
    late = [n for n in usable if n not in records[0]]
    missing = (f"{len(late)} keys are not in the first record, such as {late[0]!r}",) if late else ()
    return known_as(usable), (*doubts, *missing)


def _name_lists(document: Any) -> Iterator[list[str]]:
    """Every list in the document that may name columns."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key.lower() in _DESCRIBING and isinstance(value, list):
                if value and all(isinstance(v, str) and v.strip() for v in value):
                    yield [v.strip() for v in value]
                for name in _NAMES:
                    if value and all(isinstance(v, dict) and isinstance(v.get(name), str) for v in value):
                        names = [str(v[name]).strip() for v in value]
                        if all(names):
                            yield names
            yield from _name_lists(value)
    if isinstance(document, list):
        for value in document[:SHOWN_KEYS]:
            yield from _name_lists(value)


def _described(document: Any) -> str:
    if isinstance(document, dict):
        return f"an object with {', '.join(list(document)[:SHOWN_KEYS])}" if document else "an empty object"
    if isinstance(document, list):
        return "an array of plain values" if document else "an empty array"
    return "a plain value"
