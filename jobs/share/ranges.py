"""Reads which bytes of a file a ``Range`` header asks for (RFC 9110, section 14).

Starlette's FileResponse serves ranges too, but sends the file by itself: sending could be neither metered as it goes
nor stopped when the grant is revoked halfway.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ONE_RANGE = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)


@dataclass(frozen=True)
class Span:
    """Bytes ``first`` to ``last`` of a file, both included."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.last - self.first + 1


class Unsatisfiable(Exception):
    """A well-formed range that lies outside the file."""


def requested(header: str | None, size: int) -> Span | None:
    """Read a ``Range`` header for a file of ``size`` bytes.

    Returns:
        The bytes asked for; None if the whole file is the right answer: without a header, and for headers that may be
        ignored (a unit other than bytes, several ranges, a malformed header).

    Raises:
        Unsatisfiable: there is one range, and no byte of the file is in it.
    """
    match = _ONE_RANGE.fullmatch(header.strip()) if header else None
    if match is None:
        return None
    first, last = (_number(digits) for digits in match.groups())
    if first is None and last is None:
        return None
    if first is None:
        return _suffix(last or 0, size)
    if last is not None and last < first:
        return None
    if first >= size:
        raise Unsatisfiable
    return Span(first, size - 1 if last is None else min(last, size - 1))


def _suffix(length: int, size: int) -> Span:
    if length == 0 or size == 0:
        raise Unsatisfiable
    return Span(max(size - length, 0), size - 1)


def _number(digits: str) -> int | None:
    if not digits:
        return None
    # No file is that large; parsing thousands of digits would only cost time.
    return int(digits) if len(digits) <= 18 else 10**18
