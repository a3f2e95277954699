"""Finds the layout of a delimited file: its delimiter and the position of each declared column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from jobs.bronze.formats.careful import CarefulReader
from jobs.bronze.formats.text import Utf8, guessed_encoding
from jobs.bronze.formats.window import BOUNDS, ByteWindow, cut, first_line
from jobs.declared.format import Delimited
from jobs.declared.published import is_optional, names_of, published_names
from jobs.errors import RefusedFile

_CANDIDATES = (",", ";", "\t", "|", ":", " ")
_SAMPLE_LINES = 50


@dataclass(frozen=True, slots=True)
class Layout:
    """The delimiter and the positions of columns in a record.

    Attributes:
        delimiter: the character between cells.
        width: cells per record.
        declared: position of each declared column; None for an optional one that the file lacks.
        extra: positions of undeclared columns.
        extra_names: their names; ``column_<n>`` where the header has none.
        nameless: for each undeclared column, whether the header has no name for it.
        header: the header's cells; empty if there is none, or if one column could as well hold its own name.
    """

    delimiter: str
    width: int
    declared: tuple[int | None, ...]
    extra: tuple[int, ...] = ()
    extra_names: tuple[str, ...] = ()
    nameless: tuple[bool, ...] = ()
    header: tuple[str, ...] = ()


def find_layout(window: ByteWindow, form: Delimited, text: Utf8, where: str) -> Layout:
    """Skip the preamble, read the header if there is one, and leave the window at the first record.

    Raises:
        RefusedFile: the header is missing, or it lacks a declared column or names one twice.
    """
    for skipped in range(form.skip_lines):
        if not window.fill():
            raise RefusedFile(
                f"ends after {skipped} lines",
                where=where,
                expected=f"a preamble of {form.skip_lines} lines",
                next_step="open the file and correct skip_lines",
            )
        window.skip_line(0)
    _skip_blank(window)
    if not window.data:
        raise RefusedFile(
            "empty after the preamble" if form.skip_lines else "an empty file",
            where=where,
            expected="a header line" if form.header else "at least one record",
            next_step="fetch it again; if it is still empty, ask the publisher",
        )
    delimiter = form.delimiter or _detected(window.data, form, text)
    if not form.header:
        return Layout(delimiter, len(form.columns), tuple(range(len(form.columns))))
    return _matched(_header(window, form, delimiter, text, where), form, delimiter, where)


def _skip_blank(window: ByteWindow) -> None:
    while window.fill():
        end, following = first_line(window.data)
        if end:
            return
        window.advance(following, 1)


def _header(window: ByteWindow, form: Delimited, delimiter: str, text: Utf8, where: str) -> list[str]:
    reader = CarefulReader(delimiter, form.quote, form.escape, None, text, blanks=form.blank_before_quote)
    whole = window.ended and len(window.data) <= BOUNDS.record + 1
    parsed = reader.read(cut(window.data, BOUNDS.record + 1), window.line, 1, whole)
    if parsed.records:
        window.advance(parsed.size, parsed.lines)
        return [name.strip() for name in parsed.records[0].cells]
    reason = parsed.refusals[0].reason if parsed.refusals else "no line end within the first MiB"
    guess = guessed_encoding(text.head, published_names(form.columns)) if reason.startswith("undecodable") else None
    raise RefusedFile(
        f"the header cannot be read: {reason}",
        where=f"{where} line {window.line}",
        expected=f"{form.encoding} text with the columns {', '.join(form.columns)}",
        next_step=f"declare encoding: {guess}" if guess else "open the file and correct the format block",
    )


def _matched(header: list[str], form: Delimited, delimiter: str, where: str) -> Layout:
    found = [[name.strip() for name in names_of(column) if name.strip() in header] for column in form.columns]
    present = {name for names in found for name in names}
    absent = [column.strip() for column, names in zip(form.columns, found, strict=True) if not names]
    missing = [column.strip() for column in form.columns if column.strip() in absent and not is_optional(column)]
    undeclared = [name for name in header if name and name not in present]
    if missing or not present:
        raise _missing(missing or absent, undeclared, header, delimiter, where)
    _refuse_two_names(form, found, where)
    twice = sorted({name for name in present if header.count(name) > 1})
    if twice:
        raise RefusedFile(
            f"the header names {', '.join(twice)} more than once",
            where=where,
            expected="each declared column once",
            next_step="use header: false with skip_lines: 1 and name the columns by position",
        )
    extra = tuple(position for position, name in enumerate(header) if name not in present)
    return Layout(
        delimiter=delimiter,
        width=len(header),
        declared=tuple(header.index(names[0]) if names else None for names in found),
        extra=extra,
        extra_names=tuple(_extra_name(header, position) for position in extra),
        nameless=tuple(not header[position] for position in extra),
        header=tuple(header) if len(header) > 1 else (),
    )


def _refuse_two_names(form: Delimited, found: Sequence[Sequence[str]], where: str) -> None:
    for column, names in zip(form.columns, found, strict=True):
        if len(names) > 1:
            raise RefusedFile(
                f"the header has {_listed(names)}, which are declared as names of one column, {column!r}",
                where=where,
                expected="one of them in a file",
                next_step="declare them as two columns if they differ, or ask the publisher",
            )


def _extra_name(header: list[str], position: int) -> str:
    name = header[position] or f"column_{position + 1}"
    earlier = header[:position].count(name)
    return f"{name}_{earlier + 1}" if earlier else name


def _missing(missing: list[str], undeclared: list[str], header: list[str], delimiter: str, where: str) -> RefusedFile:
    renamed = [
        f"{near[0]!r} may be the new name of {name!r}"
        for name in missing
        if (near := get_close_matches(name, undeclared, 1, 0.5) or _same_letters(name, undeclared))
    ]
    present = f"undeclared columns: {_listed(undeclared)}" if undeclared else f"the header: {_listed(header)}"
    hint = "; ".join(renamed) or f"look at the first lines (delimiter used: {delimiter!r})"
    known = f"{{as: {missing[0]}, published: [{missing[0]}, the new name]}}"
    return RefusedFile(
        f"missing column{'s' if len(missing) > 1 else ''} {_listed(missing)}; {present}",
        where=where,
        expected="every declared column in the header",
        next_step=(
            f"{hint}; then ask the publisher, or declare a renamed column as {known}, and one that some files lack with"
            " `optional: true`"
        ),
    )


def _same_letters(name: str, others: Sequence[str]) -> list[str]:
    return get_close_matches(name.casefold(), [other for other in others if other.casefold() == name.casefold()], 1, 0)


def _listed(names: Sequence[str]) -> str:
    short = [name if len(name) <= 60 else name[:57] + "..." for name in names[:20]]
    return ", ".join(repr(name) for name in short) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _detected(data: bytes, form: Delimited, text: Utf8) -> str:
    """The delimiter that yields the most declared columns: by name if there is a header, else by their number."""
    marks = [mark for mark in _CANDIDATES if mark not in (form.quote, form.escape)]
    whole = len(data) <= BOUNDS.record
    sample = cut(data, BOUNDS.record + 1)

    def score(mark: str) -> tuple[int, int]:
        reader = CarefulReader(mark, form.quote, form.escape, None, text)
        enough = 1 if form.header else min(len(sample), 65536)
        rows = [record.cells for record in reader.read(sample, 1, enough, whole).records[:_SAMPLE_LINES]]
        if form.header:
            names = {name.strip() for row in rows[:1] for name in row}
            return len(names.intersection(name.strip() for name in published_names(form.columns))), len(names)
        return sum(len(row) == len(form.columns) for row in rows), 0

    return max(marks, key=score)
