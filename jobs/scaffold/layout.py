"""Detects a sample's format: encoding, JSON or delimited text, preamble, header and columns."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from jobs.bronze.formats.text import refuse_page
from jobs.declared.format import Delimited, JsonDocument, JsonLines
from jobs.errors import ExchangeError, RefusedFile
from jobs.scaffold.sample import HEAD, Sample

_DELIMITERS = (",", "\t", ";", "|", ":", " ")
_ROWS = 400
_LARGEST_DOCUMENT = 256 << 20
_NUMBER = re.compile(r"^[+-]?(\d+([.,]\d+)*|\.\d+)([eE][+-]?\d+)?%?$")
_MOMENT = re.compile(r"^\d{1,4}[-/.]\d{1,2}([-/.]\d{1,4})?([ T]\d{1,2}:\d{2}.*)?$")
# Supersets, because publishers' "GB2312" and "Big5" mostly are.
_WIDER = {
    "gb2312": "gb18030", "gbk": "gb18030", "cp936": "gb18030", "hz": "gb18030", "big5": "big5hkscs",
    "cp950": "big5hkscs", "ascii": "utf-8", "latin_1": "cp1252", "iso8859_1": "cp1252", "utf_8": "utf-8",
    "utf_16": "utf-16",
}  # fmt: skip
_FALLBACKS = ("gb18030", "big5hkscs", "cp1252", "latin-1")


def form_of(sample: Sample) -> Delimited | JsonLines | JsonDocument:
    """Propose the ``format:`` block for a sample, with the columns named as published.

    Raises:
        RefusedFile: no format reads this file.
        ExchangeError: the sample has no records.
    """
    head = sample.head()
    if not head.strip():
        raise RefusedFile("the file is empty", where=sample.file_name, next_step="use a sample with data in it")
    refuse_page(head, sample.file_name, "delimited text or JSON")
    encoding = encoding_of(head, whole=len(head) < HEAD)
    text = _decoded(head, encoding, whole=len(head) < HEAD)
    first = text.lstrip()[:1]
    if first == "<":
        raise RefusedFile(
            "the file is an XML document",
            where=sample.file_name,
            expected="delimited text or JSON",
            next_step="ask the publisher for CSV or JSON",
        )
    shared = {"encoding": encoding, "members": sample.globs}
    if first in ("{", "["):
        return _json(sample, text, encoding, shared)
    return _delimited(text, whole=len(head) < HEAD, shared=shared)


def encoding_of(head: bytes, *, whole: bool) -> str:
    """Return the encoding in which these bytes decode; for a legacy one its superset, for example gb18030."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if head.startswith(codecs.BOM_UTF8) or _decodes(head, "utf-8", whole):
        return "utf-8"
    from charset_normalizer import from_bytes

    for match in from_bytes(_some_legacy_lines(head)):
        name = _WIDER.get(match.encoding, match.encoding)
        if _decodes(head, name, whole):
            return name
    return next((name for name in _FALLBACKS if _decodes(head, name, whole)), "utf-8")


def _some_legacy_lines(head: bytes) -> bytes:
    """Return the lines that are not plain ASCII: only they reveal the encoding."""
    lines = [line for line in head.splitlines() if not line.isascii()]
    return b"\n".join(lines)[: 1 << 16] or head[: 1 << 16]


def _decodes(head: bytes, encoding: str, whole: bool) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(head, final=whole)
    except (UnicodeDecodeError, LookupError):
        return False
    return True


def _decoded(head: bytes, encoding: str, *, whole: bool) -> str:
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(head, final=whole)
    return text.removeprefix("\ufeff")


def _json(sample: Sample, text: str, encoding: str, shared: dict[str, Any]) -> JsonLines | JsonDocument:
    lines = [line for line in text.splitlines() if line.strip()]
    first = _parsed(lines[0])
    second = _parsed(lines[1]) if len(lines) > 1 else None
    if isinstance(first, dict) and (isinstance(second, dict) or not any(_arrays(first))):
        records = [r for r in map(_parsed, lines[:_ROWS]) if isinstance(r, dict)]
        return JsonLines(columns=_keys(records, sample.file_name), **shared)
    data = sample.head(_LARGEST_DOCUMENT)
    document = _parsed(_decoded(data, encoding, whole=True))
    if document is None:
        raise RefusedFile(
            "starts like JSON but does not parse",
            where=sample.file_name,
            expected=f"one object per line, or one document of at most {_LARGEST_DOCUMENT >> 20} MiB",
            next_step="check whether its end is missing",
        )
    arrays = sorted(_arrays(document), key=lambda a: (-len(a[1]), len(a[0])))
    if not arrays:
        raise RefusedFile("the document has no array of records", where=sample.file_name, expected="a list of objects")
    path, records = arrays[0]
    return JsonDocument(record_path=".".join(path), columns=_keys(records[:100_000], sample.file_name), **shared)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _arrays(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Yield every array of objects that a dotted path can name."""
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            if key and "." not in key:
                yield from _arrays(inner, (*path, key))


def _keys(records: list[dict[str, Any]], where: str) -> tuple[str, ...]:
    names = list(dict.fromkeys(key for record in records for key in record))
    usable = tuple(n for n in names if n.strip() == n and n and not n.startswith("_"))
    if not usable:
        raise RefusedFile("the records have no usable keys", where=where, expected="objects with named values")
    return usable


def _delimited(text: str, *, whole: bool, shared: dict[str, Any]) -> Delimited:
    delimiter, rows = _rows(text, whole)
    width = _usual_width([cells for _, cells in rows])
    start = next(i for i, (_, cells) in enumerate(rows) if len(cells) == width)
    table = [cells for _, cells in rows[start:] if len(cells) == width]
    skip = rows[start][0]
    names = [name.strip() for name in table[0]]
    if not _is_header(table):
        return Delimited(delimiter=delimiter, header=False, skip_lines=skip, columns=_numbered(width), **shared)
    named = [n for i, n in enumerate(names) if n or any(row[i].strip() for row in table[1:])]
    if len(set(named)) == len(named) and all(n and not n.startswith("_") for n in named):
        return Delimited(delimiter=delimiter, skip_lines=skip, columns=tuple(named), **shared)
    # Columns of a header with blank, repeated or reserved names are matched by position.
    first = rows[start + 1][0] if start + 1 < len(rows) else skip + 1
    return Delimited(delimiter=delimiter, header=False, skip_lines=first, columns=_unique(names), **shared)


def _rows(text: str, whole: bool) -> tuple[str, list[tuple[int, list[str]]]]:
    """Return the delimiter that gives most records the same width, and the records as (lines before it, cells)."""
    best: tuple[tuple[bool, bool, float, int], str, list[tuple[int, list[str]]]] | None = None
    for delimiter in _DELIMITERS:
        rows = _cut(text, delimiter, whole)
        if not rows:
            continue
        width = _usual_width([cells for _, cells in rows])
        share = sum(len(cells) == width for _, cells in rows) / len(rows)
        # Colons and spaces occur in times and names too, so they are the last resort.
        score = (width > 1 and share > 0.5, delimiter not in ": ", round(share, 1), width)
        if best is None or score > best[0]:
            best = (score, delimiter, rows)
    if best is None:
        raise ExchangeError("the sample has no records", expected="lines of delimited text")
    return (best[1], best[2]) if best[0][0] else (",", _cut(text, ",", whole))


def _cut(text: str, delimiter: str, whole: bool) -> list[tuple[int, list[str]]]:
    csv.field_size_limit(16 << 20)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[tuple[int, list[str]]] = []
    before = 0
    try:
        for cells in reader:
            if any(c.strip() for c in cells) or len(cells) > 1:
                rows.append((before, cells))
            before = reader.line_num
            if len(rows) > _ROWS:
                return rows[:-1]
    except csv.Error:
        return rows
    return rows if whole else rows[:-1]


def _usual_width(rows: list[list[str]]) -> int:
    # A preamble is short, so later rows show the width of a record.
    later = rows[len(rows) // 5 :]
    return Counter(len(r) for r in later).most_common(1)[0][0]


def _is_header(table: list[list[str]]) -> bool:
    """Whether the first record holds column names, judged by how it differs from the records below it."""
    first, below = [c.strip() for c in table[0]], table[1:]
    if not below or len({c for c in first if c}) < len([c for c in first if c]) / 2:
        return not below and not any(_is_value(c) for c in first)
    evidence = 0
    for position, name in enumerate(first):
        values = [v for row in below if (v := row[position].strip())]
        typed = sum(map(_is_value, values)) > 0.8 * len(values) if values else False
        if typed and name:
            evidence += -1 if _is_value(name) and not _is_year(name) else (0 if _is_year(name) else 1)
        elif name and not typed and name in values:
            evidence -= 1
    if evidence:
        return evidence > 0
    return all(name not in {row[i].strip() for row in below} for i, name in enumerate(first) if name)


def _is_value(text: str) -> bool:
    return bool(_NUMBER.match(text) or _MOMENT.match(text))


def _is_year(text: str) -> bool:
    return text.isdigit() and 1800 <= int(text) <= 2200


def _numbered(width: int) -> tuple[str, ...]:
    return tuple(f"column_{i}" for i in range(1, width + 1))


def _unique(names: list[str]) -> tuple[str, ...]:
    unique: list[str] = []
    for position, name in enumerate(names, start=1):
        own = name.lstrip("_") or f"column_{position}"
        unique.append(own if own not in unique else f"{own}_{position}")
    return tuple(unique)
