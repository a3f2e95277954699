"""JSON lines: one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa

from jobs.bronze.formats.batches import Batches
from jobs.bronze.formats.careful import too_long
from jobs.bronze.formats.json_text import Rows, decode, empty
from jobs.bronze.formats.text import RAW_LIMIT, Utf8, refuse_page
from jobs.bronze.formats.window import BOUNDS, Bounds, ByteWindow, line_ends
from jobs.declared.format import JsonLines
from jobs.errors import RefusedFile
from jobs.land import Member


def read(member: Member, form: JsonLines, bounds: Bounds = BOUNDS) -> Iterator[pa.RecordBatch]:
    """Read one object per line; a line that is not an object is a refused row. ``_row`` is the line's number (from 1).

    A missing key and null both become null; true, false and numbers keep their own text; arrays and objects become
    compact JSON. A line may be as large as a block.

    Raises:
        RefusedFile: empty, an HTML page, or a document that spans several lines.
    """
    text = Utf8(member.stream, form.encoding)
    window = ByteWindow(text, bounds.block)
    window.fill()
    refuse_page(text.head, member.name, "JSON lines")
    if not window.data.strip():
        raise empty(member.name)
    if window.data.split(b"\n", 1)[0].strip() in (b"[", b"{"):
        raise RefusedFile(
            "a JSON document that spans several lines",
            where=member.name,
            expected="one object per line",
            next_step="declare type: json with its record_path",
        )
    rows = Rows(form.columns, Batches(form.columns, member.name))
    while window.fill():
        ends, nexts = (offsets.tolist() for offsets in line_ends(window.data))
        if window.ended and (not nexts or nexts[-1] < len(window.data)):
            ends.append(len(window.data))
            nexts.append(len(window.data))
        if not ends:
            line = window.line
            rows.refuse(line, too_long(bounds.block), text.show(window.skip_line(RAW_LIMIT)))
            yield from rows.batches()
            continue
        start = 0
        for line, (end, next_start) in enumerate(zip(ends, nexts, strict=True), start=window.line):
            _read_line(rows, line, window.data[start:end], text)
            start = next_start
        window.advance(start, len(ends))
        yield from rows.batches()


def _read_line(rows: Rows, line: int, raw: bytes, text: Utf8) -> None:
    if not raw.strip():
        return
    try:
        rows.add(line, decode(raw.decode()), lambda: text.show(raw))
    except UnicodeDecodeError:
        rows.refuse(line, text.why(raw), text.show(raw))
    except json.JSONDecodeError as error:
        rows.refuse(line, f"not_json: {error.msg} at character {error.pos + 1}", text.show(raw))
    except RecursionError:
        rows.refuse(line, "not_json: nested too deeply", text.show(raw))
