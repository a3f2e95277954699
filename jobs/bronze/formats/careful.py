"""Reads damaged delimited text one record at a time, so that a bad line costs that line and nothing else.

Alternatives tried, on a row with a surplus field, an empty line and a quote that never closes: Python's csv knows line
numbers, but appends what follows a closing quote to the cell or, if strict, stops there; the open quote swallows the
rest of the file. Polars 2.1 drops the surplus field silently or stops, and stops at the open quote. DuckDB 2.0 comes
closest: it lists refused rows with line and bytes, but drops empty lines, gives accepted rows no line number, and
refuses everything after the open quote as one row.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from jobs.bronze.formats.batches import RefusedRecord
from jobs.bronze.formats.text import RAW_LIMIT, Utf8
from jobs.bronze.formats.window import BOUNDS, line_ends


def too_long(limit: int) -> str:
    """The reason for refusing a record longer than ``limit`` bytes."""
    return f"record_too_long: expected at most {limit} bytes"


def shifting(quote: str) -> tuple[str, str]:
    """Patterns of a bare cell in which a quote opens a word and is not closed, and of one in which it only closes one.

    Between two such cells a delimiter may be text. Inches, as in ``6" pipe``, open no word.
    """
    q = re.escape(quote)
    return rf"^[^{q}]*[ (]{q}[^\s{q}][^{q}]*$", rf"^[^{q}]*[^\s{q}]{q}([\s.;:!?)][^{q}]*)?$"


@dataclass(frozen=True, slots=True)
class Record:
    """One record with the right number of cells."""

    row: int
    cells: list[str]


@dataclass(slots=True)
class ParsedRecords:
    """The records read from a stretch of text.

    Attributes:
        records: those with the right number of cells.
        refusals: all others.
        size: bytes read, blank lines included.
        lines: physical lines read.
        is_endless: the next line is longer than a record may be, and its end is not within the text.
    """

    records: list[Record]
    refusals: list[RefusedRecord]
    size: int = 0
    lines: int = 0
    is_endless: bool = False


class CarefulReader:
    """The grammar of one dialect, for text that the fast reader cannot handle.

    A quoted cell must end with a quote before a delimiter or a line end, within ``limit`` bytes. If it does not,
    a quote before a delimiter on the same line ends it (stray quotes inside a cell). Without such a quote either, the
    record is refused up to the end of the line in which the quote opened, and reading resumes at the next line.

    Args:
        delimiter, quote, escape: one ASCII character each, or None.
        width: cells per record; None accepts any number (a header).
        text: explains undecodable bytes and makes them printable.
        limit: maximum bytes per record.
        blanks: blanks around a quoted cell mean nothing.
        ragged: a record may lack its last cells, and have empty cells beyond the last column.
    """

    def __init__(
        self,
        delimiter: str,
        quote: str | None,
        escape: str | None,
        width: int | None,
        text: Utf8,
        limit: int = BOUNDS.record,
        *,
        blanks: bool = False,
        ragged: bool = False,
    ) -> None:
        self._delimiter = delimiter.encode()
        self._quote = quote.encode() if quote else None
        self._escape = escape.encode() if escape else None
        self._opening = self._delimiter + (self._quote or b"")
        self._blanks = b" \t".replace(self._delimiter, b"") if blanks else b""
        self._ragged = ragged
        self._width = width
        self._text = text
        self._limit = limit
        d, q, e = (re.escape(mark) if mark else b"" for mark in (self._delimiter, self._quote, self._escape))
        literal = b"|" + e + rb"(?:.|\Z)" if e else b""
        self._bare = re.compile(b"(?:[^" + d + rb"\r\n" + e + b"]++" + literal + b")*+", re.S)
        never = re.compile(b"(?!)")
        after = b"[" + self._blanks + b"]*" if self._blanks else b""
        self._quoted = (
            never
            if not q
            else re.compile(
                q + b"((?:[^" + q + e + b"]++|" + q + q + literal + b")*+)" + q + after + b"(?=[" + d + rb"\r\n]|\Z)",
                re.S,
            )
        )
        self._stray = never if not q else re.compile(q + b"(.*?)" + q + after + b"(?=" + d + rb"|\Z)", re.S)
        self._lead = re.compile(b"[" + self._blanks + b"]+(?=" + q + b")") if self._blanks and q else never
        self._unclosed, self._unopened = (re.compile(p.encode()) if quote else never for p in shifting(quote or ""))
        self._literal = re.compile(e + b"(.)", re.S)

    def read(self, data: bytes, line: int, enough: int, whole: bool) -> ParsedRecords:
        """Read the records that begin before ``enough``. Blank lines are not records.

        Args:
            data: text that begins at a record; unless ``whole``, it extends a record's limit beyond ``enough``.
            line: number of its first physical line.
            enough: offset at and after which no further record is started.
            whole: ``data`` ends at the end of the text or between two records.
        """
        ends, nexts = (offsets.tolist() for offsets in line_ends(data))
        if not nexts or nexts[-1] < len(data):
            ends.append(len(data))
            nexts.append(len(data))
        parsed = ParsedRecords([], [])
        while parsed.size < min(len(data), enough):
            start, index = parsed.size, parsed.lines
            if ends[index] == len(data) and not whole:
                parsed.is_endless = True
                break
            last = index
            if ends[index] > start:
                item, last = self._record(data, start, index, line + index, ends, whole)
                if isinstance(item, Record):
                    parsed.records.append(item)
                else:
                    parsed.refusals.append(item)
            parsed.size, parsed.lines = nexts[last], last + 1
        return parsed

    def _record(
        self, data: bytes, start: int, index: int, row: int, ends: list[int], whole: bool
    ) -> tuple[Record | RefusedRecord, int]:
        raw = data[start : ends[index]]
        if len(raw) > self._limit:
            return self._refusal(row, too_long(self._limit), raw), index
        if not self._is_special(raw):
            return self._checked(row, raw.split(self._delimiter), raw), index
        limit = min(start + self._limit, len(data))
        cells: list[bytes] = []
        quoted: set[int] = set()
        position, last = start, index
        while True:
            lead = self._lead.match(data, position, limit)
            position = lead.end() if lead else position
            if self._quote and data[position : position + 1] == self._quote:
                quoted.add(len(cells))
            cell, position, last = self._cell(data, position, last, ends, limit)
            if cell is None:
                reason = f"quote_not_closed: the quote opened in cell {len(cells) + 1} is never closed"
                return self._refusal(row, reason, data[start : ends[last]]), last
            cells.append(cell)
            if position >= limit and not (whole and limit == len(data)):
                return self._refusal(row, too_long(self._limit), data[start : ends[index]]), index
            if data[position : position + 1] != self._delimiter:
                return self._checked(row, cells, data[start:position], quoted), last
            position += 1

    def _is_special(self, raw: bytes) -> bool:
        """Whether a line needs more than splitting at delimiters: a cell begins with a quote, or an escape occurs."""
        if self._escape and self._escape in raw:
            return True
        if self._quote is None or self._quote not in raw:
            return False
        return raw.startswith(self._quote) or self._opening in raw or bool(self._blanks)

    def _cell(self, data: bytes, start: int, line: int, ends: list[int], limit: int) -> tuple[bytes | None, int, int]:
        if not self._quote or data[start : start + 1] != self._quote:
            match = self._bare.match(data, start, limit)
            end = match.end() if match else start
            return self._plain(data[start:end]), end, _line_of(end, line, ends)
        match = self._quoted.match(data, start, limit)
        if not match or (match.end() == limit and limit < len(data)):
            match = self._stray.match(data, start, ends[line])
        if not match:
            return None, start, line
        cell = match.group(1).replace(self._quote * 2, self._quote)
        return self._plain(cell), match.end(), _line_of(match.end(), line, ends)

    def _plain(self, cell: bytes) -> bytes:
        return self._literal.sub(rb"\1", cell) if self._escape and self._escape in cell else cell

    def _checked(
        self, row: int, cells: list[bytes], raw: bytes, quoted: Collection[int] = ()
    ) -> Record | RefusedRecord:
        if self._quote and self._quote in raw and (shifted := self._shifted(cells, quoted)):
            return self._refusal(row, shifted, raw)
        if self._width is not None and len(cells) != self._width:
            if not self._ragged or any(cell.strip() for cell in cells[self._width :]):
                kind = "too_many_cells" if len(cells) > self._width else "too_few_cells"
                return self._refusal(row, f"{kind}: expected {self._width}, found {len(cells)}", raw)
            cells = [*cells[: self._width], *[b""] * (self._width - len(cells))]
        try:
            return Record(row, [cell.decode() for cell in cells])
        except UnicodeDecodeError:
            return self._refusal(row, self._undecodable(cells), raw)

    def _shifted(self, cells: list[bytes], quoted: Collection[int]) -> str | None:
        """Why a delimiter may be text between quotes that begin within a bare cell, so that later cells may be off."""
        if self._width is None or self._quote is None:
            return None
        opened: int | None = None
        for position, cell in enumerate(cells):
            if position in quoted or self._quote not in cell:
                continue
            if opened is not None and self._unopened.match(cell):
                return f"quote_in_cell: a quote opens within cell {opened + 1} and closes within cell {position + 1}"
            opened = position if self._unclosed.match(cell) else opened
        return None

    def _undecodable(self, cells: list[bytes]) -> str:
        for number, cell in enumerate(cells, start=1):
            try:
                cell.decode()
            except UnicodeDecodeError:
                return self._text.why(cell, f" of cell {number}")
        return "undecodable"

    def _refusal(self, row: int, reason: str, raw: bytes) -> RefusedRecord:
        return RefusedRecord(row, reason, self._text.show(raw[: RAW_LIMIT + 8]))


def _line_of(position: int, line: int, ends: list[int]) -> int:
    while ends[line] < position:
        line += 1
    return line
