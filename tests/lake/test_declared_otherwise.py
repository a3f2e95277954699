"""Changed declarations replace tables whose rows would differ; invalid ones are refused."""

from __future__ import annotations

import decimal
import json
import random
from datetime import date
from decimal import Decimal, InvalidOperation

import pytest

from jobs import lake
from jobs.declared.contract import load_contract
from jobs.errors import AcceptanceNeeded, DeclarationError, ExchangeError, ExpectationsFailed, RefusedFile
from jobs.lake.pointers import checked
from jobs.operate.rebuild import rebuild
from tests.lake.trial import Trial, day, run_steps, table_rows

READINGS = {"meter": "STRING", "read_on": "DATE", "kwh": "DECIMAL(8,2)"}
KEY = ("meter", "read_on")


def numbers_of(seed: int) -> list[str]:
    """Numbers as publishers write them: with signs, leading and trailing zeros, too many digits on either side."""
    luck = random.Random(seed)

    def digits(alphabet: str, most: int) -> str:
        return "".join(luck.choice(alphabet) for _ in range(luck.randint(0, most)))

    return [
        luck.choice(["", "-", "+"]) + digits("0123456789", 6) + luck.choice(["", ".", ".000", ".10"])
        + digits("00019", luck.choice([3, 45]))
        for _ in range(400)
    ]  # fmt: skip


@pytest.mark.both_engines("decimals of each scale")
@pytest.mark.parametrize(
    "logic",
    [
        None,
        "coalesce(try_cast(nullif(x, '-') as decimal(8,3)), 99999.999)",
        "if(x <> '', try_cast(x as decimal(8,3)), null)",
    ],
    ids=["plain", "coalesce", "if"],
)
def test_every_decimal_is_stored_exactly_or_quarantined(
    exchange: Trial, monkeypatch: pytest.MonkeyPatch, logic: str | None
) -> None:
    """The table holds each number exactly as published, or quarantine does."""
    x = {"physicalType": "DECIMAL(8,3)"} | ({"transformLogic": logic} if logic else {})
    source = exchange.source({"id": "INT", "x": x}, ["id"])
    expected = dict(
        enumerate(
            [*numbers_of(len(logic or "")), "1.2345", "1.2340000", "-0.0001", "99999.9995", "0." + "0" * 60 + "1"]
        )
    )
    source.take(list(expected.items()))
    stored = {number: x for number, x in source.rows() if x not in (None, Decimal("99999.999"))}
    refused = {json.loads(r)["id"] for (r,) in source.quarantine("record")}
    assert {rule for rule, *_ in source.quarantine()} >= {"x.decimals"}
    monkeypatch.setattr(decimal.getcontext(), "prec", 100)
    for number, text in expected.items():
        try:
            exact = Decimal(text)
        except InvalidOperation:
            continue
        fits = (exact * 1000) % 1 == 0 and abs(exact) < 100_000
        assert stored.get(number) == (exact if fits else None), text
        assert fits or logic or str(number) in refused, text


def test_a_contract_may_round_explicitly(exchange: Trial) -> None:
    logic = "try_cast(round(try_cast(x as decimal(38,20)), 2) as decimal(8,2))"
    source = exchange.source({"id": "INT", "x": {"physicalType": "DECIMAL(8,2)", "transformLogic": logic}}, ["id"])
    source.take([(1, "1.23456"), (2, "0.30000000000000004"), (3, "abc")])
    assert source.rows() == [(1, Decimal("1.23")), (2, Decimal("0.30"))]
    assert source.quarantine() == [("x.type", "x", "abc")]


@pytest.mark.both_engines("REPLACE TABLE with other columns")
def test_changing_the_declared_columns_reads_all_landings_again(exchange: Trial) -> None:
    source = exchange.source({"meter": "STRING", "kwh": "INT"}, ["meter"], published=["meter", "kwh"])
    source.take("meter,kwh,site\nm1,1,a\n", 0)
    source.take("meter,kwh,site\nm2,2,b\n", 1)
    source.published = ("meter", "kwh", "site")
    source.declare({"meter": "STRING", "kwh": "INT", "site": "STRING"})
    assert source.step("land", 2).status == "succeeded", "a changed declaration is reason to run"
    source.build(2)
    assert source.bronze() == [("m1", "1", "a"), ("m2", "2", "b")]
    assert source.rows() == [("m1", 1, "a"), ("m2", 2, "b")]
    assert source.step("land", 3).status == "unchanged"


def test_a_publisher_who_renames_and_adds_columns_costs_no_earlier_file(exchange: Trial) -> None:
    source = exchange.source({"meter": "STRING", "kwh": "INT"}, ["meter"])
    source.take("meter,kwh\nm1,1\n", 0)
    source.land("meter,Energy,site\nm2,2,b\n", 1)
    source.step("bronze", 1)
    with pytest.raises(RefusedFile, match="'Energy'"):
        source.step("silver", 1)
    columns = ["meter", {"as": "kwh", "published": ["kwh", "Energy"]}, {"as": "site", "optional": True}]
    source.declare({"meter": "STRING", "kwh": "INT", "site": "STRING"}, format={"columns": columns})
    source.build(2)
    assert source.rows() == [("m1", 1, None), ("m2", 2, "b")]
    assert source.quarantine() == []


def test_other_words_for_no_value_type_the_rows_again_without_reading_the_files(exchange: Trial) -> None:
    source = exchange.source({"meter": "STRING", "kwh": "INT"}, ["meter"])
    source.take([("m1", "1"), ("m2", "-")], 0)
    assert source.quarantine() == [("kwh.type", "kwh", "-")]
    loaded = lake.version(f"bronze.{source.name}")
    source.declare(format={"null_values": ["", "-"]})
    source.build(1)
    assert lake.version(f"bronze.{source.name}") == loaded
    assert source.rows() == [("m1", 1), ("m2", None)]
    assert source.quarantine() == []


def test_a_contract_change_that_keeps_the_rows_only_checks_them_again(exchange: Trial) -> None:
    def steps(at: int) -> list[str]:
        return [r.status for r in run_steps(source.name, day(at), "r")]

    source = exchange.source(READINGS, KEY)
    source.take([("m1", "2026-01-01", "1"), ("m2", "2026-01-01", "200")], 0)
    built = lake.version(source.table)
    kwh = {"physicalType": "DECIMAL(8,2)", "description": "energy drawn"}
    warning = {"metric": "rowCount", "mustBeLessThan": 9, "severity": "warning", "name": "few"}
    source.declare(READINGS | {"kwh": kwh}, [warning])
    assert steps(1) == ["succeeded", "unchanged", "succeeded", "succeeded"]
    assert steps(2) == ["unchanged"]
    current = checked(source.table)
    assert (lake.version(source.table), current.delta_version) == (built, built)
    assert current.contract_digest == load_contract(source.table).digest

    source.declare(quality=[{"metric": "rowCount", "mustBeGreaterThan": 9, "name": "many"}])
    for at in (3, 4):
        with pytest.raises(ExpectationsFailed, match=r"table.many.*remains the checked version"):
            steps(at)
    assert (lake.version(source.table), checked(source.table).check_id) == (built, current.check_id)
    source.declare(READINGS | {"kwh": kwh | {"logicalTypeOptions": {"maximum": 100}}}, [warning])
    with pytest.raises(AcceptanceNeeded, match=r"1 by kwh\.range"):
        steps(5)
    source.build(5, accept="typing error")
    assert [row[0] for row in source.rows()] == ["m1"] and source.quarantine()[0][0] == "kwh.range"


def test_correcting_the_format_loads_files_that_were_unreadable(exchange: Trial) -> None:
    source = exchange.source({"meter": "STRING", "name": "STRING"}, ["meter"])
    source.land("meter,name\nm1,沙田\n".encode("big5"))
    source.step("bronze")
    with pytest.raises(RefusedFile):
        source.step("silver")
    source.declare(format={"encoding": "big5"})
    assert source.step("land", 1).status == "succeeded"
    source.build(1)
    assert source.rows() == [("m1", "沙田")]
    assert source.quarantine() == []


@pytest.mark.both_engines("REPLACE TABLE with other types and partitions")
@pytest.mark.parametrize("partition", [(), ("site",)], ids=["whole", "parted"])
def test_a_changed_contract_replaces_the_table_with_its_types(exchange: Trial, partition: tuple[str, ...]) -> None:
    source = exchange.source(
        {"meter": "STRING", "site": "STRING", "kwh": "INT"}, ["meter", "site"], partition=partition
    )
    source.take("meter,site,kwh\nm1,a,1\nm2,b,2.5\n", 0)
    assert source.quarantine() == [("kwh.type", "kwh", "2.5")]
    first = lake.version(source.table)
    source.declare({
        "meter": "STRING", "site": {"physicalType": "STRING", "description": "where"}, "kwh": "DECIMAL(9,1)",
        "twice": {"physicalType": "DOUBLE", "transformLogic": "2 * try_cast(kwh as double)"},
    })  # fmt: skip
    assert source.step("land", 1).status == "succeeded"
    source.build(1)
    assert source.rows() == [("m1", "a", Decimal("1.0"), 2.0), ("m2", "b", Decimal("2.5"), 5.0)]
    assert source.quarantine() == []
    log = lake.delta(source.table)
    assert log.metadata().partition_columns == list(partition)
    fields = {f.name: f for f in log.schema().fields}
    assert all(f.nullable for f in fields.values())
    assert (str(fields["kwh"].type.type), fields["site"].metadata.get("comment")) == ("decimal(9,1)", "where")
    assert lake.columns_at(source.table, first).keys() == (lake.columns_at(source.table).keys() - {"twice"})


@pytest.mark.both_engines("the earlier version's keys in the new types", "silver.leaving")
def test_a_tightened_rule_applies_to_earlier_rows(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY)
    source.take([("m1", "2026-01-01", "1"), ("m2", "2026-01-01", "500")], 0)
    kwh = {"physicalType": "DECIMAL(8,2)", "logicalTypeOptions": {"maximum": 100}}
    source.declare(READINGS | {"kwh": kwh})
    source.step("land", 1)
    source.build(1, accept="500 is a typing error")
    assert [r[0] for r in source.rows()] == ["m1"]
    assert source.quarantine() == [("kwh.range", "kwh", "500")]


def test_a_change_by_which_good_rows_leave_waits_until_a_person_accepts_it(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY, "revisions")
    source.take([("m1", "2026-01-01", "1"), ("m2", "2026-01-01", "500"), ("m3", "2026-01-01", "600")], 0)
    source.take("meter,kwh,read_on,site\nm4,4,2026-01-02,a\n", 1)
    before, version = source.rows(), checked(source.table).delta_version
    limit = {"physicalType": "DECIMAL(9,1)", "logicalTypeOptions": {"maximum": 100}}
    source.published = ("meter", "read_on", "kwh", "site")
    source.declare(READINGS | {"kwh": limit, "site": "STRING"})
    for _ in range(2):
        source.step("bronze", 2)
        with pytest.raises(AcceptanceNeeded, match=r"3 of the 4 rows .*: 3 by format.file \(m1, 2026-01-01; m2, "):
            source.step("silver", 2)
    columns = ["meter", "read_on", "kwh", {"as": "site", "optional": True}]
    source.declare(format={"columns": columns})
    source.step("bronze", 3)
    with pytest.raises(AcceptanceNeeded, match=r"2 of the 4 rows .*: 2 by kwh.range \(m2, .*silver s\d+ --accept"):
        source.step("silver", 3)
    assert checked(source.table).delta_version == version and table_rows(source.table, *READINGS, at=version) == before
    assert source.quarantine() == [], "quarantine belongs to what readers see"
    built = source.build(3, accept="meters cannot draw that much")
    assert built.message is not None and "accepted (meters cannot draw that much): 2 of the 4" in built.message
    assert [row[0] for row in source.rows()] == ["m1", "m4"]
    assert [rule for rule, *_ in source.quarantine()] == ["kwh.range"] * 2


def test_rows_under_another_key_stay_and_an_older_one_in_place_of_a_newer_does_not(exchange: Trial) -> None:
    source = exchange.source({"meter": "STRING", "day": "DATE", "kwh": "INT"}, ["meter", "day"])
    source.take([("m1", "2026-01-01", "1"), ("m2", "2026-01-01", "2")], 0)
    source.take([("m1", "2026-01-01", "900")], 1)
    upper = {"physicalType": "STRING", "transformLogic": "upper(meter)"}
    source.declare({"meter": upper, "day": "DATE", "kwh": "INT"})
    source.build(2)
    assert [row[0] for row in source.rows()] == ["M1", "M2"]
    kwh = {"physicalType": "INT", "logicalTypeOptions": {"maximum": 100}}
    source.declare({"meter": upper, "day": "DATE", "kwh": kwh})
    with pytest.raises(AcceptanceNeeded, match=r"1 of the 2 rows .*: 1 by kwh.range \(M1, 2026-01-01\)"):
        source.build(3)
    source.declare({"meter": upper, "day": "DATE", "kwh": kwh, "twice": {
        "physicalType": "INT", "transformLogic": "2 * try_cast(kwh as int)"}})  # fmt: skip
    with pytest.raises(AcceptanceNeeded, match="1 of the 2"):
        rebuild(source.table, "r")
    assert rebuild(source.table, "r", accept="a typing error")[1].rows == 2
    assert source.rows() == [("M1", date(2026, 1, 1), 1, 2), ("M2", date(2026, 1, 1), 2, 4)]


def test_an_invalid_contract_is_refused_before_anything_is_written(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY)
    source.land([("m1", "2026-01-01", "1")])
    source.step("bronze")
    for logic, message in (
        ("cast(kwh as int)", "stops the whole run at one bad value"),
        ("to_date(kwh, 'yyyy')", "stops the whole run at one bad value"),
        ("try_cast(kwhh as int)", "reads 'kwhh'"),
        ("try_cast(kwh as", "not an SQL expression"),
    ):
        source.declare(READINGS | {"kwh": {"physicalType": "DECIMAL(8,2)", "transformLogic": logic}})
        with pytest.raises(DeclarationError, match=message):
            source.step("silver")
    source.declare(
        READINGS | {"read_at": {"physicalType": "TIMESTAMP", "transformLogic": "try_cast(read_on as timestamp)"}},
        partition=("read_at",),
    )
    with pytest.raises(DeclarationError, match="partition column 'read_at' has the type TIMESTAMP"):
        source.step("silver")
    assert not lake.exists(source.table)


def test_a_contract_may_define_what_an_unconvertible_value_becomes(exchange: Trial) -> None:
    columns = {
        "id": "STRING",
        "on": {
            "physicalType": "DATE",
            "transformLogic": "coalesce(try_cast(try_to_timestamp(day, 'dd.MM.yyyy') as date), try_cast(day as date))",
        },
        "n": {"physicalType": "INT", "transformLogic": "coalesce(try_cast(n as int), -1)"},
        "x": {"physicalType": "DOUBLE", "transformLogic": "CASE WHEN kind = 'number' THEN try_cast(x AS double) END"},
    }
    source = exchange.source(columns, ["id"], published=["id", "day", "n", "kind", "x"])
    source.take([("a", "31.12.2025", "1", "number", "1.5"), ("b", "2025-12-31", "many", "text", "much"),
                 ("c", "31/12/2025", "1", "text", ""), ("d", "2025-12-31", "1", "number", "much")])  # fmt: skip
    assert source.rows() == [("a", date(2025, 12, 31), 1, 1.5), ("b", date(2025, 12, 31), -1, None)]
    assert source.quarantine() == [("on.type", "on", "31/12/2025"), ("x.type", "x", "number, much")]


@pytest.mark.both_engines("an engine's words for a value that stops a function")
def test_a_function_that_fails_on_a_value_is_explained(exchange: Trial) -> None:
    columns = READINGS | {"kwh": {"physicalType": "DECIMAL(8,2)", "transformLogic": "1 / try_cast(kwh as int)"}}
    source = exchange.source(columns, KEY)
    source.land([("m1", "2026-01-01", "0")])
    source.step("bronze")
    with pytest.raises(ExchangeError, match=r"stopped at a value: .*by zero.*try_divide"):
        source.step("silver")
