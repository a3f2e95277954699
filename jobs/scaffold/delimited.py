"""Detects how a sample of delimited text is laid out: preamble, header, units, repeated headers and ragged rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.declared.format import Delimited
from jobs.scaffold.dialect import Dialect, Reading, is_value, length_of, read_best
from jobs.scaffold.found import Found
from jobs.scaffold.names import UNITS, distinct, known_as

_SEPARATOR = re.compile(r'^"?sep=(.)"?\r?\n', re.I)
_IN_BRACKETS = re.compile(r"^[(\[].{1,20}[)\]]$")
_SHORT_WORD = re.compile(r"^[^\d\s]{1,3}([/·^*.\-]?[^\s]{1,5})?$")
_SHOWN = 80


def delimited(text: str, shared: dict[str, Any], *, whole: bool) -> Found:
    """The form of delimited text.

    Args:
        text: the beginning of the sample, decoded.
        shared: what all formats have: encoding and members.
        whole: the text is all of the sample.

    Raises:
        ExchangeError: there are no records.
    """
    separator = _SEPARATOR.match(text)
    reading = read_best(text, whole, separator.group(1) if separator else None, 1 if separator else 0)
    dialect = reading.dialect
    form = {
        "delimiter": dialect.delimiter, "quote": dialect.quote, "escape": dialect.escape,
        "blank_before_quote": dialect.blanks, **shared,
    }  # fmt: skip
    table = _Table.of(reading)
    doubts = _doubts_about(dialect)
    preamble = [(line, cells) for line, cells in reading.rows if line < table.first]
    if preamble:
        shown = dialect.delimiter.join(preamble[0][1])[:_SHOWN]
        lines = f"lines 1 to {table.first - 1} are" if table.first > 2 else "line 1 is"
        doubts.append(f"{lines} taken for a preamble and skipped: {shown}")
    doubts += table.doubts
    if table.is_ragged:
        form["ragged"] = True
    if not table.header:
        columns = _numbered(table.width)
        return Found(Delimited(header=False, skip_lines=table.first - 1, columns=columns, **form), tuple(doubts))
    by_name = _by_name(table)
    if by_name:
        return Found(Delimited(skip_lines=table.first - 1, columns=by_name, **form), tuple(doubts))
    columns = distinct([n.lstrip("_ ") for n in table.header])
    drop = _header_again(table, columns)
    return Found(
        Delimited(header=False, skip_lines=table.data_line - 1, columns=columns, **form),
        tuple(doubts),
        dict(zip(columns, table.units, strict=True)) if table.units else {},
        (drop,) if drop else (),
        "columns bound by their place, with the names of the header",
    )


def _doubts_about(dialect: Dialect) -> list[str]:
    doubts = []
    if dialect.escape:
        doubts.append("backslashes are read as escapes of the character behind them")
    if dialect.quote == "'":
        doubts.append("cells are quoted with apostrophes")
    if dialect.blanks:
        doubts.append("blanks around quoted cells are left out")
    return doubts


@dataclass(frozen=True)
class _Table:
    """Where the table begins in a sample.

    Attributes:
        width: how many columns it has.
        first: line of the header, or of the first record if there is none.
        header: the names of columns, as published; empty if there are none.
        is_repeated: the header stands among the records again.
        data_line: line of the first record after the header.
        is_plain: the header is one line that can be read as the header.
        body: the records below, each with as many cells as the table has columns.
    """

    width: int
    first: int
    header: tuple[str, ...]
    data_line: int
    is_plain: bool
    body: list[list[str]]
    units: tuple[str, ...] = ()
    is_repeated: bool = False
    is_ragged: bool = False
    doubts: tuple[str, ...] = ()

    @classmethod
    def of(cls, reading: Reading) -> _Table:
        """Find the table among the first records."""
        rows = reading.rows
        width = _columns_of(reading)
        start = _start(rows, width)
        body = [(line, _padded(cells, width)) for line, cells in rows[start:]]
        others = [cells for _, cells in rows[start + 1 :]]
        short = [len(cells) for _, cells in rows[start:] if len(cells) < width]
        longer = [len(cells) for cells in others if len(cells) > width and not any(c.strip() for c in cells[width:])]
        head = rows[start][1]
        doubts: list[str] = []
        # A column without a name and without cells is left out by its place in the header.
        is_column = len(head) == width + 1 == len(reading.rows[-1][1]) and len(longer) == len(others)
        is_ragged = not is_column and bool(longer or len(head) > width)
        is_ragged = is_ragged or (bool(short) and _are_shortened([cells for _, cells in rows[start:]], width))
        if is_column:
            longer, head = [], head[:width]
        if longer:
            doubts.append(f"{len(longer)} of {len(others)} records end with a delimiter too many, which is ignored")
        if len(head) > width:
            doubts.append("the header ends with a delimiter too many, which is ignored")
        if short and is_ragged:
            doubts.append(
                f"{len(short)} of {len(rows) - start} records lack cells at their end, which are read as empty"
            )
        table = cls(
            width, body[0][0], (), body[0][0], True, [c for _, c in body], is_ragged=is_ragged, doubts=tuple(doubts)
        )
        return _with_header(table, body, rows[start - 1] if start else None)


def _columns_of(reading: Reading) -> int:
    """How many columns a table has: a delimiter after every last cell makes no column."""
    width = reading.width
    full = [cells for _, cells in reading.rows if len(cells) == width]
    ends = [cells for cells in full[1:] if not cells[-1].strip()]
    lengths = {length_of(cells) for _, cells in reading.rows}
    if width > 1 and full[1:] and len(ends) == len(full) - 1 and (not full[0][-1].strip() or width - 1 in lengths):
        named = any(len(cells) == width and cells[-1].strip() for _, cells in reading.rows)
        return width if named else width - 1
    return width


def _start(rows: list[tuple[int, list[str]]], width: int) -> int:
    """The first record that is no title: it has most of the cells, or looks like the records below it."""
    typed = _typed([cells for _, cells in rows[len(rows) // 5 :] if len(cells) == width], width)
    for position, (_, cells) in enumerate(rows):
        filled = sum(bool(c.strip()) for c in cells[:width])
        if len(cells) >= width and filled >= min(width, max(2, (width + 1) // 2)):
            return position
        kinds = [i for i, c in enumerate(cells[:width]) if c.strip()]
        if len(kinds) > 1 and any(typed[i] and is_value(cells[i]) for i in kinds):
            return position
    return next((i for i, (_, cells) in enumerate(rows) if len(cells) >= width), 0)


def _are_shortened(records: list[list[str]], width: int) -> bool:
    """Whether short records are rows without their last cells, and not footers or damage."""
    typed = _typed([r for r in records if len(r) == width], width)
    short = [r for r in records if len(r) < width]
    fitting = [
        r for r in short if len(r) > 1 and all(not typed[i] or is_value(c) or not c.strip() for i, c in enumerate(r))
    ]
    return any(typed) and len(fitting) * 2 > len(short)


def _typed(records: list[list[str]], width: int) -> list[bool]:
    """Which columns hold numbers or dates."""
    typed = []
    for position in range(width):
        values = [v for row in records if position < len(row) and (v := row[position].strip())]
        typed.append(bool(values) and sum(map(is_value, values)) > 0.6 * len(values))
    return typed


def _padded(cells: list[str], width: int) -> list[str]:
    return [*cells[:width], *[""] * (width - len(cells))]


def _with_header(table: _Table, body: list[tuple[int, list[str]]], above: tuple[int, list[str]] | None) -> _Table:
    names = [c.strip() for c in body[0][1]]
    below = [row for _, row in body[1:] if [c.strip() for c in row] != names]
    verdict = _is_header(names, below)
    if verdict is None:
        doubt = (
            f"line {table.first} is taken for the names of columns, which nothing proves: {', '.join(names)[:_SHOWN]}"
        )
        table = replace(table, doubts=(*table.doubts, doubt))
    if verdict is False:
        return table
    data_line = body[1][0] if len(body) > 1 else table.first + 1
    table = replace(table, header=tuple(names), data_line=data_line, body=below, is_repeated=len(below) < len(body) - 1)
    typed = _typed(below[1:], table.width)
    if len(body) > 2 and _are_units(body[1][1], typed):
        units = tuple(_unit(c) if t else "" for c, t in zip(body[1][1], typed, strict=True))
        doubt = f"line {body[1][0]} is taken for units: {', '.join(c.strip() for c in body[1][1])[:_SHOWN]}"
        table = replace(
            table, units=units, data_line=body[2][0], is_plain=False, body=below[1:], doubts=(*table.doubts, doubt)
        )
    elif len(body) > 2 and _is_second_header(names, body[1][1], typed):
        return _joined(table, names, body[1][1], body[2][0], body[1][0])
    if above and _is_upper_header(above[1], names, table.width):
        return replace(_joined(table, above[1], names, table.data_line, table.first), first=above[0])
    return table


def _joined(table: _Table, upper: Sequence[str], lower: Sequence[str], data_line: int, line: int) -> _Table:
    """One header of two lines: a name above counts for the columns to its right that have none."""
    names: list[str] = []
    group = ""
    for position in range(table.width):
        top = upper[position].strip() if position < len(upper) else ""
        group = top or group
        names.append(" ".join(filter(None, (group, lower[position].strip()))))
    doubt = f"the names in line {line} are put together with those above them, such as {names[-1]!r}"
    return replace(
        table,
        header=tuple(names),
        data_line=data_line,
        is_plain=False,
        body=table.body[1:],
        doubts=(*table.doubts, doubt),
    )


def _is_second_header(names: Sequence[str], second: Sequence[str], typed: Sequence[bool]) -> bool:
    """Whether the line below a header with gaps or repetitions names its columns on."""
    has_gaps = len({n for n in names if n}) < len(names)
    filled = [c.strip() for c in second if c.strip()]
    where = [bool(c.strip()) and not is_value(c.strip()) for c in second]
    return has_gaps and any(typed) and len(filled) > 1 and all(w for w, t in zip(where, typed, strict=True) if t)


def _is_upper_header(above: Sequence[str], names: Sequence[str], width: int) -> bool:
    filled = [c.strip() for c in above if c.strip()]
    repeated = len({n for n in names if n}) < len([n for n in names if n])
    return repeated and len(above) >= width and len(filled) > 1


def _are_units(cells: Sequence[str], typed: Sequence[bool]) -> bool:
    """Whether a line below the header holds a unit for columns of numbers."""
    given = [c.strip() for c, t in zip(cells, typed, strict=True) if t]
    filled = [c for c in given if c]
    known = [c for c in filled if c.strip("()[]").lower() in UNITS or c in ("%", "°C") or _IN_BRACKETS.match(c)]
    fitting = all(not is_value(c) and (_SHORT_WORD.match(c) or _IN_BRACKETS.match(c)) for c in filled)
    return bool(known) and fitting and 2 * len(filled) >= len(given)


def _unit(cell: str) -> str:
    bare = cell.strip().strip("()[]")
    return {"%": "percent"}.get(bare, UNITS.get(bare.lower(), bare))


def _by_name(table: _Table) -> tuple[str, ...]:
    """The names by which columns can be matched in the header; empty if some of them cannot be."""
    if not table.is_plain:
        return ()
    named = [n for i, n in enumerate(table.header) if n or any(row[i].strip() for row in table.body)]
    return known_as(named) if len(set(named)) == len(named) and all(named) else ()


def _header_again(table: _Table, columns: Sequence[str]) -> dict[str, Any] | None:
    """The rule that drops a header that is repeated among the records, for columns bound by their place."""
    position = next((i for i, n in enumerate(table.header) if n), None)
    if position is None or not table.is_repeated:
        return None
    return {"column": columns[position], "values": [table.header[position]], "reason": "the header again"}


def _is_header(first: Sequence[str], below: list[list[str]]) -> bool | None:
    """Whether the first record holds column names, by how it differs from those below it; None if nothing proves it."""
    named = [c for c in first if c]
    if not below:
        return not any(is_value(c) for c in first)
    if len(set(named)) < len(named) / 2:
        return False
    evidence = 0
    typed = _typed(below, len(first))
    for position, name in enumerate(first):
        values = {row[position].strip() for row in below}
        if typed[position] and name:
            evidence += -1 if is_value(name) and not _is_year(name) else (0 if _is_year(name) else 1)
        elif name and not typed[position] and name in values:
            evidence -= 1
    if evidence:
        return evidence > 0
    return None if all(n not in {row[i].strip() for row in below} for i, n in enumerate(first) if n) else False


def _is_year(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1800 <= int(text) <= 2200


def _numbered(width: int) -> tuple[str, ...]:
    return tuple(f"column_{i}" for i in range(1, width + 1))
