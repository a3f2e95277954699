"""The three modes in which later landings join earlier ones, compared with models in plain Python.

Each key of a case has its own random history, so one case tries about sixty. The model knows no builds: in whatever
order landings arrive and however they are grouped into builds, the tables must equal the model's.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

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


def model(landed_files: Sequence[File], mode: str) -> list[Row]:
    """The rows silver must have: typed columns, arrival, line, and when they were known."""
    rows: list[Row] = []
    for stated in statements(landed_files).values():
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
    for arrival, file in enumerate(landed_files):
        consistent = {key: row for key, stated in by_key.items() for _, a, row, _ in stated if a == arrival}
        for line, row in enumerate(file.rows, 2):
            key = row[:2]
            if key not in consistent:
                rows.append(("key.contradiction", arrival, line))
            elif mode == "append" and min(by_key[key], key=lambda s: s[1])[2] != row:
                first_line = next(n for n, r in enumerate(file.rows, 2) if r == row)
                if first_line == line:
                    rows.append(("key.changed", arrival, line))
    return sorted(rows)


def declared(exchange: Trial, mode: str, partition: tuple[str, ...]) -> Source:
    return exchange.source(COLUMNS, KEY, mode, published=PUBLISHED, partition=partition)


def compare(source: Source, landed_files: Sequence[File]) -> None:
    """Assert that silver and quarantine equal the model."""
    arrival = {landed.tag: number for number, landed in enumerate(landings(source.name))}
    more = ("_known_at", "_superseded_at") if source.mode == "revisions" else ("_logical_date",)
    rows = [
        (*row[: -3 if source.mode != "revisions" else -4], arrival[row[6]], *row[7:])
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
@pytest.mark.parametrize("mode", ["append", "merge", "revisions"])
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
            source.build()
            compare(source, landed_files[:done])
        for run in runs(source.name, "silver"):
            assert balanced(run)
