"""The modes in which later landings join earlier ones, compared with models in plain Python.

Each key of a case has its own random history, so one case tries about sixty. The model knows no builds: in whatever
order landings arrive and however they are grouped into builds, the tables must equal the model's.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from jobs.errors import RefusedFile
from tests.lake.trial import Source, Trial, balanced, day, landings, runs

COLUMNS = {
    "site": "STRING",
    "read_on": "DATE",
    "month": {"physicalType": "STRING", "transformLogic": "date_format(try_cast(read_on as date), 'yyyy-MM')"},
    "amount": "DECIMAL(28,6)",
    "seen_at": "TIMESTAMP",
    "note": "STRING",
}
PUBLISHED = ("site", "read_on", "amount", "seen_at", "note")
KEY = ("site", "read_on")

# Contents that a comparison as floats, in milliseconds or as joined text would confuse.
CONTENTS: tuple[tuple[Any, ...], ...] = (
    ("1.5", "2026-01-01 00:00:00", "a"),
    ("12345678901234567890.000001", "2026-01-01 00:00:00", "a"),
    ("12345678901234567890.000002", "2026-01-01 00:00:00", "a"),
    ("1.5", "2026-01-01 00:00:00.000001", "a"),
    ("1.5", "2026-01-01 00:00:00", None),
    (None, "2026-01-01 00:00:00", 'a","note":"b'),
)

Row = tuple[Any, ...]
# Which landing has the same bytes as which earlier one, by their numbers from 0.
_SAME_BYTES = {2: 0, 4: 3}
# About every other delivery of a list lacks more than this share of the one before.
_LARGEST_LOSS = 0.35


@dataclass(frozen=True)
class File:
    """A landing: the day of its logical date, and its rows."""

    at: int
    rows: tuple[Row, ...]


def files(seed: int, count: int, keys: int = 60) -> list[File]:
    """Landings with late, repeated, contradicting and missing keys.

    The third has the bytes of the first, as if a wrong file in between was withdrawn; the fifth those of the fourth.
    """
    chance = random.Random(seed)
    landed: list[File] = []
    for number in range(count):
        if number in _SAME_BYTES:
            landed.append(File(chance.randrange(4), landed[_SAME_BYTES[number]].rows))
            continue
        rows: list[Row] = []
        for index in chance.sample(range(keys), keys * 2 // 3):
            key = (f"s{index % 7}", str(date(2026, 1, 1) + timedelta(days=index)))
            content = chance.choice(CONTENTS[:3] if index % 2 else CONTENTS)
            copies = chance.choices((1, 2, 3), (8, 1, 1))[0]
            rows += [(*key, *content)] * copies
            if chance.random() < 0.1:
                rows.append((*key, *chance.choice([c for c in CONTENTS if c != content])))
        chance.shuffle(rows)
        landed.append(File(chance.randrange(4), tuple(rows)))
    return landed


def typed(row: Row) -> Row:
    """A row as silver has it."""
    site, read_on, amount, seen_at, note = row
    at = datetime.fromisoformat(seen_at).replace(tzinfo=UTC)
    return (site, date.fromisoformat(read_on), read_on[:7], None if amount is None else Decimal(amount), at, note)


def statements(landed_files: Sequence[File]) -> dict[Row, list[tuple[int, int, Row, int]]]:
    """Per key, the (day, arrival, row, line) of each landing that does not contradict itself about it."""
    by_key: dict[Row, list[tuple[int, int, Row, int]]] = defaultdict(list)
    for arrival, file in enumerate(landed_files):
        rows_by_key: dict[Row, list[tuple[Row, int]]] = defaultdict(list)
        for line, row in enumerate(file.rows, 2):
            rows_by_key[row[:2]].append((row, line))
        for key, rows in rows_by_key.items():
            if len({row for row, _ in rows}) == 1:
                by_key[key].append((file.at, arrival, *rows[0]))
    return by_key


def chain(stated: list[tuple[int, int, Row, int]]) -> list[tuple[int, int, Row, int]]:
    """A key's statements that changed its content, in order; each differs from the one before."""
    links: list[tuple[int, int, Row, int]] = []
    by_day: dict[int, list[tuple[int, int, Row, int]]] = defaultdict(list)
    for statement in sorted(stated):
        by_day[statement[0]].append(statement)
    for at in sorted(by_day):
        last: tuple[int, int, Row, int] | None = None
        for statement in by_day[at]:
            last = statement if last is None or last[2] != statement[2] else last
        assert last is not None
        if not links or links[-1][2] != last[2]:
            links.append(last)
    return links


def merged(stated: list[tuple[int, int, Row, int]]) -> tuple[int, int, Row, int]:
    """The statement that last introduced the key's final content."""
    ordered = sorted(stated)
    current = ordered[0]
    for statement in ordered[1:]:
        current = statement if statement[2] != current[2] else current
    return current


@dataclass(frozen=True)
class Listed:
    """What a delivery of a list says: row, arrival and line by key, and the keys that it contradicts itself on."""

    arrival: int
    at: int
    rows: dict[Row, tuple[Row, int, int]]
    contradicted: set[Row]


def deliveries(landed_files: Sequence[File]) -> list[Listed]:
    """Deliveries in order."""
    listed = [Listed(arrival, file.at, {}, set()) for arrival, file in enumerate(landed_files)]
    for key, stated in statements(landed_files).items():
        for _, arrival, row, line in stated:
            listed[arrival].rows[key] = (row, arrival, line)
    for arrival, file in enumerate(landed_files):
        listed[arrival].contradicted.update({row[:2] for row in file.rows} - set(listed[arrival].rows))
    return sorted(listed, key=lambda delivery: (delivery.at, delivery.arrival))


def after(state: dict[Row, Any], listed: Listed) -> dict[Row, Any]:
    """The list after a delivery; about a key that it contradicts itself about, it says nothing."""
    return {key: state[key] for key in listed.contradicted & set(state)} | listed.rows


def taken(landed_files: Sequence[File]) -> list[Listed]:
    """Deliveries that do not lack too much of the list before."""
    state: dict[Row, Any] = {}
    kept: list[Listed] = []
    for listed in deliveries(landed_files):
        following = after(state, listed)
        if len(set(state) - set(following)) <= _LARGEST_LOSS * len(state):
            state = following
            kept.append(listed)
    return kept


def snapshots(landed_files: Sequence[File]) -> list[Row]:
    """The versions of a list: of two deliveries of a day the last one counts."""
    rows: list[Row] = []
    state: dict[Row, Any] = {}
    for at, listed in {delivery.at: delivery for delivery in taken(landed_files)}.items():
        following: dict[Row, Any] = {}
        for key, version in after(state, listed).items():
            # A version is a row, its arrival, its line and its day.
            same = key in state and state[key][0] == version[0]
            following[key] = state[key] if same else (*version[:3], at)
        rows += [(*typed(v[0]), v[1], v[2], day(v[3]), day(at)) for k, v in state.items() if following.get(k) != v]
        state = following
    return rows + [(*typed(v[0]), v[1], v[2], day(v[3]), None) for v in state.values()]


def model(landed_files: Sequence[File], mode: str) -> list[Row]:
    """The rows silver must have: typed columns, arrival, line, and when they were known."""
    rows: list[Row] = snapshots(landed_files) if mode == "snapshot" else []
    for stated in statements(landed_files).values() if mode != "snapshot" else ():
        if mode == "revisions":
            links = chain(stated)
            ends = [day(link[0]) for link in links[1:]]
            rows += [
                (*typed(row), arrival, line, day(at), end)
                for (at, arrival, row, line), end in zip(links, [*ends, None], strict=True)
            ]
        else:
            at, arrival, row, line = min(stated, key=lambda s: s[1]) if mode == "append" else merged(stated)
            rows.append((*typed(row), arrival, line, day(at)))
    return sorted(rows, key=repr)


def refused(landed_files: Sequence[File], mode: str) -> list[Row]:
    """(rule, arrival, line) of every row quarantine must have."""
    rows: list[Row] = []
    by_key = statements(landed_files)
    listed = taken(landed_files) if mode == "snapshot" else deliveries(landed_files)
    arrived = {delivery.arrival for delivery in listed}
    for arrival, file in enumerate(landed_files):
        consistent = {key: row for key, stated in by_key.items() for _, a, row, _ in stated if a == arrival}
        for line, row in enumerate(file.rows, 2):
            key = row[:2]
            if key not in consistent:
                rows.append(("key.contradiction", arrival, line))
            elif arrival not in arrived:
                if next(n for n, r in enumerate(file.rows, 2) if r == row) == line:
                    rows.append(("snapshot.loss", arrival, line))
            elif mode == "append" and min(by_key[key], key=lambda s: s[1])[2] != row:
                first_line = next(n for n, r in enumerate(file.rows, 2) if r == row)
                if first_line == line:
                    rows.append(("key.changed", arrival, line))
    return sorted(rows)


def declared(exchange: Trial, mode: str, partition: tuple[str, ...]) -> Source:
    silver = {"largest_loss": _LARGEST_LOSS} if mode == "snapshot" else {}
    return exchange.source(COLUMNS, KEY, mode, published=PUBLISHED, partition=partition, silver=silver)


def compare(source: Source, landed_files: Sequence[File]) -> None:
    """Assert that silver and quarantine equal the model."""
    arrival = {landed.tag: number for number, landed in enumerate(landings(source.name))}
    keeps_versions = source.mode in ("revisions", "snapshot")
    more = ("_known_at", "_superseded_at") if keeps_versions else ("_logical_date",)
    rows = [
        (*row[: -4 if keeps_versions else -3], arrival[row[6]], *row[7:])
        for row in source.rows("_landing_sha256", "_row", *more)
    ]
    assert sorted(rows, key=repr) == model(landed_files, source.mode)
    quarantined = [(rule, arrival[sha], row) for rule, sha, row in source.quarantine("rule", "_landing_sha256", "_row")]
    assert sorted(quarantined) == refused(landed_files, source.mode)


@pytest.mark.both_engines(
    "MERGE, windows and hashes of keys",
    "silver.step",
    "silver.split",
    "silver.texts",
    "silver.typed",
    "lake.by_text",
    "silver.deduplicate",
    "silver.join",
    "lake.stages",
    "lake.tables",
    cases=("-grouped",),
)
@pytest.mark.parametrize(
    ("seed", "partition", "groupings"),
    [(1, (), ([1] * 5, [5])), (2, (), ([2, 1, 2],)), (3, ("month",), ([1, 2, 2],)), (4, ("month",), ([3, 1, 1],))],
    ids=["one-by-one-and-all-at-once", "grouped", "parted", "parted-otherwise"],
)
@pytest.mark.parametrize("mode", ["append", "merge", "revisions", "snapshot"])
def test_the_order_and_grouping_of_landings_do_not_matter(
    exchange: Trial, mode: str, seed: int, partition: tuple[str, ...], groupings: tuple[list[int], ...]
) -> None:
    landed_files = files(seed, 5)
    for grouping in groupings:
        source = declared(exchange, mode, partition)
        done = 0
        for size in grouping:
            for file in landed_files[done : done + size]:
                source.land(file.rows, file.at)
            done += size
            with suppress(RefusedFile):
                # A snapshot's newest delivery may be held back; then only quarantine has more.
                source.build()
            compare(source, landed_files[:done])
        for run in runs(source.name, "silver"):
            assert balanced(run)


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
@pytest.mark.parametrize("mode", ["revisions", "snapshot"])
def test_an_unreadable_file_that_comes_late_takes_no_version_away(exchange: Trial, mode: str) -> None:
    source = exchange.source({"meter": "STRING", "kwh": "INT"}, ["meter"], mode)
    for at, kwh in ((0, "1"), (2, "2"), (4, "3")):
        source.take([("m", kwh)], at)
    source.land("neither,of\nthe,columns\n", 1)
    source.land([("m", "4")], 6)
    source.build(6)
    kwh_known = [(kwh, known) for _, kwh, known in source.rows("_known_at")]
    assert kwh_known == [(1, day(0)), (2, day(2)), (3, day(4)), (4, day(6))]
