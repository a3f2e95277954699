"""Formats: bytes in, Arrow batches and refused rows out, whatever the publisher chose to send."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.declared.format import Delimited, Format, JsonDocument, JsonLines

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Delimited", "Format", "JsonDocument", "JsonLines", "read"]


def read(path: Path, file_name: str, form: Format) -> Iterator[pa.RecordBatch]:
    """Read a landed file as batches of rows, good and refused, in bounded memory.

    Every batch has the declared columns in declared order (text exactly as received; null only where JSON has null or
    no such key), then ``_extra`` (undeclared columns as a JSON object), ``_refused`` (the reason; null for a good row),
    ``_raw`` (a refused record's text, cut to 64 KiB), ``_row`` (delimited text and JSON lines: number of the physical
    line on which the record begins, counted from 1 with preamble, header and blank lines; JSON documents: number of
    the record) and ``_member`` (``file_name``, or ``file_name!member`` for a member of an archive).

    Args:
        path: the file.
        file_name: its name at the publisher, for messages and ``_member``.
        form: the source's ``format:`` block.

    Raises:
        RefusedFile: the file cannot be read. It may come after some batches (a gz that is cut off); whoever writes
            them then throws them away.
        NotFound: there is no such file.
    """
    from jobs.bronze.formats.delimited import read_delimited
    from jobs.bronze.formats.json_text import read_json_document, read_json_lines
    from jobs.land import members

    for member in members(path, file_name, form.members):
        if isinstance(form, Delimited):
            yield from read_delimited(member, form)
        elif isinstance(form, JsonLines):
            yield from read_json_lines(member, form)
        else:
            yield from read_json_document(member, form)
