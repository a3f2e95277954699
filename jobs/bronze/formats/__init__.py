"""Formats: bytes in, Arrow batches of good and refused rows out, whatever the publisher sends.

A format's module is named after its type and defines ``read(member, form)``, which yields the batches of one member as
`read` below describes them; `batches.Batches` builds them. The other modules are what formats share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import extensions
from jobs.declared.format import FORMATS, GROUP, Format

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.land import Member


def read(path: Path, file_name: str, form: Format) -> Iterator[pa.RecordBatch]:
    """Read a landed file as batches of good and refused rows, in bounded memory, with the module of the format's type.

    Every batch has the declared columns in declared order (text exactly as received; null only where JSON has null or
    lacks the key), then ``_extra`` (undeclared columns as a JSON object), ``_refused`` (the reason; null for a good
    row), ``_raw`` (a refused record's text, truncated to 64 KiB), ``_row`` (delimited text and JSON lines: the physical
    line on which the record begins, from 1, counting preamble, header and blank lines; JSON documents: the record's
    number) and ``_member`` (``file_name``, or ``file_name!member`` for a member of an archive).

    Args:
        path: the file.
        file_name: its name at the publisher, for messages and ``_member``.
        form: the source's ``format:`` block.

    Raises:
        RefusedFile: the file is unreadable. It may be raised after some batches (a truncated gz), which the caller then
            discards.
        NotFound: the file does not exist.
    """
    from jobs.land import members

    name = form.type
    own = f"{__name__}.{name}" if name in FORMATS else None
    read_member: Callable[[Member, Format], Iterator[pa.RecordBatch]] = extensions.attribute(GROUP, name, "read", own)
    for member in members(path, file_name, form.members):
        yield from read_member(member, form)
