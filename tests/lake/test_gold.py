"""Products are built by one query over checked versions, whole or only where their inputs changed."""

from __future__ import annotations

from datetime import date

import pytest

from jobs import lake
from jobs.errors import DeclarationError, ExchangeError, NotFound
from jobs.flow import run_step, stale_products
from jobs.lake.pointers import checked, pointer
from tests import declaring
from tests.declaring import declare_product
from tests.lake.trial import Source, Trial, build_product, day, files_of, runs, table_rows

READINGS = {"meter": "STRING", "read_on": "DATE", "kwh": "INT"}
DAILY = {"read_on": "DATE", "meters": "BIGINT", "kwh": "BIGINT"}
QUERY = "SELECT read_on, count(*) AS meters, sum(kwh) AS kwh FROM silver.{} GROUP BY read_on"


def parted(exchange: Trial, mode: str = "merge") -> Source:
    source = exchange.source(READINGS, ["meter", "read_on"], mode, partition=["read_on"])
    source.take([(f"m{n}", f"2026-01-0{d}", str(n)) for n in (1, 2) for d in range(1, 6)], 0)
    return source


def totals(name: str) -> list[tuple[object, ...]]:
    return table_rows(f"gold.{name}", *DAILY)


@pytest.mark.both_engines("a product's query and its write")
def test_a_product_is_built_whole_and_then_unchanged(exchange: Trial) -> None:
    source = parted(exchange)
    name = exchange.product(DAILY, ["read_on"], QUERY.format(source.name))
    assert build_product(name).rows == 5
    assert totals(name) == [(date(2026, 1, d), 2, 3) for d in range(1, 6)]
    version = lake.version(f"gold.{name}")
    assert run_step("gold", name, day(1), "r").status == "unchanged"
    assert lake.version(f"gold.{name}") == version
    current = checked(f"gold.{name}")
    assert current.inputs and current.inputs["tables"] == {source.table: checked(source.table).delta_version}


@pytest.mark.both_engines("replaceWhere over partitions", cases=("merge",))
@pytest.mark.parametrize("mode", ["merge", "revisions", "append"])
def test_only_partitions_with_changed_inputs_are_rebuilt(exchange: Trial, mode: str) -> None:
    source = parted(exchange, mode)
    name = exchange.product(DAILY, ["read_on"], QUERY.format(source.name), partition="read_on")
    build_product(name)
    before = files_of(f"gold.{name}")
    source.take([("m3", "2026-01-05", "10"), ("m3", "2026-01-06", "10")], 1)
    build_product(name)
    after = files_of(f"gold.{name}")
    assert {k for k in after if after[k] != before.get(k)} == {("2026-01-05",), ("2026-01-06",)}
    assert totals(name) == [
        *[(date(2026, 1, d), 2, 3) for d in range(1, 5)],
        (date(2026, 1, 5), 3, 13),
        (date(2026, 1, 6), 1, 10),
    ]


@pytest.mark.both_engines("files of two versions compared")
def test_a_new_input_version_with_the_same_rows_makes_no_new_version(exchange: Trial) -> None:
    source = parted(exchange)
    name = exchange.product(DAILY, ["read_on"], QUERY.format(source.name), partition="read_on")
    build_product(name)
    version = lake.version(f"gold.{name}")
    before = checked(source.table).delta_version
    source.take([("m9", "2026-01-09", "9")], 1)
    lake.restore(source.table, before)
    from jobs.registry import transaction
    from jobs.registry.models import Pointer

    with transaction() as db:
        row = db.get_one(Pointer, source.table)
        row.delta_version = row.head_version = lake.version(source.table) or 0
    assert run_step("gold", name, day(1), "r").status == "unchanged"
    assert lake.version(f"gold.{name}") == version
    assert not [one for one in stale_products() if one.name == name and pointer(f"gold.{name}") is None]


@pytest.mark.both_engines("replaceWhere without rows")
def test_a_lookup_table_without_the_partition_column_is_read_whole(exchange: Trial) -> None:
    source = parted(exchange)
    sites = exchange.source({"meter": "STRING", "area": "STRING"}, ["meter"])
    sites.take([("m1", "north"), ("m2", "south"), ("m3", "north")], 0)
    query = (
        f"SELECT r.read_on, count(DISTINCT s.area) AS meters, sum(r.kwh) AS kwh FROM {source.table} r"
        f" JOIN {sites.table} s ON r.meter = s.meter GROUP BY r.read_on"
    )
    name = exchange.product(DAILY, ["read_on"], query, partition="read_on")
    build_product(name)
    before = files_of(f"gold.{name}")
    source.take([("m3", "2026-01-05", "10")], 1)
    build_product(name)
    after = files_of(f"gold.{name}")
    assert {k for k in after if after[k] != before.get(k)} == {("2026-01-05",)}
    assert (date(2026, 1, 5), 2, 13) in totals(name)
    sites.take([("m1", "south"), ("m2", "south"), ("m3", "south")], 2)
    build_product(name)
    assert totals(name) == [*[(date(2026, 1, d), 1, 3) for d in range(1, 5)], (date(2026, 1, 5), 1, 13)]


def test_a_partition_that_the_contract_does_not_have_is_refused(exchange: Trial) -> None:
    source = parted(exchange)
    name = exchange.product(DAILY, ["read_on"], QUERY.format(source.name), partition="read_on")
    exchange.product(DAILY, ["read_on"], QUERY.format(source.name), name=name)
    declare_product(exchange.root, name, declaring.product(partition="read_on"), QUERY.format(source.name))
    with pytest.raises(DeclarationError, match="the table is not partitioned by 'read_on'"):
        build_product(name)


def test_a_product_waits_until_each_input_has_a_checked_version(exchange: Trial) -> None:
    source, later = parted(exchange), exchange.source({"meter": "STRING", "area": "STRING"}, ["meter"])
    query = f"SELECT read_on, count(*) AS meters, sum(kwh) AS kwh FROM {source.table} JOIN {later.table} USING (meter)"
    name = exchange.product(DAILY, ["read_on"], f"{query} GROUP BY read_on")
    waiting = run_step("gold", name, day(0), "r")
    assert (waiting.status, waiting.message) == ("unchanged", f"waits for a checked version of {later.table}")
    assert [run_step(step, f"gold.{name}", day(0), "r").status for step in ("check", "release")] == ["unchanged"] * 2
    later.take([("m1", "north")], 0)
    assert build_product(name).rows == 5


def test_a_partition_removed_from_the_inputs_is_removed_from_the_product(exchange: Trial) -> None:
    moving = exchange.source({"id": "STRING", "place": "STRING"}, ["id"], partition=["place"])
    moving.take([("a", "x"), ("b", "y"), ("c", None)], 0)
    columns = {"place": "STRING", "things": "BIGINT"}
    key = {"place": {"physicalType": "STRING"}, "things": "BIGINT"}
    query = f"SELECT place, count(*) AS things FROM silver.{moving.name} GROUP BY place"
    name = exchange.product(key, ["place"], query, partition="place")
    build_product(name)
    assert table_rows(f"gold.{name}", *columns) == [("x", 1), ("y", 1), (None, 1)]
    moving.take([("a", "y"), ("c", "x")], 1)
    build_product(name, 1)
    assert table_rows(f"gold.{name}", *columns) == [("x", 1), ("y", 2)]


@pytest.mark.both_engines("REPLACE TABLE")
def test_a_changed_query_or_contract_rebuilds_the_whole_product(exchange: Trial) -> None:
    source = parted(exchange)
    name = exchange.product(DAILY, ["read_on"], QUERY.format(source.name), partition="read_on")
    build_product(name)
    first = lake.version(f"gold.{name}")
    exchange.product(
        DAILY, ["read_on"], "-- a comment\n" + QUERY.format(source.name), partition="read_on", name=name
    )
    assert run_step("gold", name, day(1), "r").status == "unchanged", "comments do not count"
    exchange.product(
        DAILY,
        ["read_on"],
        QUERY.format(source.name).replace("sum(kwh)", "2 * sum(kwh)"),
        partition="read_on",
        name=name,
    )
    build_product(name)
    assert totals(name) == [(date(2026, 1, d), 2, 6) for d in range(1, 6)]
    wider = {
        "read_on": "DATE",
        "meters": "INT",
        "kwh": {"physicalType": "DECIMAL(12,1)", "description": "energy"},
        "most": "INT",
    }
    query = QUERY.format(source.name).replace(" FROM", ", max(kwh) AS most FROM")
    exchange.product(wider, ["read_on"], query, partition="read_on", name=name)
    build_product(name)
    assert table_rows(f"gold.{name}", "kwh", "most")[0] == (3, 2)
    log = lake.delta(f"gold.{name}")
    assert {f.name: str(f.type.type) for f in log.schema().fields} == {
        "read_on": "date", "meters": "integer", "kwh": "decimal(12,1)", "most": "integer",
    }  # fmt: skip
    assert log.metadata().partition_columns == ["read_on"]
    assert all(f.nullable for f in log.schema().fields)
    assert len(table_rows(f"gold.{name}", *DAILY, at=first)) == 5


@pytest.mark.both_engines("RESTORE to an empty table")
def test_a_first_version_that_never_passed_does_not_affect_a_new_contract(exchange: Trial) -> None:
    source = parted(exchange)
    name = exchange.product(DAILY, ["read_on"], QUERY.format(source.name))
    run_step("gold", name, day(0), "r")
    exchange.product(DAILY | {"kwh": "DOUBLE"}, ["read_on"], QUERY.format(source.name), name=name)
    build_product(name)
    assert lake.columns_at(f"gold.{name}")["kwh"] == "double"
    assert len(totals(name)) == 5


@pytest.mark.both_engines("views of revisions", "lake.views", "silver.revisions")
def test_a_product_reads_current_revisions_and_other_products(exchange: Trial) -> None:
    source = parted(exchange, "revisions")
    source.take([("m1", "2026-01-01", "100")], 1)
    daily = exchange.product(DAILY, ["read_on"], QUERY.format(source.name))
    build_product(daily)
    assert totals(daily)[0] == (date(2026, 1, 1), 2, 102)
    query = (
        f"WITH d AS (SELECT * FROM Gold.{daily})"
        f" SELECT max(d.kwh) AS most, max(gold.{daily}.read_on) AS last FROM d, gold.{daily}"
    )
    top = exchange.product({"most": "BIGINT", "last": "DATE"}, ["most"], query)
    build_product(top)
    assert table_rows(f"gold.{top}", "most", "last") == [(102, date(2026, 1, 5))]


@pytest.mark.both_engines("an engine's words for a query that cannot run", "lake.engine_errors")
def test_a_query_that_does_not_fit_is_refused_with_file_and_expectation(exchange: Trial) -> None:
    source = parted(exchange)

    def refused(query: str, columns: dict[str, str] = DAILY, key: str = "read_on") -> str:
        name = exchange.product(columns, [key], query)
        with pytest.raises(ExchangeError) as refusal:
            run_step("gold", name, day(0), "r")
        assert runs(name)[-1:] == [] or runs(name)[-1].status == "failed"
        assert not lake.exists(f"gold.{name}") or not lake.rows(f"gold.{name}")
        return str(refusal.value)

    fine = QUERY.format(source.name)
    assert "missing: kwh; not in the contract: energy" in refused(fine.replace("AS kwh", "AS energy"))
    assert "query.sql" in refused(fine.replace("sum(kwh)", "sum(kwhh)"))
    assert "kwhh" in refused(fine.replace("sum(kwh)", "sum(kwhh)"))
    assert "does not parse" in refused(fine.replace("GROUP BY", "GROUP"))
    assert "not exactly one SELECT" in refused(f"DELETE FROM silver.{source.name}")
    assert "reads 'bronze.x'" in refused("SELECT * FROM bronze.x")
    stopped = refused(fine.replace("sum(kwh)", "cast(concat('x', min(meter)) AS int)"))
    assert "try_" in stopped and "query.sql" in stopped


@pytest.mark.both_engines("names of inputs")
def test_an_input_without_a_checked_version_is_named(exchange: Trial) -> None:
    source = exchange.source(READINGS, ["meter", "read_on"])
    name = exchange.product(DAILY, ["read_on"], QUERY.format(source.name))
    with pytest.raises(NotFound, match=f"{source.table} has no checked version"):
        run_step("gold", name, day(0), "r")
    source.land([("m1", "2026-01-01", "1")])
    source.step("bronze")
    source.step("silver")
    with pytest.raises(NotFound, match="has no checked version"):
        run_step("gold", name, day(0), "r")
    assert stale_products() == []


@pytest.mark.both_engines("partition columns of each type", "lake.partitions")
def test_a_timestamp_cannot_be_a_partition_column(exchange: Trial) -> None:
    source = parted(exchange)
    query = f"SELECT CAST(read_on AS TIMESTAMP) AS at, count(*) AS n FROM silver.{source.name} GROUP BY 1"
    name = exchange.product({"at": "TIMESTAMP", "n": "BIGINT"}, ["at"], query, partition="at")
    with pytest.raises(DeclarationError, match="partition column 'at' has the type TIMESTAMP"):
        run_step("gold", name, day(0), "r")
