"""Finds the delimiter, quote and escape of a sample of delimited text, by reading it with the reader of bronze."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from jobs.bronze.formats.careful import CarefulReader
from jobs.bronze.formats.text import Utf8
from jobs.errors import ExchangeError

_DELIMITERS = (",", "\t", ";", "|", ":", " ")
_LAST_RESORT = ": "
_ROWS = 400
_BYTES = 1 << 20
_NUMBER = re.compile(r"^[+-]?(\d+([.,]\d+)*|\.\d+)([eE][+-]?\d+)?%?$")
_MOMENT = re.compile(r"^\d{1,4}[-/.]\d{1,2}([-/.]\d{1,4})?([ T]\d{1,2}:\d{2}.*)?$|^\d{1,2}:\d{2}(:\d{2})?$")
# A quote within a quoted cell that a backslash stands before, and that ends no cell.
_ESCAPED = re.compile(r'[^\\]\\"(?=[^,;\t|"\r\n])')


@dataclass(frozen=True)
class Dialect:
    """One way to read the sample."""

    delimiter: str
    quote: str | None = '"'
    escape: str | None = None
    blanks: bool = False


@dataclass(frozen=True)
class Reading:
    """The sample's first records in one dialect: the line on which each begins, and its cells."""

    dialect: Dialect
    rows: list[tuple[int, list[str]]]
    refused: int

    @cached_property
    def width(self) -> int:
        """How many cells most records have."""
        # A preamble is short, so later rows show the width of a record.
        later = [len(cells) for _, cells in self.rows[len(self.rows) // 5 :]]
        return Counter(later).most_common(1)[0][0]

    @cached_property
    def share(self) -> float:
        """The share of records that have this width, give or take empty cells at their end."""
        alike = sum(length_of(cells) <= self.width <= len(cells) for _, cells in self.rows)
        return alike / (len(self.rows) + self.refused)


def read_best(text: str, whole: bool, separator: str | None, skipped: int) -> Reading:
    """Read the first records in the dialect that gives most of them the same width.

    Args:
        text: the beginning of the sample, decoded.
        whole: the text is all of the sample.
        separator: the delimiter, if the sample says it.
        skipped: lines before the first record.

    Raises:
        ExchangeError: there are no records.
    """
    quote = _quote(text)
    best: tuple[tuple[Any, ...], Reading] | None = None
    for delimiter in (separator,) if separator else _DELIMITERS:
        if delimiter not in text or quote == delimiter:
            continue
        dialect = Dialect(delimiter, quote, blanks=_has_blanks_before_quotes(text, delimiter, quote))
        reading = _best_escape(text, dialect, whole, skipped)
        if not reading.rows:
            continue
        is_table = reading.width > 1 and reading.share > (0.9 if delimiter in _LAST_RESORT else 0.5)
        if delimiter in _LAST_RESORT and not _has_lead(reading):
            is_table = False
        score = (is_table, delimiter not in _LAST_RESORT, round(reading.share, 1), reading.width)
        if best is None or score > best[0]:
            best = (score, reading)
    if best is not None and best[0][0]:
        return best[1]
    reading = _read(text, Dialect(separator or ","), whole, skipped)
    if not reading.rows:
        raise ExchangeError("the sample has no records", expected="lines of delimited text")
    return reading


def _has_lead(reading: Reading) -> bool:
    """Whether colons or blanks separate cells, and do not stand in times, names and sentences."""
    if reading.width < 2:
        return False
    cells = [cells for _, cells in reading.rows if len(cells) == reading.width]
    times = sum(bool(re.search(r"\d$", row[0]) and re.match(r"^\d\d(\D|$)", row[1])) for row in cells)
    if reading.dialect.delimiter == ":":
        return times < len(cells) / 2
    typed = [sum(is_value(row[i]) for row in cells) > 0.8 * len(cells) for i in range(reading.width)]
    return 2 * sum(typed) >= reading.width


def _quote(text: str) -> str:
    """The quote: an apostrophe only where it encloses cells and the usual one does not."""
    single = len(re.findall(r"(?:^|[,;\t|])[ \t]*'[^'\r\n]*'(?=[ \t]*(?:[,;\t|]|\r?$))", text[:_BYTES], re.M))
    double = len(re.findall(r'(?:^|[,;\t|])[ \t]*"', text[:_BYTES], re.M))
    return "'" if single > 1 and single > 5 * double else '"'


def _has_blanks_before_quotes(text: str, delimiter: str, quote: str | None) -> bool:
    blank = "[ \t]".replace("\t", "" if delimiter == "\t" else "\t").replace(" ", "" if delimiter == " " else " ")
    if blank == "[]" or quote is None:
        return False
    d, q = re.escape(delimiter), re.escape(quote)
    return bool(
        re.search(f"(?:^|{d}){blank}+{q}[^{q}]*{q}{blank}*(?:{d}|\r?$)|{q}{blank}+{d}{blank}*{q}", text[:_BYTES], re.M)
    )


def _best_escape(text: str, dialect: Dialect, whole: bool, skipped: int) -> Reading:
    plain = _read(text, dialect, whole, skipped)
    if "\\" not in text[:_BYTES] or not plain.rows:
        return plain
    escaped = _read(text, replace(dialect, escape="\\"), whole, skipped)
    if not escaped.rows:
        return plain
    evident = bool(_ESCAPED.search(text[:_BYTES])) and dialect.quote == '"'
    better = (escaped.share, -escaped.refused) > (plain.share, -plain.refused)
    return escaped if better or (evident and escaped.share >= plain.share) else plain


def _read(text: str, dialect: Dialect, whole: bool, skipped: int) -> Reading:
    class _Nothing:
        def read(self, _size: int, /) -> bytes:
            return b""

    data = text[: _BYTES + 1].encode("utf-8", "replace")
    whole = whole and len(text) <= _BYTES
    for _ in range(skipped):
        data = data.partition(b"\n")[2]
    reader = CarefulReader(
        dialect.delimiter, dialect.quote, dialect.escape, None, Utf8(_Nothing(), "utf-8"), blanks=dialect.blanks
    )
    parsed = reader.read(data, 1 + skipped, _enough(data), whole=True)
    rows = [(r.row, r.cells) for r in parsed.records if any(c.strip() for c in r.cells) or len(r.cells) > 1]
    cut = not whole and len(rows) > 1 and parsed.size >= len(data)
    return Reading(dialect, rows[:-1] if cut else rows, len(parsed.refusals))


def _enough(data: bytes) -> int:
    """Where the first lines end that are looked at."""
    position = 0
    for _ in range(_ROWS):
        following = data.find(b"\n", position)
        if following < 0:
            return len(data)
        position = following + 1
    return position


def length_of(cells: Sequence[str]) -> int:
    """How many cells there are up to the last one with text."""
    return max((i for i, c in enumerate(cells, start=1) if c.strip()), default=0)


def is_value(text: str) -> bool:
    """Whether a cell looks like a number, a date or a time."""
    text = text.strip()
    return bool(_NUMBER.match(text) or _MOMENT.match(text))
