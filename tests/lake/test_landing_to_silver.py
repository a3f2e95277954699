"""Landing, bronze, typing, keys, quarantine and counts of one source, on real files and a real engine."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from sqlalchemy import delete

from jobs import lake
from jobs.errors import DeclarationError
from jobs.lake.pointers import pointer
from jobs.operate.rebuild import rebuild
from jobs.registry import transaction
from jobs.registry.models import Landing
from jobs.settings import settings
from jobs.silver import deduplicate
from tests.declaring import write
from tests.lake.trial import Trial, balanced, day, files_of, landings, runs

READINGS = {"meter": "STRING", "read_on": "DATE", "kwh": "DECIMAL(8,2)"}
KEY = ("meter", "read_on")


@pytest.mark.both_engines("a parser in the engine's Python workers")
def test_rows_say_where_they_came_from(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY)
    landed = source.land([("m1", "2026-01-01", "1.5"), ("m2", "2026-01-01", "2")], at=3, file="a.csv")
    assert (landed.status, landed.message) == ("succeeded", f"1 file offered in {settings().drop / source.name}, 1 new")
    assert source.build(3).rows == 2
    rows = source.rows("_file", "_row", "_landing_sha256", "_logical_date")
    sha256 = landings(source.name)[0].sha256
    assert rows == [
        ("m1", date(2026, 1, 1), Decimal("1.50"), "a.csv", 2, sha256, day(3)),
        ("m2", date(2026, 1, 1), Decimal("2.00"), "a.csv", 3, sha256, day(3)),
    ]
    assert source.bronze() == [("m1", "2026-01-01", "1.5"), ("m2", "2026-01-01", "2")]
    run = source.last("silver")
    assert (run.rows_in, run.rows_out, run.rows_quarantined, run.status) == (2, 2, 0, "succeeded")


def test_bytes_are_kept_once_and_each_arrival_counts(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY)
    source.take([("m1", "2026-01-01", "1")], 0, "daily.csv")
    source.drop([("m1", "2026-01-01", "1")], "daily.csv")
    assert source.step("land", 1).status == "unchanged", "the same address serves the same bytes"
    source.drop([("m1", "2026-01-01", "1")], "copy.csv")
    assert source.step("land", 1).status == "succeeded"
    source.take([("m1", "2026-01-01", "2")], 1, "daily.csv")
    first, copy, changed = landings(source.name)
    assert (first.file_name, copy.file_name, first.path) == ("daily.csv", "copy.csv", copy.path)
    assert (settings().home / first.path).read_text().endswith("m1,2026-01-01,1\n")
    assert (settings().home / changed.path).read_text().endswith("m1,2026-01-01,2\n")
    assert len(source.bronze()) == 3
    assert source.rows("_landing_sha256") == [("m1", date(2026, 1, 1), Decimal("2.00"), changed.sha256)]


def test_a_publisher_who_goes_back_to_an_earlier_file_is_followed(exchange: Trial) -> None:
    latest, known = exchange.source(READINGS, KEY), exchange.source(READINGS, KEY, "revisions")
    right, wrong = ([("m1", "2026-01-01", reading), ("m2", "2026-01-01", "7")] for reading in ("1", "99"))
    for source in (latest, known):
        for at, rows in enumerate((right, wrong, right)):
            source.take(rows, at, "daily.csv")
        assert source.step("land", 3).status == "unchanged"
        assert [x.tag for x in landings(source.name)][2] == f"{landings(source.name)[0].sha256}.2"
        assert len({x.path for x in landings(source.name)}) == 2
        assert all(balanced(run) for run in runs(source.name, "silver"))
    assert latest.rows("_logical_date")[0] == ("m1", date(2026, 1, 1), Decimal("1.00"), day(2))
    assert [(*row[2:],) for row in known.rows("_known_at", "_superseded_at") if row[0] == "m1"] == [
        (Decimal("1.00"), day(0), day(1)), (Decimal("1.00"), day(2), None), (Decimal("99.00"), day(1), day(2)),
    ]  # fmt: skip
    before = (latest.rows("_landing_sha256", "_logical_date"), known.rows("_landing_sha256", "_known_at"))
    with transaction() as db:
        db.execute(delete(Landing).where(Landing.source.in_((latest.name, known.name))))
    shutil.rmtree(settings().lake)
    for source in (latest, known):
        rebuild(source.table, "again")
    assert (latest.rows("_landing_sha256", "_logical_date"), known.rows("_landing_sha256", "_known_at")) == before


def test_equal_files_of_two_days_are_two_arrivals(exchange: Trial) -> None:
    columns = {"status": "STRING", "read_on": "DATE"}
    origin = "_landing_sha256, _file, _row, _run_id, _logical_date"
    sql = f"SELECT status, regexp_extract(_file, '([0-9-]{{10}})', 1) AS read_on, {origin} FROM bronze"
    source = exchange.source(columns, ["read_on"], "append", published=["status"], sql=sql)
    for number, status in ((1, "ok"), (2, "ok"), (3, "down")):
        source.drop([(status,)], f"status_2024-01-0{number}.csv")
    assert source.step("land").status == "succeeded"
    source.build()
    assert source.rows() == [("down", date(2024, 1, 3)), ("ok", date(2024, 1, 1)), ("ok", date(2024, 1, 2))]
    assert len(source.quarantine()) == 0 and balanced(source.last("silver"))


def test_a_file_replaced_with_the_same_size_and_time_is_landed(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY)
    source.take([("m1", "2026-01-01", "1")], 0, "daily.csv")
    path = settings().drop / source.name / "daily.csv"
    stat = path.stat()
    path.write_text(path.read_text().replace(",1\n", ",7\n"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert str(source.step("land", 1).message).endswith(", 1 new")


def test_running_the_steps_again_changes_nothing(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY)
    source.take([("m1", "2026-01-01", "1"), ("m1", "x", "1")], 0)
    tables = (f"bronze.{source.name}", f"quarantine.{source.name}", source.table)
    before = [lake.version(t) for t in tables]
    assert [source.step(s, 0).status for s in ("land", "bronze", "silver")] == ["unchanged"] * 3
    assert [lake.version(t) for t in tables] == before


@pytest.mark.both_engines("RESTORE")
def test_building_again_before_the_check_gives_the_same_table(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY)
    source.land([("m1", "2026-01-01", "1"), ("m1", "x", "1")])
    source.step("bronze")
    source.step("silver")
    first = (source.rows("_row"), source.quarantine("rule", "_row"))
    assert source.step("silver").status == "succeeded"
    assert (source.rows("_row"), source.quarantine("rule", "_row")) == first


@pytest.mark.both_engines("casts of text to each type")
def test_text_of_the_wrong_type_is_quarantined_with_column_value_and_origin(exchange: Trial) -> None:
    columns = {
        "id": "INT",
        "on": "DATE",
        "at": "TIMESTAMP",
        "n": "BIGINT",
        "x": "DECIMAL(6,2)",
        "b": "BOOLEAN",
        "d": "DOUBLE",
    }
    good = ["2024-02-29", "2024-02-29 10:00:00", "5", "1234.56", "true", "1e3"]
    bad = [
        ("on", "2024-02-30"),
        ("on", "29.02.2024"),
        ("at", "2024-01-01 25:00"),
        ("at", "12:30"),
        ("n", "five"),
        ("n", "1.5"),
        ("n", "99999999999999999999"),
        ("x", "12345.67"),
        ("x", "1,5"),
        ("b", "perhaps"),
        ("d", "1,000"),
        ("id", "٣x"),
    ]
    source = exchange.source(columns, ["id"])
    rows = [["1", *good]]
    for number, (column, value) in enumerate(bad, 2):
        row = dict(zip(columns, [str(number), *good], strict=True))
        rows.append(list((row | {column: value}).values()))
    source.take(rows, file="mixed.csv")
    assert [r[0] for r in source.rows()] == [1]
    refused = source.quarantine("rule", "column_name", "value", "_row", "_file")
    assert sorted(refused, key=lambda r: r[3]) == [
        (f"{column}.type", column, value, line, "mixed.csv") for line, (column, value) in enumerate(bad, 3)
    ]
    record = json.loads(source.quarantine("record")[0][0])
    assert set(record) == set(columns)
    assert balanced(source.last("silver"))


@pytest.mark.both_engines("nulls in keys")
def test_blank_text_is_null_and_a_key_may_not_be_null(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY, format={"null_values": ["", "N/A"]})
    source.take(
        [("m1", "2026-01-01", None), ("m2", "2026-01-01", "N/A"), (None, "2026-01-01", "1"), ("m3", "N/A", "1")]
    )
    assert source.rows() == [("m1", date(2026, 1, 1), None), ("m2", date(2026, 1, 1), None)]
    assert source.quarantine("rule", "_row") == [("meter.required", 4), ("read_on.required", 5)]


@pytest.mark.both_engines("predicates over nulls and text")
def test_a_row_is_quarantined_for_the_first_rule_it_breaks(exchange: Trial) -> None:
    columns = {
        "meter": {"physicalType": "STRING", "logicalTypeOptions": {"pattern": "^m[0-9]+$"}},
        "read_on": "DATE",
        "kwh": {"physicalType": "DECIMAL(8,2)", "logicalTypeOptions": {"minimum": 0, "maximum": 100}},
    }
    rule = {
        "name": "not_on_sunday", "type": "sql", "dimension": "consistency", "description": "no reading on a Sunday",
        "query": "SELECT count(*) FROM ${table} WHERE NOT (dayofweek(read_on) <> 1)", "mustBe": 0,
    }  # fmt: skip
    lenient = rule | {
        "name": "small",
        "severity": "warning",
        "query": rule["query"].replace("dayofweek(read_on) <> 1", "kwh < 5"),
    }
    source = exchange.source(columns, KEY, quality=[rule, lenient])
    source.take(
        [
            ("m1", "2026-01-01", "7"),
            ("x1", "2026-01-01", "-7"),
            ("m2", "2026-01-01", "-0.01"),
            ("m3", "2026-01-04", "1"),
        ]
    )
    assert [r[0] for r in source.rows()] == ["m1"]
    assert source.quarantine() == [
        ("kwh.range", "kwh", "-0.01"),
        ("meter.pattern", "meter", "x1"),
        ("table.not_on_sunday", "read_on", "2026-01-04"),
    ]


@pytest.mark.both_engines("windows over copies")
def test_copies_are_counted_and_contradictions_quarantined(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY)
    source.take(
        [("m1", "2026-01-01", "1"), ("m1", "2026-01-01", "1.00"), ("m2", "2026-01-01", "1"), ("m2", "2026-01-01", "2"),
         ("m3", "2026-01-01", "3")]
    )  # fmt: skip
    assert source.rows("_row") == [
        ("m1", date(2026, 1, 1), Decimal("1.00"), 2),
        ("m3", date(2026, 1, 1), Decimal("3.00"), 6),
    ]
    assert source.quarantine("rule", "column_name", "value", "_row") == [
        ("key.contradiction", "meter, read_on", "m2, 2026-01-01", 4),
        ("key.contradiction", "meter, read_on", "m2, 2026-01-01", 5),
    ]
    run = source.last("silver")
    assert (run.rows_in, run.rows_out, run.rows_duplicate, run.rows_quarantined) == (5, 2, 1, 2)


@pytest.mark.both_engines("xxhash64")
def test_keys_with_the_same_hash_are_distinguished(exchange: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deduplicate, "_HASH", "0 * length")
    source = exchange.source({"meter": "STRING", "kwh": "INT"}, ("meter",))
    source.take([("m1", "1"), ("m2", "2"), ("m2", "2"), ("m3", "3"), ("m3", "4")])
    assert source.rows() == [("m1", 1), ("m2", 2)]
    run = source.last("silver")
    assert (run.rows_out, run.rows_duplicate, run.rows_quarantined) == (2, 1, 2)


@pytest.mark.both_engines("stack")
def test_unpivot_makes_long_rows_and_counts_dropped_ones(exchange: Trial) -> None:
    columns = {"on": "DATE", "code": "STRING", "rate": "DECIMAL(10,4)"}
    source = exchange.source(
        columns, ["on", "code"], published=["on", "US D", "J.P", "人民币"],
        reshape={"unpivot": {"keep": ["on"], "name": "code", "value": "rate"}},
        drop=[{"column": "rate", "values": ["N/A", ""], "reason": "not quoted"}],
    )  # fmt: skip
    source.take([("2026-01-01", "1.1", "N/A", "7.8"), ("2026-01-02", "", "x", "7.9")])
    assert source.rows() == [
        (date(2026, 1, 1), "US D", Decimal("1.1000")), (date(2026, 1, 1), "人民币", Decimal("7.8000")),
        (date(2026, 1, 2), "人民币", Decimal("7.9000")),
    ]  # fmt: skip
    assert source.quarantine() == [("rate.type", "rate", "x")]
    run = source.last("silver")
    assert (run.rows_in, run.rows_out, run.rows_dropped, run.rows_quarantined) == (6, 3, 2, 1)


def test_a_source_may_make_its_rows_with_its_own_query(exchange: Trial) -> None:
    sql = (
        "SELECT upper(meter) AS code, reading, _landing_sha256, _file, _row, _run_id, _logical_date FROM bronze"
        " LATERAL VIEW explode(split(readings, ';')) x AS reading"
    )
    columns = {"code": "STRING", "reading": "INT"}
    source = exchange.source(columns, ["code", "reading"], published=["meter", "readings"], sql=sql)
    source.take([("m1", "1;2;x")])
    assert source.rows("_row") == [("M1", 1, 2), ("M1", 2, 2)]
    assert source.quarantine() == [("reading.type", "reading", "x")]


def test_records_left_out_by_the_source_s_query_are_counted(exchange: Trial) -> None:
    sql = "SELECT *, length(meter) AS letters FROM bronze WHERE kwh <> '0'"
    columns = {"meter": "STRING", "kwh": "INT", "letters": "INT"}
    source = exchange.source(columns, ["meter"], published=["meter", "kwh"], sql=sql)
    source.take([("m1", "5"), ("m2", "0"), ("m3", "x")])
    assert source.rows() == [("m1", 5, 2)]
    run = source.last("silver")
    assert (run.rows_in, run.rows_out, run.rows_dropped, run.rows_quarantined) == (3, 1, 1, 1)


def test_two_reshaped_columns_of_the_same_name_are_refused(exchange: Trial) -> None:
    unpivot = {"unpivot": {"keep": ["rate"], "name": "code", "value": "Rate"}}
    source = exchange.source({"rate": "INT"}, ["rate"], published=["rate", "a", "b"], reshape=unpivot)
    source.land("rate,a,b\n1,2,3\n")
    source.step("bronze")
    with pytest.raises(DeclarationError, match="two columns named Rate, rate"):
        source.step("silver")


@pytest.mark.both_engines("refused records from Python workers")
def test_unreadable_records_are_quarantined_and_their_neighbours_loaded(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY)
    text = (
        b"meter,read_on,kwh\nm1,2026-01-01,1\nm2,2026-01-01,1,2\nm3,2026-01-01\nm\xff4,2026-01-01,1\nm5,2026-01-01,5\n"
    )
    source.take(text, file="bent.csv")
    assert [r[0] for r in source.rows()] == ["m1", "m5"]
    refused = source.quarantine("rule", "value", "record", "_row", "_file")
    assert [(rule, row, file) for rule, _, _, row, file in refused] == [
        ("format.too_few_cells", 4, "bent.csv"), ("format.too_many_cells", 3, "bent.csv"),
        ("format.undecodable", 5, "bent.csv"),
    ]  # fmt: skip
    assert "expected 3, found 4" in next(value for rule, value, *_ in refused if rule == "format.too_many_cells")
    run = source.last("bronze")
    assert run.rows_out == len(source.bronze()) == 5
    assert balanced(source.last("silver"))


def test_undeclared_columns_are_kept_and_reported(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY)
    source.land("meter,kwh,read_on,unit\nm1,1,2026-01-01,kWh\n")
    assert "unit" in (source.step("bronze").message or "")
    source.build()
    assert source.rows() == [("m1", date(2026, 1, 1), Decimal("1.00"))]
    assert source.bronze("_extra") == [('{"unit":"kWh"}',)]


@pytest.mark.both_engines("quoted names in tables and SQL")
def test_columns_may_have_any_name(exchange: Trial) -> None:
    published = ["meter id", "a.b", "c`d", "电量 (千瓦时)", "it's", 'x"y', "_"[:0] + "e,f", "select", "100%"]
    columns = {
        f"c{n}": {"physicalType": "STRING", "transformLogic": f"`{p.replace('`', '``')}`"}
        for n, p in enumerate(published)
    }
    columns["c3"] = {"physicalType": "INT", "transformLogic": "try_cast(`电量 (千瓦时)` as int)"}
    source = exchange.source(columns, ["c0"], published=published)
    source.take([[f"v{n}" if n != 3 else "3" for n in range(len(published))], ["bad" for _ in published]])
    assert source.rows() == [("v0", "v1", "v2", 3, *(f"v{n}" for n in range(4, len(published))))]
    assert source.quarantine() == [("c3.type", "c3", "bad")]


def test_columns_that_differ_only_in_case_are_refused(exchange: Trial) -> None:
    source = exchange.source({"value": "INT"}, ["value"], published=["value", "Value"])
    source.land("value,Value\n1,2\n")
    with pytest.raises(DeclarationError, match="'value' and 'Value' differ only in case"):
        source.step("bronze")


def test_column_names_of_contract_and_publisher_may_differ_in_case(exchange: Trial) -> None:
    source = exchange.source({"meter": "STRING", "kwh": "INT"}, ["meter"], published=["METER", "KWh"])
    source.take("METER,KWh\nm1,5\n")
    assert source.rows() == [("m1", 5)]


@pytest.mark.both_engines("instants in other zones")
def test_instants_are_stored_in_utc(exchange: Trial) -> None:
    source = exchange.source({"id": "INT", "at": "TIMESTAMP"}, ["id"])
    source.take([("1", "2026-01-01T08:00:00+08:00"), ("2", "2026-01-01 00:00:00"), ("3", "2025-12-31T19:00:00-05:00")])
    assert {at for _, at in source.rows()} == {datetime(2026, 1, 1, tzinfo=UTC)}


@pytest.mark.both_engines("folders of partitions, escaped", "lake.place")
def test_a_partition_value_may_be_any_text(exchange: Trial) -> None:
    places = ["a/b", "x y", "50%", "a=b", "沙田", "it's", None, "."]
    source = exchange.source({"id": "STRING", "place": "STRING", "n": "INT"}, ["id"], partition=["place"])
    source.take([(str(i), p, "1") for i, p in enumerate(places)], 0)
    source.take([(str(i), p, "2") for i, p in enumerate(places)], 1)
    assert source.rows() == [(str(i), p, 2) for i, p in enumerate(places)]
    source.take([(str(i), "elsewhere", "2") for i in range(3)], 2)
    assert source.rows() == [(str(i), "elsewhere" if i < 3 else p, 2) for i, p in enumerate(places)]


def test_an_increment_leaves_the_files_of_other_days_unchanged(exchange: Trial) -> None:
    for mode in ("append", "merge", "revisions"):
        source = exchange.source(READINGS, KEY, mode, partition=["read_on"])
        source.take([(f"m{n}", f"2026-01-0{d}", "1") for n in range(3) for d in range(1, 6)], 0)
        before = files_of(source.table)
        assert all(len(paths) == 1 for paths in before.values()), "one file for each day"
        source.take([("m1", "2026-01-05", "2"), ("m9", "2026-01-05", "2"), ("m1", "2026-01-06", "2")], 1)
        after = files_of(source.table)
        assert {k for k in after if after[k] != before.get(k)} <= {("2026-01-05",), ("2026-01-06",)}
        assert len(source.rows()) == {"append": 17, "merge": 17, "revisions": 18}[mode]
        quarantined = files_of(f"quarantine.{source.name}") if lake.exists(f"quarantine.{source.name}") else {}
        assert len(quarantined) == (mode == "append")


def test_late_landings_are_reported(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY)
    source.take([("m1", "2026-01-01", "3")], 3)
    source.take([("m1", "2026-01-01", "1"), ("m2", "2026-01-01", "1")], 1)
    assert "late" in (source.last("silver").message or "")
    assert source.rows() == [("m1", date(2026, 1, 1), Decimal("3.00")), ("m2", date(2026, 1, 1), Decimal("1.00"))]
    assert balanced(source.last("silver"))


def test_a_landing_without_new_rows_only_moves_the_watermark(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY)
    source.take([("m1", "2026-01-01", "3")], 0)
    version = lake.version(source.table)
    source.land([("m1", "2026-01-01", "3.0")], 1)
    assert source.build(1).status == "unchanged"
    assert lake.version(source.table) == version
    current = pointer(source.table)
    assert current and current.landing_id == landings(source.name)[-1].id
    assert source.step("land", 2).status == "unchanged"


def test_failed_runs_are_recorded_too(exchange: Trial) -> None:
    source = exchange.source(READINGS, KEY)
    source.take([("m1", "2026-01-01", "3")], 0)
    source.declare({"meter": "STRING", "nothing": "INT"})
    with pytest.raises(DeclarationError):
        source.step("silver", 1)
    recorded = [(r.step, r.status) for r in runs(source.name)]
    assert recorded == [("land", "succeeded"), ("bronze", "succeeded"), ("silver", "succeeded"), ("silver", "failed")]
    assert "column 'nothing' has no published source" in (source.last("silver").message or "")


def test_compressed_json_lines_are_loaded(exchange: Trial) -> None:
    import gzip

    source = exchange.source(READINGS, KEY, format={"type": "json_lines"})
    text = "".join(
        json.dumps({"meter": m, "read_on": "2026-01-01", "kwh": k}) + "\n" for m, k in (("m1", 1), ("m2", None))
    )
    write(settings().drop / source.name / "a.jsonl.gz", gzip.compress(text.encode()))
    source.step("land")
    source.build()
    assert source.rows() == [("m1", date(2026, 1, 1), Decimal("1.00")), ("m2", date(2026, 1, 1), None)]


@pytest.mark.both_engines("stripes of one file on several workers")
def test_several_workers_read_each_row_of_a_large_file_once(
    exchange: Trial, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    monkeypatch.setattr("jobs.bronze.stripes._LARGE_BYTES", 1 << 10)
    source = exchange.source({"id": "INT"}, ("id",))
    source.take([(n,) for n in range(100_000)], file="whole.csv")
    assert [row[0] for row in source.bronze("_row")] == sorted(range(2, 100_002), key=str)
    (files,) = files_of(f"bronze.{source.name}").values()
    assert len(files) == (2 if engine == "spark" else 1), "Sail gives a small frame to one worker"
    assert lake.rows(source.table) == 100_000

    broken = gzip.compress("".join(f"{n}\n" for n in ("id", *range(200_000))).encode())[:-100]
    source.land(broken, 1, "cut.csv.gz")
    source.step("bronze", 1)
    assert [row for row in source.bronze("_row", "_file") if row[1] == "cut.csv.gz"] == [(0, "cut.csv.gz")]


@pytest.mark.both_engines("writes partition by partition")
@pytest.mark.parametrize("together", [True, False])
def test_no_row_is_lost_however_rows_are_spread_over_partitions(
    exchange: Trial, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    monkeypatch.setattr("jobs.silver.join.APART_FROM_ROWS", 1)
    source = exchange.source({"id": "INT", "area": "STRING", "nth": "INT"}, ("id",), partition=("area", "nth"))
    areas = ("a", "it's", "", None)
    rows = [(n, areas[n // 10 if together else n % 4], n % 40 // 20 if together else None) for n in range(40)]
    source.take([*rows, rows[3], ("x", "a", 1)])
    expected = [(n, area or None, nth) for n, area, nth in rows]
    assert sorted(source.rows(), key=lambda row: row[0]) == expected
    assert set(files_of(source.table)) == {(area, None if nth is None else str(nth)) for _, area, nth in expected}
    run = source.last("silver")
    assert (run.rows_in, run.rows_out, run.rows_duplicate, run.rows_quarantined) == (42, 40, 1, 1)
