"""Delimited text: sound blocks go through Arrow's reader, damaged ones through the careful reader.

No library does both. Arrow is fastest and keeps every digit in columns read as text, but it does not report a row's
line, numbers bad rows by row rather than by line (and not at all with threads), and reads from an open quote to the end
of the file as one cell. See `careful` for the other libraries tried.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from jobs.bronze.formats.batches import Batches, RefusedRecord, extra_json
from jobs.bronze.formats.careful import CarefulReader, Record, shifting, too_long
from jobs.bronze.formats.layout import Layout, find_layout
from jobs.bronze.formats.text import RAW_LIMIT, Utf8, refuse_page
from jobs.bronze.formats.window import BOUNDS, Bounds, ByteWindow, Positions, cut, has_overlong_line, line_ends
from jobs.declared.format import Delimited
from jobs.land import Member

_SMALL = 64 << 10
_BOM = b"\xef\xbb\xbf"


def read(member: Member, form: Delimited, bounds: Bounds = BOUNDS) -> Iterator[pa.RecordBatch]:
    """Read one member in bounded memory.

    A block with every quote in a legal place goes through Arrow's reader. From a stray or open quote on, the careful
    reader takes over for a while. Both yield the same rows, wherever the blocks begin.
    ``_row`` is the physical line on which the row begins, from 1, counting preamble, header and blank lines.

    Raises:
        RefusedFile: no row of the member can be read.
    """
    text = Utf8(member.stream, form.encoding)
    window = ByteWindow(text, bounds.block)
    window.fill()
    refuse_page(text.head, member.name, "delimited text")
    layout = find_layout(window, form, text, member.name)
    yield from _Reader(form, layout, text, Batches(form.columns, member.name), bounds).rows(window)


class _Reader:
    def __init__(self, form: Delimited, layout: Layout, text: Utf8, batches: Batches, bounds: Bounds) -> None:
        self._layout = layout
        self._text = text
        self._batches = batches
        self._bounds = bounds
        self._careful = CarefulReader(
            layout.delimiter, form.quote, form.escape, layout.width, text, bounds.record,
            blanks=form.blank_before_quote, ragged=form.ragged,
        )  # fmt: skip
        self._is_ragged = form.ragged
        self._shifting = shifting(form.quote) if form.quote else None
        self._words = [f"{before}{form.quote}".encode() for before in " ("]
        blank = re.escape((layout.delimiter + "\r\n").encode())
        self._blank_quote = re.compile(b"(?:^|[" + blank + rb"])[ \t]+" + re.escape((form.quote or "").encode()))
        self._has_blanks = form.blank_before_quote and form.quote is not None
        self._quote = form.quote.encode() if form.quote else None
        self._escape = form.escape.encode() if form.escape else None
        self._openings = [f"{before}{form.quote}".encode() for before in (layout.delimiter, "\n", "\r")]
        self._edges = np.zeros(256, dtype=bool)
        self._edges[[ord(mark) for mark in (layout.delimiter, "\r", "\n", *(form.quote or ""))]] = True
        self._names = [f"c{position}" for position in range(layout.width + 1)]
        self._types = dict.fromkeys(self._names, pa.string())

    def rows(self, window: ByteWindow) -> Iterator[pa.RecordBatch]:
        """Parse each piece in a second thread while the next one is cut, and yield their batches in order."""
        waiting: deque[Future[list[pa.RecordBatch]]] = deque()
        with ThreadPoolExecutor(1, "parse") as pool:
            for task in self._tasks(window):
                waiting.append(pool.submit(task))
                if len(waiting) > 1:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()

    def _tasks(self, window: ByteWindow) -> Iterator[Callable[[], list[pa.RecordBatch]]]:
        look = self._bounds.block
        while window.fill():
            ahead = cut(window.data, look)
            sound = self._sound(ahead, window.ended and len(ahead) == len(window.data))
            # After damage, look only a short way ahead: with frequent damage, each block would be scanned many times.
            look = min(look * 2, self._bounds.block) if sound else self._bounds.step * 2
            if sound:
                piece, line = window.data[:sound], window.line
                lines = _count_lines(piece)
                yield partial(self._piece, piece, line, lines)
                window.advance(sound, lines)
            else:
                damaged = list(self._damaged(window))
                yield damaged.copy

    def _sound(self, data: bytes, ended: bool) -> int:
        """Number of leading bytes of ``data`` that are whole records which both readers read alike."""
        if data.startswith(_BOM) or (self._escape and self._escape in data):
            return 0
        if self._has_blanks and (blank := self._blank_quote.search(data)):
            data, ended = data[: blank.start()], False
            if not data:
                return 0
        if not self._has_quoted(data):
            end = len(data) if ended else max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
            return 0 if has_overlong_line(data, end, self._bounds.record) else end
        return self._sound_quotes(data, ended)

    def _has_quoted(self, data: bytes) -> bool:
        """Whether a cell of ``data`` begins with a quote (other quotes are characters). ``data`` begins at a record."""
        if not self._quote or self._quote not in data:
            return False
        return data.startswith(self._quote) or any(opening in data for opening in self._openings)

    def _sound_quotes(self, data: bytes, ended: bool) -> int:
        # The line ends added before and after give every quote two neighbours.
        view = np.frombuffer(b"\n" + data + b"\n", dtype=np.uint8)
        quotes = np.flatnonzero(view[1:-1] == ord(self._quote or b""))
        opens, closes = quotes[0::2], quotes[1::2]
        wrong = np.concatenate(
            [
                opens[~self._edges[view[opens]]],
                opens[: len(closes)][~self._edges[view[closes + 2]]],
                opens[len(closes) :],
            ]
        )
        limit = int(wrong.min()) if len(wrong) else len(data)
        starts, nexts = self._records(data, quotes, ended and limit == len(data))
        usable = nexts[nexts <= limit]
        overlong = np.flatnonzero(usable - starts[: len(usable)] > self._bounds.record - 2)
        if len(overlong):
            return int(starts[overlong[0]])
        return int(usable[-1]) if len(usable) else 0

    def _records(self, data: bytes, quotes: Positions, ended: bool) -> tuple[Positions, Positions]:
        ends, nexts = line_ends(data)
        outside = np.searchsorted(quotes, ends) % 2 == 0
        nexts = nexts[outside]
        if ended and (not len(nexts) or nexts[-1] < len(data)):
            nexts = np.append(nexts, len(data))
        return np.concatenate([np.zeros(1, dtype=np.int64), nexts[:-1]]), nexts

    def _damaged(self, window: ByteWindow) -> Iterator[pa.RecordBatch]:
        bounds = self._bounds
        region = cut(window.data, bounds.step + bounds.record + 2)
        whole = window.ended and len(region) == len(window.data)
        part = self._careful.read(region, window.line, bounds.step, whole)
        window.advance(part.size, part.lines)
        yield from self._batches_of(part.records, part.refusals)
        if part.is_endless:
            line, reason = window.line, too_long(bounds.record)
            yield self._batches.refused([RefusedRecord(line, reason, self._text.show(window.skip_line(RAW_LIMIT)))])

    def _piece(self, piece: bytes, line: int, lines: int) -> list[pa.RecordBatch]:
        parsed = self._parsed(piece, line, lines) if _is_utf8(piece) else None
        if parsed is not None:
            return parsed
        half = self._sound(cut(piece, len(piece) // 2), ended=False) if len(piece) > _SMALL else 0
        if not half:
            part = self._careful.read(piece, line, len(piece), whole=True)
            return list(self._batches_of(part.records, part.refusals))
        first, second = piece[:half], piece[half:]
        middle = _count_lines(first)
        return self._piece(first, line, middle) + self._piece(second, line + middle, lines - middle)

    def _parsed(self, piece: bytes, line: int, lines: int) -> list[pa.RecordBatch] | None:
        """Read a piece with Arrow; None if only the careful reader can tell its records or cells."""
        quoted = self._has_quoted(piece)
        read = self._tabulated(piece, quoted, self._layout.width)
        if read and self._is_ragged and 2 * sum(w == self._layout.width + 1 for _, w in read[1]) > len(read[1]):
            # Most records end with a delimiter.
            longer = self._tabulated(piece, quoted, self._layout.width + 1)
            if longer and len(longer[1]) < len(read[1]) and not pc.max(pc.binary_length(longer[0].columns[-1])).as_py():
                read = longer
        if read is None or self._may_be_shifted(piece, read[0]):
            return None
        table, invalid = read
        records = table.num_rows + len(invalid)
        if not invalid and b"\r" not in piece and records == lines:
            return self._good(_flat(table), pa.array(np.arange(line, line + records)))
        starts, numbers = self._located(piece, line, quoted)
        if len(starts) != records:
            return None
        good = np.delete(numbers, [number for number, _ in invalid])
        batches = self._good(_flat(table), pa.array(good)) if len(good) else []
        if self._is_ragged:
            return [*batches, *self._mended(piece, starts, numbers, [number for number, _ in invalid])]
        refusals = [self._miscounted(piece, starts, numbers, number, width) for number, width in invalid]
        return [*batches, self._batches.refused(refusals)] if refusals else batches

    def _tabulated(self, piece: bytes, quoted: bool, width: int) -> tuple[pa.Table, list[tuple[int, int]]] | None:
        """The records with as many cells, and number and width of the others; None if Arrow cannot read the piece."""
        invalid: list[tuple[int, int]] = []

        def note(row: Any) -> str:
            invalid.append((row.number - 1, row.actual_columns))
            return "skip"

        try:
            table = pyarrow.csv.read_csv(
                pa.BufferReader(piece),
                read_options=pyarrow.csv.ReadOptions(
                    use_threads=False, block_size=len(piece) + 1, column_names=self._names[:width]
                ),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=self._layout.delimiter,
                    quote_char=self._quote.decode() if self._quote and quoted else False,
                    newlines_in_values=quoted,
                    invalid_row_handler=note,
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=self._types, check_utf8=False, strings_can_be_null=False, null_values=[]
                ),
            ).combine_chunks()
        except pa.ArrowInvalid:
            return None
        return table, invalid

    def _may_be_shifted(self, piece: bytes, table: pa.Table) -> bool:
        """Whether quotes within bare cells may enclose a delimiter."""
        if self._shifting is None or not any(word in piece for word in self._words):
            return False
        opening, closing = self._shifting
        opened: Any = None
        for column in table.columns:
            if opened is not None and pc.any(pc.and_(opened, pc.match_substring_regex(column, closing))).as_py():
                return True
            opens = pc.match_substring_regex(column, opening)
            opened = opens if opened is None else pc.or_(opened, opens)
        return False

    def _mended(self, piece: bytes, starts: Positions, lines: Positions, odd: list[int]) -> Iterator[pa.RecordBatch]:
        """Read the records of another width one by one."""
        records: list[Record] = []
        refusals: list[RefusedRecord] = []
        for number in odd:
            end = int(starts[number + 1]) if number + 1 < len(starts) else len(piece)
            raw = piece[int(starts[number]) : end]
            part = self._careful.read(raw, int(lines[number]), len(raw), whole=True)
            records += part.records
            refusals += part.refusals
        return self._batches_of(records, refusals)

    def _located(self, piece: bytes, line: int, quoted: bool) -> tuple[Positions, Positions]:
        """Offset and physical line number of each record, blank lines left out."""
        view = np.frombuffer(piece, dtype=np.uint8)
        quotes = np.flatnonzero(view == ord(self._quote or b"")) if quoted else np.zeros(0, dtype=np.int64)
        starts, _ = self._records(piece, quotes, ended=True)
        starts = starts[(view[starts] != 10) & (view[starts] != 13)]
        _, nexts = line_ends(piece)
        return starts, line + np.searchsorted(nexts, starts, side="right")

    def _miscounted(self, piece: bytes, starts: Positions, lines: Positions, number: int, width: int) -> RefusedRecord:
        end = int(starts[number + 1]) if number + 1 < len(starts) else len(piece)
        raw = piece[int(starts[number]) : end].rstrip(b"\r\n")
        kind = "too_many_cells" if width > self._layout.width else "too_few_cells"
        reason = f"{kind}: expected {self._layout.width}, found {width}"
        return RefusedRecord(int(lines[number]), reason, self._text.show(raw))

    def _batches_of(self, records: list[Record], refusals: list[RefusedRecord]) -> Iterator[pa.RecordBatch]:
        if records:
            columns = [
                pa.array(cells, pa.string()) for cells in zip(*(record.cells for record in records), strict=True)
            ]
            yield from self._good(columns, pa.array([record.row for record in records], pa.int64()))
        if refusals:
            yield self._batches.refused(refusals)

    def _good(self, columns: list[pa.Array], rows: pa.Array) -> list[pa.RecordBatch]:
        """Batches of the rows, and of the refusals of those that are the header again."""
        layout = self._layout
        again = self._header_again(columns)
        if again is None:
            return [self._declared(columns, rows)]
        raw = layout.delimiter.join(layout.header)
        repeated = [
            RefusedRecord(row, "repeated_header: the header again", raw) for row in rows.filter(again).to_pylist()
        ]
        others = pc.invert(again)
        columns, rows = [column.filter(others) for column in columns], rows.filter(others)
        good = [self._declared(columns, rows)] if len(rows) else []
        return [*good, self._batches.refused(repeated)]

    def _declared(self, columns: list[pa.Array], rows: pa.Array) -> pa.RecordBatch:
        absent = pa.nulls(len(rows), pa.string())
        cells = [absent if position is None else columns[position] for position in self._layout.declared]
        return self._batches.good(cells, self._extra(columns), rows)

    def _header_again(self, columns: list[pa.Array]) -> pa.Array | None:
        """Which rows are the header again, as in files that were joined; None if none is."""
        again: Any = None
        for name, column in zip(self._layout.header, columns, strict=False):
            same = (
                pc.equal(column, name)
                if again is None
                else pc.and_(again, pc.equal(pc.utf8_trim_whitespace(column), name))
            )
            if not pc.any(same).as_py():
                return None
            again = same
        return again

    def _extra(self, columns: list[pa.Array]) -> pa.Array | None:
        layout = self._layout
        kept = [
            (name, columns[position], nameless)
            for name, position, nameless in zip(layout.extra_names, layout.extra, layout.nameless, strict=True)
            if not nameless or pc.max(pc.binary_length(pc.utf8_trim_whitespace(columns[position]))).as_py()
        ]
        if not kept:
            return None
        names, cells, nameless = zip(*kept, strict=True)
        return extra_json(names, cells, nameless)


def _flat(table: pa.Table) -> list[pa.Array]:
    return [column.chunk(0) if column.num_chunks else pa.array([], pa.string()) for column in table.columns]


def _is_utf8(piece: bytes) -> bool:
    whole = pa.py_buffer(np.array([0, len(piece)], dtype=np.int64))
    try:
        pa.Array.from_buffers(pa.large_binary(), 1, [None, whole, pa.py_buffer(piece)]).cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def _count_lines(piece: bytes) -> int:
    """Count physical lines, including a last one without a line end."""
    if b"\r" in piece:
        ends, nexts = line_ends(piece)
        return len(ends) + (not len(nexts) or int(nexts[-1]) < len(piece))
    feeds = int(np.count_nonzero(np.frombuffer(piece, dtype=np.uint8) == 10))
    return feeds + (not piece.endswith(b"\n"))
