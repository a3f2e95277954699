"""Local times of a zone as instants: which hours a zone lacks or has twice, as SQL that every engine decides alike.

Engines bring tables of zones of their own, of different years, and resolve both cases without a word. The boundaries
here come from `zoneinfo` and become whole numbers in the SQL.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator

from jobs.declared.yaml_file import Declared

# What becomes of a local time that a zone has twice, when clocks are set back.
Doubled = Literal["refuse", "earlier", "later", "by_order"]

_FIRST, _LAST = 1900, 2100
_STEP = timedelta(days=1)
_MICROS = 1_000_000
# Makes any offset positive; and what the first of two in one number is multiplied by.
_SHIFT, _APART = 500_000, 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Zone(Declared):
    """Says that a column has local times of a zone, without their offset from UTC."""

    zone: str
    doubled: Doubled = Field(
        default="refuse",
        description="a local time that comes twice: the earlier or the later one, or by_order of the rows of a file",
    )

    @field_validator("zone")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in _names():
            raise ValueError(f"{value!r} is no zone; expected a name like Europe/Berlin or America/New_York")
        return value


@cache
def _names() -> set[str]:
    # It looks into some six hundred files.
    return available_timezones()


@dataclass(frozen=True)
class Stretch:
    """Local times from one second on, until the next stretch, with the same offsets from UTC.

    Attributes:
        start: seconds since 1970-01-01 00:00 local time; None for all times before the second stretch.
        earlier: seconds to subtract for the instant in UTC; None for local times that do not exist.
        later: the same for the second time that clocks showed it; equal to `earlier` if there is only one.
    """

    start: int | None
    earlier: int | None
    later: int | None

    @property
    def is_doubled(self) -> bool:
        """Whether clocks showed these times twice."""
        return self.earlier != self.later


@lru_cache(maxsize=32)
def stretches(zone: str) -> tuple[Stretch, ...]:
    """The stretches of a zone in order, of the years 1900 to 2100; times before and after have the outermost offsets.

    Two changes of the clocks within a day are taken as one; no zone has had that since 1900.
    """
    transitions = _transitions(zone)
    first = _offset(ZoneInfo(zone), datetime(_FIRST, 1, 1, tzinfo=UTC))
    found = [Stretch(None, first, first)]
    for at, before, after in transitions:
        if after > before:
            found += [Stretch(at + before, None, None), Stretch(at + after, after, after)]
        else:
            found += [Stretch(at + after, before, after), Stretch(at + before, after, after)]
    return tuple(found)


def stretch_of(zone: str, local: int) -> Stretch:
    """The stretch of a local time, in seconds since 1970-01-01 00:00 local time."""
    found = stretches(zone)
    return found[_place(found, local)]


def _place(found: tuple[Stretch, ...], local: int) -> int:
    return bisect_right([s.start for s in found[1:] if s.start is not None], local)


def offsets_sql(zone: str, seconds: str, span: tuple[int, int] | None = None) -> str:
    """SQL of both offsets of a local time as one number; null if the time does not exist.

    `subtracted` reads it.

    Args:
        zone: its zone.
        seconds: name of the local time in whole seconds, as `seconds_sql` computes it.
        span: the smallest and largest of them, because an engine takes a second for each 50 kB of such a search, and a
            zone with summer time has 720 stretches; None for all.
    """
    found = stretches(zone)
    if span:
        first, last = (_place(found, at) for at in span)
        found = found[first : last + 1]

    def choose(low: int, high: int) -> str:
        if high - low == 1:
            return _both(found[low])
        middle = (low + high) // 2
        return f"CASE WHEN {seconds}<{found[middle].start} THEN {choose(low, middle)} ELSE {choose(middle, high)} END"

    return choose(0, len(found))


def seconds_sql(at: str) -> str:
    """SQL of a local time, a TIMESTAMP read as if it were UTC, in whole seconds since 1970-01-01 00:00."""
    return f"CAST(floor(unix_micros({at}) / {_MICROS}) AS BIGINT)"


def is_doubled(offsets: str) -> str:
    """SQL that is true where the two offsets differ."""
    return f"coalesce({offsets} DIV {_APART} <> {offsets} % {_APART}, false)"


def subtracted(at: str, offsets: str, which: Literal["earlier", "later"]) -> str:
    """SQL of the instant of a local time: the local time less one of its offsets."""
    shift = f"{offsets} DIV {_APART}" if which == "earlier" else f"{offsets} % {_APART}"
    return f"timestamp_micros(unix_micros({at}) - ({shift} - {_SHIFT}) * {_MICROS})"


def _both(stretch: Stretch) -> str:
    if stretch.earlier is None or stretch.later is None:
        return "NULL"
    return f"{(stretch.earlier + _SHIFT) * _APART + stretch.later + _SHIFT}L"


def _transitions(zone: str) -> list[tuple[int, int, int]]:
    """Instants at which a zone's offset changes, in seconds, with the offsets before and after, in seconds."""
    info = ZoneInfo(zone)
    at, end = datetime(_FIRST, 1, 1, tzinfo=UTC), datetime(_LAST + 1, 1, 1, tzinfo=UTC)
    found: list[tuple[int, int, int]] = []
    offset = _offset(info, at)
    while at < end:
        following = at + _STEP
        changed = _offset(info, following)
        if changed != offset:
            found.append((_seconds(_change(info, at, following, offset)), offset, changed))
            offset = changed
        at = following
    return found


def _change(info: ZoneInfo, before: datetime, after: datetime, offset: int) -> datetime:
    """The first second between two instants at which the offset is another."""
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=int((after - before).total_seconds()) // 2)
        if _offset(info, middle) == offset:
            before = middle
        else:
            after = middle
    return after


def _offset(info: ZoneInfo, at: datetime) -> int:
    shift = at.astimezone(info).utcoffset()
    return int(shift.total_seconds()) if shift is not None else 0


def _seconds(at: datetime) -> int:
    return int((at - _EPOCH).total_seconds())
