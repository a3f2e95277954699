"""Turns local times of a declared zone into instants, and tells times that do not exist or come twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.declared.catalog import Source
from jobs.declared.contract import Column, Contract
from jobs.declared.sql import literal
from jobs.declared.zones import Zone, is_doubled, offsets_sql, seconds_sql, subtracted
from jobs.errors import DeclarationError
from jobs.lake import connect

# A time of day with an offset or Z behind it.
_OFFSET = ":.*([zZ]|[+-][0-9]{1,2}(:?[0-9]{2})?)[ ]*$"
_RESOLVED = {"earlier": "taken as the earlier", "later": "taken as the later", "by_order": "taken by order of rows"}


@dataclass(frozen=True)
class LocalTimes:
    """The columns of a source that hold local times.

    Attributes:
        zones: their zones, by their places in the contract.
        spans: the smallest and largest local time of a batch in seconds, by the same; all times where there is none.
    """

    contract: Contract
    zones: dict[int, Zone]
    spans: Mapping[int, tuple[int, int]]

    def refusals(self, place: int, converted: str, shown: Sequence[str], text: str | None) -> list[tuple[str, str]]:
        """Rule and condition of each reason to refuse a local time.

        Args:
            place: the column's place in the contract.
            converted: SQL of the local time.
            shown: the published columns that it is computed from.
            text: SQL of the published text, if it is computed from nothing else.
        """
        zone = self.zones.get(place)
        if zone is None:
            return []
        name = self.contract.columns[place].name
        found = [(f"{name}.nonexistent", f"{converted} IS NOT NULL AND {_offsets(place)} IS NULL")]
        if zone.doubled == "refuse":
            found.append((f"{name}.doubled", _is_doubled(place)))
        if zone.doubled == "by_order":
            found.append((f"{name}.doubled", f"{_is_doubled(place)} AND _nth{place} > 2"))
        if text is not None and len(shown) == 1:
            found.append((f"{name}.has_offset", f"coalesce({text} RLIKE {literal(_OFFSET)}, false)"))
        return found

    def located(self, rows: str, converted: Sequence[str]) -> str:
        """SELECT that adds to some rows the offsets of their local times, and which of two equal ones a row has."""
        for place, zone in self.zones.items():
            seconds = f"SELECT *, {seconds_sql(converted[place])} AS _seconds{place} FROM ({rows})"
            rows = f"SELECT *, {self._found(place)} AS {_offsets(place)} FROM ({seconds})"
            if zone.doubled == "by_order":
                rows = self._numbered(place, rows, converted)
        return rows

    def _found(self, place: int) -> str:
        return offsets_sql(self.zones[place].zone, f"_seconds{place}", self.spans.get(place))

    def spans_of(self, rows: str, converted: Sequence[str]) -> dict[int, tuple[int, int]]:
        """The smallest and largest local time of some rows, in seconds, by the columns' places; none without any."""
        spans: dict[int, tuple[int, int]] = {}
        for place in self.zones:
            at = seconds_sql(converted[place])
            first, last = connect().sql(f"SELECT min({at}), max({at}) FROM ({rows})").collect()[0]
            spans[place] = (0, 0) if first is None else (int(first), int(last))
        return spans

    def _numbered(self, place: int, rows: str, converted: Sequence[str]) -> str:
        """Number the rows of a file that have the same local time and otherwise the same key; few, so only those."""
        names = self.contract.names
        others = [converted[names.index(k)] for k in self.contract.key if names.index(k) != place]
        same = ", ".join(("_landing_sha256", *others, converted[place]))
        return (
            f"SELECT *, CAST(NULL AS INT) AS _nth{place} FROM ({rows}) WHERE NOT {_is_doubled(place)} UNION ALL"
            f" SELECT *, row_number() OVER (PARTITION BY {same} ORDER BY _file, _row) AS _nth{place}"
            f" FROM ({rows}) WHERE {_is_doubled(place)}"
        )

    def instant(self, place: int, converted: str) -> str:
        """SQL of a column's value: the instant of its local time."""
        zone = self.zones.get(place)
        if zone is None:
            return converted
        earlier, later = (subtracted(converted, _offsets(place), which) for which in ("earlier", "later"))
        if zone.doubled == "by_order":
            return f"CASE WHEN _nth{place} = 2 THEN {later} ELSE {earlier} END"
        return later if zone.doubled == "later" else earlier

    def flags(self, converted: Sequence[str]) -> tuple[str, ...]:
        """SQL of further columns that `remarks` counts."""
        return tuple(
            flag
            for place in self.zones
            for flag in (
                f"{_is_doubled(place)} AS _twice{place}",
                f"{converted[place]} IS NOT NULL AND {_offsets(place)} IS NULL AS _never{place}",
            )
        )

    @property
    def flag_names(self) -> tuple[str, ...]:
        """Names of these columns."""
        return tuple(f"{flag}{place}" for place in self.zones for flag in ("_twice", "_never"))

    def remarks(self, view: str) -> tuple[str, ...]:
        """What became of the local times in a view of typed rows that come twice or never."""
        if not self.zones:
            return ()
        counted = ", ".join(f"count_if({name})" for name in self.flag_names)
        counts = connect().sql(f"SELECT {counted} FROM {view}").collect()[0]
        told = []
        for number, (place, zone) in enumerate(self.zones.items()):
            twice, never = counts[2 * number], counts[2 * number + 1]
            parts = [
                f"{twice:,} that come twice {_RESOLVED.get(zone.doubled, 'were refused')}" if twice else "",
                f"{never:,} that do not exist were refused" if never else "",
            ]
            if any(parts):
                column = self.contract.columns[place].name
                told.append(f"of {column}'s local times in {zone.zone}, {' and '.join(filter(None, parts))}")
        return tuple(told)


def local_times(source: Source, contract: Contract, spans: Mapping[int, tuple[int, int]]) -> LocalTimes:
    """The columns that source.yaml gives a zone.

    Raises:
        DeclarationError: the contract has no such column, or it is no TIMESTAMP.
    """
    columns = {c.name: c for c in contract.columns}
    for name in source.declared.zones:
        column: Column | None = columns.get(name)
        if column is None or column.type != "TIMESTAMP":
            why = "does not have" if column is None else f"types as {column.type}"
            raise DeclarationError(
                f"a zone for the column '{name}', which the contract {why}",
                file=source.file,
                field=f"zones.{name}",
                expected="a column of type TIMESTAMP, whose text or transformLogic yields local times",
                next_step=f"correct the name, or see {contract.file}",
            )
    zones = {contract.names.index(name): zone for name, zone in source.declared.zones.items()}
    return LocalTimes(contract, zones, spans)


def _offsets(place: int) -> str:
    return f"_offsets{place}"


def _is_doubled(place: int) -> str:
    return is_doubled(_offsets(place))
