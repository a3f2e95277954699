"""Prints results: a table for people, one JSON document or CSV for programs."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import chain
from operator import ne
from typing import Any

Record = Mapping[str, Any]

# Wide enough for any table: output to a file or a pipe is never cut or folded.
_PIPED_WIDTH = 10_000
_LONGEST_CELL = 200
_FOLDED = 44
# Of the second and later lines of a row.
_INDENT = 4
# What a spreadsheet may take for the beginning of a formula, also after spaces and in full-width form.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
# Control characters but tab and newline, and those that turn the direction of text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def listing(records: Sequence[Record], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Print records: all their fields as JSON, or the named columns as a table.

    Args:
        records: mappings with the same keys.
        columns: keys shown in the table, in order; `_` becomes a space.
        as_json: print an array with one object per record.
        empty: message on stderr in place of an empty table.
    """
    if as_json:
        document(list(records))
        return
    if not records:
        note(empty)
        return
    table([c.replace("_", " ") for c in columns], [[r[c] for c in columns] for r in records])


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, exact: bool = False) -> None:
    """Print rows for people: exact values with `exact`, else numbers and instants in short form.

    On a terminal that is too narrow for a row, each row has several lines, cut between columns.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[clean(cell(v) if exact else _short(v)) for v in row] for row in rows]
    columns = [
        _Column(
            clean(name),
            is_numeric=all(isinstance(r[position], int | float | Decimal | None) for r in rows),
            width=max(cell_len(text) for text in (clean(name), *(row[position] for row in cells))),
        )
        for position, name in enumerate(header)
    ]
    needed = sum(min(column.width, _FOLDED) + 2 for column in columns)
    width = Console().width if sys.stdout.isatty() else max(_PIPED_WIDTH, needed)
    if needed - 2 > width:
        _stack(columns, cells, width)
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # Only long texts are folded: a name or number broken over two lines cannot be copied.
        shown.add_column(
            Text(column.name), justify="right" if column.is_numeric else "left", overflow="fold",
            no_wrap=column.width <= _FOLDED,
        )  # fmt: skip
    for row in cells:
        shown.add_row(*map(Text, row))
    Console(width=width).print(shown)


@dataclass(frozen=True)
class _Column:
    """A column of a table: its heading, and the cells of the terminal that its longest value takes."""

    name: str
    is_numeric: bool
    width: int

    def fitted(self, text: str, most: int) -> str:
        """A value in the column's width, unless the column is wider than a line, which is its own then."""
        from rich.cells import cell_len

        if self.width > most:
            return text
        gap = " " * (self.width - cell_len(text))
        return gap + text if self.is_numeric else text + gap


def _stack(columns: Sequence[_Column], rows: Sequence[Sequence[str]], width: int) -> None:
    """Print each row in as many lines as it needs, headings alike; only a text too long for one is folded."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    groups: list[list[int]] = [[]]
    left = width
    for position, column in enumerate(columns):
        if groups[-1] and column.width > left:
            groups.append([])
            left = width - _INDENT
        groups[-1].append(position)
        left -= column.width + 2
    console = Console(width=width)
    for style, row in (("bold", [column.name for column in columns]), *(("", row) for row in rows)):
        for number, group in enumerate(groups):
            fitted = (columns[position].fitted(row[position], width - _INDENT) for position in group)
            text = "  ".join(fitted).rstrip()
            if text:
                indent = (0, 0, 0, _INDENT if number else 0)
                console.print(Padding(Text(text, style, overflow="fold"), indent, expand=False))


def line(text: str) -> None:
    """Print one line for people."""
    print(clean(text))


def note(text: str) -> None:
    """Print a line on stderr, so that stdout holds the result only."""
    print(clean(text), file=sys.stderr)


def document(value: Any) -> None:
    """Print one JSON document; an array has one element per line."""
    if isinstance(value, list):
        array(value)
        return
    print(json_text(value))


def array(values: Iterable[Any]) -> None:
    """Print values as one JSON array as they arrive, one per line."""
    begun = False
    for value in values:
        sys.stdout.write((",\n " if begun else "[\n ") + json_text(value))
        begun = True
    sys.stdout.write("\n]\n" if begun else "[]\n")


def comma_separated(header: Sequence[str], rows: Iterable[Sequence[Any]], *, raw: bool = False) -> int:
    """Print rows as CSV with a header; null is an empty cell.

    Unless `raw`, no text can make a spreadsheet compute or a terminal act: one that begins like a formula gets an
    apostrophe before it, as OWASP advises for CSV injection, and control characters are written as ``\\x1b``.

    Returns:
        How many cells are not as they were.
    """
    writer = csv.writer(sys.stdout, lineterminator="\n")
    changed = 0
    for row in chain([header], rows):
        texts = ["" if v is None else cell(v) for v in row]
        shown = texts if raw else [t if _is_number(v) else _harmless(t) for t, v in zip(texts, row, strict=True)]
        changed += sum(map(ne, texts, shown))
        writer.writerow(shown)
    return changed


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal)


def _harmless(text: str) -> str:
    escaped = _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return f"'{escaped}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else escaped


def json_text(value: Any) -> str:
    """Return a value as JSON: decimals keep their digits, instants are in UTC, NaN and infinities are text."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json_text(str(k))}: {json_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(json_text(v) for v in value) + "]"
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    if isinstance(value, bool | int | None) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    return json.dumps(cell(value), ensure_ascii=False)


def cell(value: Any) -> str:
    """Return a value as exact text: ISO 8601 dates, instants in UTC, all digits of decimals, bytes in hexadecimal."""
    if isinstance(value, datetime):
        return _instant(value).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if isinstance(value, Mapping | list | tuple):
        return json_text(value)
    return "null" if value is None else str(value)


def clean(text: str) -> str:
    """Replace control characters, with which data could rewrite what a terminal shows."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{_instant(value):%Y-%m-%d %H:%M}"
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.1f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_short, value))
    text = cell(value)
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"


def _instant(value: datetime) -> datetime:
    # Instants without a zone come from the engine, whose client runs in UTC here.
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
