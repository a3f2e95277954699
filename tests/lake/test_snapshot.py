"""Lists of which each delivery is the whole, with publishers' own vintages and with what may go wrong with one."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from jobs.errors import DeclarationError, RefusedFile
from jobs.lake.pointers import pointer
from tests.lake.trial import Source, Trial, balanced, build_product, day, landings, runs, table_rows
from tests.publishers import publisher_file

LIST = {"symbol": "STRING", "name": "STRING"}
TEN = [(f"s{n}", "a") for n in range(10)]


def versions(source: Source) -> list[tuple[Any, ...]]:
    """Key, name and days of every version; the day after the last is None."""
    days = {day(n): n for n in range(60)}
    rows = table_rows(source.table, "symbol", "name", "_known_at", "_superseded_at")
    return [(s, n, days[known], None if end is None else days[end]) for s, n, known, end in rows]


def listing(exchange: Trial, **silver: Any) -> Source:
    return exchange.source(LIST, ["symbol"], "snapshot", silver=silver)


@pytest.mark.both_engines("windows over lists", "silver.snapshot", "silver.revisions")
def test_what_is_gone_is_closed_counted_and_can_come_back(exchange: Trial) -> None:
    source = listing(exchange, largest_loss=0.2)
    source.land([*TEN, ("s9", "a"), ("x", "a")], 0)
    assert source.take([*TEN[1:], ("x", "b"), ("y", "a")], 1).message == (
        "2026-01-01: 11 added, 0 removed, 0 changed; 2026-01-02: 1 added, 1 removed, 1 changed"
    )
    source.land([*TEN, ("x", "b"), ("y", "a")], 2)
    assert source.take([*TEN, ("x", "b"), ("y", "a")], 3).message == "2026-01-03: 1 added, 0 removed, 0 changed"
    changing = [v for v in versions(source) if v[0] in ("s0", "x", "y")]
    assert changing == [("s0", "a", 0, 1), ("s0", "a", 2, None), ("x", "a", 0, 1), ("x", "b", 1, None),
                        ("y", "a", 1, None)]  # fmt: skip
    assert len(source.rows()) == 14 and all(balanced(run) for run in runs(source.name, "silver"))


def test_a_delivery_that_lacks_too_much_is_held_back_until_it_is_declared_right(exchange: Trial) -> None:
    source = listing(exchange, largest_loss=0.2)
    product = exchange.product(LIST, ["symbol"], f"SELECT symbol, name FROM silver.{source.name}")
    source.take(TEN, 0)
    build_product(product)
    for number, rows in enumerate(([], TEN[:7]), 1):
        source.land(rows, number)
        source.step("bronze", number)
        with pytest.raises(RefusedFile, match=r"held back.*of 10 rows.*accepted: \[[0-9a-f]{12}\].*landing drop"):
            source.step("silver", number)
        assert source.build(number).status == "unchanged", "it is said once"
    assert [rule for rule, *_ in source.quarantine()] == ["snapshot.loss"] * 7
    assert source.take([*TEN[:9], ("new", "a")], 3).status == "succeeded", "compared with the list before"
    assert len(source.rows(where="_superseded_at IS NULL")) == 10
    source.declare(silver={"largest_loss": 0.2, "accepted": [landings(source.name)[2].sha256[:12]]})
    again = source.build(4)
    assert again.message is not None and "f" in again.message and "is held back" in again.message
    assert [v for v in versions(source) if v[0] in ("s6", "s7", "s9", "new")] == [
        ("new", "a", 3, None), ("s6", "a", 0, None), ("s7", "a", 0, 2), ("s7", "a", 3, None), ("s9", "a", 0, 2),
    ]  # fmt: skip
    assert build_product(product, 4).status == "succeeded"
    assert [row[0] for row in table_rows(f"gold.{product}", "symbol")] == sorted([*(s for s, _ in TEN[:9]), "new"])


def test_a_refused_row_is_not_gone_and_one_delivery_of_a_day_replaces_the_other(exchange: Trial) -> None:
    name = {"physicalType": "STRING", "logicalTypeOptions": {"maxLength": 3}}
    source = exchange.source({"symbol": "STRING", "name": name}, ["symbol"], "snapshot", silver={"largest_loss": 0.3})
    source.take(TEN, 0)
    source.take([("s0", "much too long"), ("s1", "x"), ("s1", "y"), ("new", "much too long"), *TEN[2:]], 1)
    assert versions(source) == [(symbol, "a", 0, None) for symbol, _ in TEN]
    source.take([("s0", "b"), *TEN[1:9]], 3)
    source.land(TEN, 2)
    source.take([("s0", "c"), *TEN[2:]], 2)
    assert [v for v in versions(source) if v[0] in ("s0", "s1", "s9")] == [
        ("s0", "a", 0, 2), ("s0", "b", 3, None), ("s0", "c", 2, 3), ("s1", "a", 0, 2), ("s1", "a", 3, None),
        ("s9", "a", 0, 3),
    ]  # fmt: skip
    assert all(balanced(run) for run in runs(source.name, "silver"))
    last = pointer(source.table)
    source.land("not,a\nlist,of symbols\n", 1)
    with pytest.raises(RefusedFile, match="missing column"):
        source.build(4)
    assert pointer(source.table) == last or last is not None
    assert source.take(TEN, 5).status == "succeeded"
    assert ("s1", "a", 3, None) in versions(source) and ("s9", "a", 5, None) in versions(source)


def test_only_a_snapshot_has_a_largest_loss(exchange: Trial) -> None:
    with pytest.raises(DeclarationError, match="only the mode snapshot has largest_loss"):
        exchange.source(LIST, ["symbol"], "merge", silver={"largest_loss": 0.1}).step("land")


CONNECT = ("symbol", "engName", "zhName", "tradingAvailable")
SECTORS = (
    {"as": "security", "published": ["Name", "Security"]}, {"as": "sector", "published": ["Sector", "GICS Sector"]},
)  # fmt: skip
OPTIONAL = tuple(
    {"as": name.lower().replace(" ", "_").replace("-", "_"), "published": [name], "optional": True}
    for name in ("GICS Sub-Industry", "Headquarters Location", "Date added", "CIK", "Founded")
)
VINTAGES: dict[str, tuple[tuple[str, ...], str, tuple[Any, ...]]] = {
    "finance/hkex-listings/hk-listings.*.json": (("symbol",), "json", ("symbol", "engName", "zhName", "url")),
    "finance/hkex-listings/shanghai-connect.*.json": (("symbol",), "json", CONNECT),
    "finance/hkex-listings/shenzhen-connect.*.json": (("symbol",), "json", CONNECT),
    "finance/sp500-constituents/constituents.*.csv": (("Symbol",), "delimited", ("Symbol", *SECTORS, *OPTIONAL)),
    "government/world-bank-gdp/gdp.*.csv": (
        ("Country Code", "Year"), "delimited", ("Country Name", "Country Code", "Year", "Value"),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("files", VINTAGES, ids=lambda files: files.split("/")[-1].split(".")[0])
@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
def test_publishers_lists_add_remove_and_change_what_their_vintages_say(exchange: Trial, files: str) -> None:
    key, form, published = VINTAGES[files]
    folder = publisher_file(files).parent
    steps = json.loads(publisher_file("vintage-diffs.json").read_text())[files.replace(".json", ".json*")]["steps"]
    columns = {_name(c): {"physicalType": "STRING", "transformLogic": f"`{_column(c)}`"} for c in published}
    if "Value" in published:
        # The vintages were compared as numbers.
        columns["value"] = {"physicalType": "DECIMAL(38,12)", "transformLogic": "try_cast(`Value` AS DECIMAL(38,12))"}
    source = exchange.source(
        columns, [_name(k) for k in key], "snapshot", published=published, silver={"largest_loss": 0.2},
        format={"type": form, "columns": list(published)},
    )  # fmt: skip
    for number, name in enumerate([steps[0]["from"], *(step["to"] for step in steps)]):
        source.land((folder / name).read_bytes(), number, name)
    source.build(len(steps))
    starts, ends = (_instants(source, key, column) for column in ("_known_at", "_superseded_at"))
    for number, step in enumerate(steps, 1):
        began, ended = ({k for k, n in found if n == day(number)} for found in (starts, ends))
        assert (len(began - ended), len(ended - began)) == (step["keys_added"], step["keys_removed"]), step["to"]
        if "rows_changed" in step:
            assert len(began & ended) == step["rows_changed"], step["to"]
    assert len(source.rows(where="_superseded_at IS NULL")) == steps[-1]["rows_to"]


def _column(published: Any) -> str:
    return published["as"] if isinstance(published, dict) else published


def _name(published: Any) -> str:
    return re.sub(r"[^a-z]", "_", _column(published).lower())


def _instants(source: Source, key: tuple[str, ...], column: str) -> list[tuple[Any, ...]]:
    return [((*row[:-1],), row[-1]) for row in table_rows(source.table, *map(_name, key), column)]
