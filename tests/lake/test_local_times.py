"""Columns with local times of a zone: instants in UTC, and the hours that a zone lacks or has twice."""

from __future__ import annotations

import gzip
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from jobs.errors import DeclarationError
from tests.lake.trial import Trial, balanced, runs
from tests.publishers import publisher_file

READINGS = {"meter": "STRING", "read_at": "TIMESTAMP", "kwh": "INT"}
KEY = ["meter", "read_at"]
BERLIN = ZoneInfo("Europe/Berlin")
TWICE = "2026-10-25 02:30:00"


def utc(year: int, month: int, day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(year, month, day, hour, minute, tzinfo=UTC)


@pytest.mark.both_engines("whole-number arithmetic on instants, nested CASE", "silver.local_times")
def test_local_times_become_the_instants_that_zoneinfo_says(exchange: Trial) -> None:
    """Times by the hundred at random, and around each change of the clocks in ten years."""
    chance = random.Random(7)
    start = datetime(2016, 1, 1)
    locals_ = {start + timedelta(seconds=chance.randrange(10 * 365 * 86_400)) for _ in range(300)}
    around = [(year, month, day) for year in range(2016, 2026) for month in (3, 10) for day in range(25, 32)]
    locals_ |= {datetime(*day, hour, minute) for day in around for hour in (1, 2, 3) for minute in (0, 59)}
    source = exchange.source(READINGS, KEY, zones={"read_at": {"zone": "Europe/Berlin", "doubled": "later"}})
    built = source.take([("m", str(at), n) for n, at in enumerate(sorted(locals_))])
    expected: list[tuple[str, datetime, int]] = []
    never: list[str] = []
    for n, at in enumerate(sorted(locals_)):
        instant = at.replace(tzinfo=BERLIN, fold=1).astimezone(UTC)
        exists = instant.astimezone(BERLIN).replace(tzinfo=None) == at
        if exists:
            expected.append(("m", instant, n))
        else:
            never.append(str(at))
    assert sorted(source.rows()) == sorted(expected)
    assert [value for rule, _, value in source.quarantine() if rule == "read_at.nonexistent"] == sorted(never)
    assert len(source.quarantine()) == len(never) > 0
    assert built.message is not None and f"{len(never)} that do not exist were refused" in built.message


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
def test_a_doubled_hour_is_resolved_as_declared_and_told(exchange: Trial) -> None:
    before, after = "2026-10-25 01:30:00", "2026-10-25 03:30:00"
    rows = [("a", before, 0), ("a", TWICE, 1), ("b", TWICE, 2), ("a", TWICE, 3), ("a", after, 4)]
    first, second = utc(2026, 10, 25, 0, 30), utc(2026, 10, 25, 1, 30)
    outcomes: dict[str, tuple[list[Any], list[str], str]] = {
        "by_order": ([1, 2, 3], [], "3 that come twice taken by order of rows"),
        "refuse": ([], ["read_at.doubled"] * 3, "3 that come twice were refused"),
        "later": ([2], ["key.contradiction"] * 2, "3 that come twice taken as the later"),
    }
    for doubled, (kept, rules, told) in outcomes.items():
        source = exchange.source(READINGS, KEY, zones={"read_at": {"zone": "Europe/Berlin", "doubled": doubled}})
        built = source.take([*rows, ("a", "2026-10-25T02:30:00+01:00", 5), ("a", "later", 6)])
        found = {kwh: at for _, at, kwh in source.rows()}
        assert sorted(found) == sorted([0, *kept, 4]), doubled
        refused = sorted(rule for rule, *_ in source.quarantine())
        assert refused == sorted([*rules, "read_at.has_offset", "read_at.type"])
        assert built.message is not None and told in built.message
        assert balanced(runs(source.name, "silver")[0])
        if doubled == "by_order":
            assert (found[1], found[2], found[3]) == (first, first, second)


def test_a_zone_belongs_to_a_column_of_instants(exchange: Trial) -> None:
    for name, message in (("kwh", "types as INT"), ("at", "does not have")):
        source = exchange.source(READINGS, KEY, zones={name: {"zone": "Europe/Berlin"}})
        source.land([("m", "2026-01-01", 1)])
        source.step("bronze")
        with pytest.raises(DeclarationError, match=message):
            source.step("silver")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
def test_the_hours_of_a_publisher_who_labels_them_by_their_end(exchange: Trial) -> None:
    """PJM has four autumn hours twice, one of them alone in other years, and leaves out those of spring."""
    file = publisher_file("utility/pjm-hourly/DUQ_hourly.csv.gz")
    begins = {"physicalType": "TIMESTAMP", "transformLogic": "try_cast(Datetime AS TIMESTAMP) - INTERVAL 1 HOUR"}
    load = {"physicalType": "DECIMAL(9,1)", "transformLogic": "try_cast(DUQ_MW AS DECIMAL(9,1))"}
    source = exchange.source(
        {"begins_at": begins, "load_mw": load}, ["begins_at"], published=["Datetime", "DUQ_MW"],
        zones={"begins_at": {"zone": "America/New_York", "doubled": "by_order"}},
    )  # fmt: skip
    built = source.take(file.read_bytes(), 0, file.name)
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()[1:]
    rows = source.rows()
    assert len(rows) == len({at for at, _ in rows}) == len(lines) and source.quarantine() == []
    zone = ZoneInfo("America/New_York")
    begun = [datetime.fromisoformat(line.split(",")[0]) - timedelta(hours=1) for line in lines]
    twice = [at for at in begun if at.replace(tzinfo=zone).utcoffset() != at.replace(tzinfo=zone, fold=1).utcoffset()]
    assert len(twice) - len(set(twice)) == 4
    assert built.message is not None and f"{len(twice)} that come twice taken by order of rows" in built.message
