"""Reads a column's type off its texts, with the SQL that converts them and the doubts that a person should settle."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

from jobs.scaffold.names import TIME_WORDS
from jobs.scaffold.numerals import Commas, Doubt, Kind, is_number_of, number, why_text
from jobs.scaffold.texts import applied

PLACEHOLDERS = frozenset({
    "", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "---", ".", "..", "...", "n.a.", "\\n", "missing",
})  # fmt: skip
_ISO_DATE = re.compile(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
_ISO_MOMENT = re.compile(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T]|$)")
_ISO_INSTANT = re.compile(
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})?$"
)
# Date and time notations other than ISO 8601: (regex, Python's pattern, Spark's pattern, whether it has a time).
_WRITTEN = tuple(
    (re.compile(look, re.ASCII), python, spark, timed)
    for look, python, spark, timed in (
        (r"^(19|20)\d{6}$", "%Y%m%d", "yyyyMMdd", False),
        (r"^(19|20)\d{12}$", "%Y%m%d%H%M%S", "yyyyMMddHHmmss", True),
        (r"^\d{4}/\d{1,2}/\d{1,2}$", "%Y/%m/%d", "yyyy/M/d", False),
        (r"^\d{1,2}/\d{1,2}/\d{4}$", "%d/%m/%Y", "d/M/yyyy", False),
        (r"^\d{1,2}/\d{1,2}/\d{4}$", "%m/%d/%Y", "M/d/yyyy", False),
        (r"^\d{1,2}-\d{1,2}-\d{4}$", "%d-%m-%Y", "d-M-yyyy", False),
        (r"^\d{1,2}\.\d{1,2}\.\d{4}$", "%d.%m.%Y", "d.M.yyyy", False),
        (r"^\d{1,2}-[A-Z][a-z]{2}-\d{4}$", "%d-%b-%Y", "d-MMM-yyyy", False),
        (r"^\d{4}/\d{1,2}/\d{1,2} \d{1,2}:\d{2}$", "%Y/%m/%d %H:%M", "yyyy/M/d H:mm", True),
        (r"^\d{4}/\d{1,2}/\d{1,2} \d{1,2}:\d{2}:\d{2}$", "%Y/%m/%d %H:%M:%S", "yyyy/M/d H:mm:ss", True),
        (r"^\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}$", "%d/%m/%Y %H:%M", "d/M/yyyy H:mm", True),
        (r"^\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}$", "%m/%d/%Y %H:%M", "M/d/yyyy H:mm", True),
        (r"^\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}:\d{2}$", "%d/%m/%Y %H:%M:%S", "d/M/yyyy H:mm:ss", True),
        (r"^\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}:\d{2}$", "%m/%d/%Y %H:%M:%S", "M/d/yyyy H:mm:ss", True),
    )
)
_AS_UTC = Doubt("times without an offset are read as UTC")


def kind_of(values: Sequence[str], words: Sequence[str], commas: Commas) -> Kind:
    """How a column is read.

    Args:
        values: its distinct texts, trimmed, without those that mean no value.
        words: the words of its name.
        commas: what the rest of the sample says about commas.
    """
    if not values:
        return Kind("STRING", doubts=(Doubt("no value in the sample"),))
    if moment := _moment(values, words):
        return moment
    if found := number(values, words, commas):
        return found
    if {v.lower() for v in values} <= {"true", "false"}:
        return Kind("BOOLEAN")
    doubt = why_text(values, commas) or _why_no_moment(values)
    return Kind("STRING", doubts=(doubt,) if doubt else ())


def fits(value: str, kind: Kind) -> bool:
    """Whether a trimmed text can be read as a value of a kind, without loss."""
    text = applied(kind.steps, value)
    if kind.type == "STRING":
        return True
    if kind.type == "BOOLEAN":
        return text.lower() in ("true", "false")
    if kind.type in ("DATE", "TIMESTAMP"):
        if kind.pattern:
            written = [w for w in _WRITTEN if w[2] == kind.pattern]
            # A date can be read as an instant at midnight, but an instant not as a date.
            is_held = kind.type == "TIMESTAMP" or not written[0][3]
            return is_held and bool(written[0][0].match(text)) and _all_parse([text], written[0][1])
        look = _ISO_DATE if kind.type == "DATE" else _ISO_MOMENT
        return bool(look.match(text)) and _all_iso([text])
    return is_number_of(text, kind.type)


def _moment(values: Sequence[str], words: Sequence[str]) -> Kind | None:
    if all(_ISO_DATE.match(v) for v in values) and _all_parse(values, "%Y-%m-%d"):
        return Kind("DATE")
    if all(_ISO_INSTANT.match(v) for v in values) and _all_iso(values):
        bare = next((v for v in values if not (v.endswith("Z") or v[-6] in "+-")), None)
        return Kind("TIMESTAMP", doubts=(Doubt(_AS_UTC.text, bare),) if bare else ())
    fitting = [w for w in _WRITTEN if all(w[0].match(v) for v in values) and _all_parse(values, w[1])]
    if not fitting:
        return None
    _, _, pattern, timed = fitting[0]
    if pattern == "yyyyMMdd" and not TIME_WORDS & set(words):
        return None
    doubts: list[Doubt] = []
    if len(fitting) > 1:
        doubts.append(Doubt(f"day and month are ambiguous in the sample; read as {pattern}", values[0]))
    if timed:
        doubts.append(_AS_UTC)
    return Kind("TIMESTAMP" if timed else "DATE", pattern=pattern, doubts=tuple(doubts))


def _why_no_moment(values: Sequence[str]) -> Doubt | None:
    """The doubt about a column that is text although most of its values are dates."""
    looks = [_ISO_MOMENT, *(w[0] for w in _WRITTEN)]
    dated = sum(any(look.match(v) for look in looks) for v in values)
    if dated < len(values) / 2:
        return None
    odd = next((v for v in values if not any(look.match(v) for look in looks)), values[0])
    return Doubt(f"{dated} of {len(values)} distinct values look like dates, but not all can be read as one kind", odd)


def _all_parse(values: Iterable[str], pattern: str) -> bool:
    try:
        for value in values:
            datetime.strptime(value, pattern)
    except ValueError:
        return False
    return True


def _all_iso(values: Iterable[str]) -> bool:
    try:
        for value in values:
            datetime.fromisoformat(value)
    except ValueError:
        return False
    return True
