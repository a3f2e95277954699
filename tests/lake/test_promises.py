"""What every step promises: checked versions, no lost rows, one writer at a time, any time zone, a full disk."""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from jobs import lake
from jobs.check import read_evidence
from jobs.check.evaluate import evaluate
from jobs.check.grade import recompute
from jobs.declared.contract import load_contract
from jobs.errors import ExchangeError, ExpectationsFailed, Locked
from jobs.flow import run_step
from jobs.lake.pointers import checked, pointer
from jobs.lake.views import current_rows, session
from jobs.settings import settings
from tests.lake.killed import Undertaker
from tests.lake.trial import (
    Source,
    Trial,
    balanced,
    checked_rows,
    day,
    files_of,
    landings,
    run_steps,
    runs,
    table_rows,
)

COLUMNS = {"meter": "STRING", "read_on": "DATE", "kwh": "INT"}
FEW = {
    "name": "sane", "type": "sql", "dimension": "accuracy", "description": "kwh comes to less than 100",
    "query": "SELECT sum(kwh) FROM ${table}", "mustBeLessThan": 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def undertaker() -> Iterator[Undertaker]:
    started = Undertaker.begin()
    yield started
    started.end()


def run_all(source: Source, at: int) -> list[str]:
    """Run all steps of a source, with the real check; returns their statuses."""
    return [result.status for result in run_steps(source.name, day(at), f"run-{at}")]


def rows_read(source: Source) -> list[tuple[object, ...]]:
    """The rows a reader gets through the view."""
    return sorted(tuple(row) for row in session().sql(f"SELECT meter, kwh FROM {source.table}").collect())


@pytest.mark.both_engines(
    "RESTORE of a version that failed", "check.step", "check.blocks", "lake.pointers", "lake.lease"
)
def test_a_failed_version_is_rolled_back_and_its_rows_return_with_the_next_good_one(exchange: Trial) -> None:
    source = exchange.source(COLUMNS, ["meter", "read_on"], quality=[FEW])
    source.drop([("m1", "2026-01-01", "10")])
    assert run_all(source, 0) == ["succeeded"] * 4
    good = checked(source.table)
    assert rows_read(source) == [("m1", 10)]

    source.drop([("m2", "2026-01-01", "500")])
    with pytest.raises(ExpectationsFailed, match=r"table.sane .*kwh comes to less than 100.*510"):
        run_all(source, 1)
    current = checked(source.table)
    assert (current.delta_version, current.landing_id) == (good.delta_version, good.landing_id)
    assert current.head_version == lake.version(source.table) != good.delta_version
    assert table_rows(source.table, "meter") == [("m1",)], "the newest version is the good one again"
    assert rows_read(source) == [("m1", 10)]
    assert source.last("check").status == "failed"
    with pytest.raises(ExpectationsFailed, match=r"nothing was built since .*table.sane .*510"):
        run_step("check", source.table, day(1), "r")
    assert lake.version(source.table) == current.head_version

    source.drop([("m2", "2026-01-01", "5")])
    assert run_all(source, 2) == ["succeeded"] * 4
    assert rows_read(source) == [("m1", 10), ("m2", 5)]
    assert {x.sha256 for x in landings(source.name)} == {row[0] for row in source.bronze("_landing_sha256")}
    assert run_all(source, 3) == ["unchanged"]


def test_a_failed_first_version_leaves_nothing_to_read(exchange: Trial) -> None:
    source = exchange.source(COLUMNS, ["meter", "read_on"], quality=[FEW])
    source.drop([("m1", "2026-01-01", "1000")])
    for at in range(2):
        with pytest.raises(ExpectationsFailed, match="the table has no checked version"):
            run_all(source, at)
        assert pointer(source.table) is None
        assert source.rows() == []
    with pytest.raises(ExpectationsFailed, match="nothing was built since"):
        run_step("check", source.table, day(1), "r")
    source.declare(quality=[FEW | {"mustBeLessThan": 2000}])
    assert run_all(source, 2) == ["succeeded", "unchanged", "succeeded", "succeeded"]
    assert rows_read(source) == [("m1", 1000)]


def test_a_failed_product_keeps_its_last_good_version(exchange: Trial) -> None:
    source = exchange.source(COLUMNS, ["meter", "read_on"])
    source.take([("m1", "2026-01-01", "10")], 0)
    columns = {"read_on": "DATE", "kwh": "BIGINT"}
    query = f"SELECT read_on, sum(kwh) AS kwh FROM {source.table} GROUP BY read_on"
    name = exchange.product(columns, ["read_on"], query, quality=[FEW])
    run_step("gold", name, day(0), "r")
    assert run_step("check", name, day(0), "r").status == "succeeded"
    source.take([("m2", "2026-01-01", "200")], 1)
    for _ in range(2):
        run_step("gold", name, day(1), "r")
        with pytest.raises(ExpectationsFailed):
            run_step("check", f"gold.{name}", day(1), "r")
        assert checked_rows(f"gold.{name}") == table_rows(f"gold.{name}") == [(date(2026, 1, 1), 10)]
    source.take([("m2", "2026-01-01", "20")], 2)
    run_step("gold", name, day(2), "r")
    assert run_step("check", name, day(2), "r").status == "succeeded"
    assert table_rows(f"gold.{name}") == [(date(2026, 1, 1), 30)]


def test_only_changed_partitions_are_checked_where_that_suffices(exchange: Trial) -> None:
    rule = {"name": "rows", "type": "library", "metric": "rowCount", "mustBeGreaterThan": 2}
    source = exchange.source(COLUMNS, ["meter", "read_on"], partition=["read_on"], quality=[rule])
    source.drop([(f"m{n}", f"2026-01-0{d}", "1") for n in range(3) for d in (1, 2)])
    run_all(source, 0)
    assert source.last("check").rows_in == 6
    source.drop([(f"m{n}", "2026-01-03", "1") for n in range(3)])
    run_all(source, 1)
    assert source.last("check").rows_in == 3
    source.drop([("m0", "2026-01-04", "1")])
    run_all(source, 2)
    assert source.last("check").rows_in == 10, "one row is too few for the rule, so all rows were checked"
    source.declare(quality=[rule, FEW])
    source.drop([("m1", "2026-01-04", "1")])
    run_all(source, 3)
    source.drop([("m2", "2026-01-04", "90")])
    with pytest.raises(ExpectationsFailed, match="sane"):
        run_all(source, 4)


@pytest.mark.both_engines("a rule counted in two versions", "check.elsewhere")
def test_the_grade_is_that_of_all_rows_although_only_changed_partitions_are_checked(exchange: Trial) -> None:
    low = {
        "name": "low", "type": "sql", "dimension": "accuracy", "severity": "warning", "description": "kwh is below 10",
        "query": "SELECT COUNT(*) FROM ${table} WHERE NOT (kwh < 10)", "mustBe": 0,
    }  # fmt: skip
    source = exchange.source(COLUMNS, ["meter", "read_on"], partition=["read_on"], quality=[low])
    days: list[tuple[list[tuple[str, str, str]], int]] = [
        ([("m1", "2026-01-01", "90"), ("m2", "2026-01-01", "1"), ("m3", "2026-01-01", "91")], 2),
        # A clean month leaves the grade of the table where it is.
        ([("m1", "2026-02-01", "1"), ("m2", "2026-02-01", "2")], 2),
        ([("m1", "2026-01-01", "3")], 1),
    ]
    for at, (rows, broken) in enumerate(days):
        source.drop(rows)
        run_all(source, at)
        check = checked(source.table).check
        assert check is not None
        assert is_partial(source, at) or at == 0
        contract = load_contract(source.table)
        whole = evaluate(
            current_rows(source.table, check.delta_version), contract,
            delta_version=0, scope=None, logical_date=day(at), run_id="whole",
        )  # fmt: skip
        assert (check.score, check.grade, check.dimensions) == (whole.score, whole.grade, whole.dimensions)
        found = {rule["id"]: rule["unexpected"] for rule in read_evidence(check.result_sha256)["rules"]}
        assert next(number for rule, number in found.items() if rule.endswith("low")) == broken
        assert recompute(read_evidence(check.result_sha256)).score == check.score


def is_partial(source: Source, at: int) -> bool:
    """Whether the last check evaluated fewer rows than the table has."""
    return at > 0 and (source.last("check").rows_in or 0) < lake.rows(source.table)


def test_no_row_is_lost_and_the_recorded_counts_add_up(exchange: Trial) -> None:
    source = exchange.source(COLUMNS, ["meter", "read_on"], "append")
    days = [
        [("m1", "2026-01-01", "1"), ("m1", "2026-01-01", "1"), ("m2", "2026-01-01", "x")],
        [("m1", "2026-01-01", "1"), ("m3", "2026-01-02", "3"), ("m3", "2026-01-02", "4")],
        [("m1", "2026-01-01", "2"), ("m4", "2026-01-03", "1")],
    ]
    for at, rows in enumerate(days):
        source.drop(rows)
        run_all(source, at)
    landed = sum(len(rows) for rows in days)
    assert len(source.bronze()) == landed == sum(x.rows or 0 for x in landings(source.name))
    silver_runs = runs(source.name, "silver")
    assert all(balanced(run) for run in silver_runs)
    repeated = sum((r.rows_duplicate or 0) + (r.rows_unchanged or 0) for r in silver_runs)
    assert landed == len(source.rows()) + len(source.quarantine()) + repeated
    recorded = session().sql(
        f"SELECT sum(rows_in), sum(rows_out) FROM ops.runs WHERE name = '{source.name}' AND step = 'silver'"
    )
    assert tuple(recorded.collect()[0]) == (landed, len(source.rows()))


def test_a_second_run_of_a_source_in_use_is_refused_and_nothing_is_lost(
    exchange: Trial, undertaker: Undertaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = exchange.source(COLUMNS, ["meter", "read_on"])
    source.land([("m1", "2026-01-01", "1")])
    source.step("bronze")
    entered, leave = threading.Event(), threading.Event()
    import jobs.silver.step

    original = jobs.silver.step.write

    def slow(*args: object) -> object:
        entered.set()
        assert leave.wait(60)
        return original(*args)  # type: ignore[arg-type]  # passed on unchanged

    monkeypatch.setattr(jobs.silver.step, "write", slow)
    worker = threading.Thread(target=source.step, args=("silver",))
    worker.start()
    try:
        assert entered.wait(60)
        for step in ("land", "bronze", "silver", "check"):
            with pytest.raises(Locked, match=f"{source.name}.*process {os.getpid()}"):
                source.step(step)
        other = undertaker.run(settings().home, settings().catalogue, [("silver", source.name, 0)])
        assert other["error"].startswith("Locked:"), other
    finally:
        leave.set()
        worker.join(60)
    source.accept()
    assert source.rows() == [("m1", date(2026, 1, 1), 1)]
    assert source.step("silver").status == "unchanged"


@pytest.mark.parametrize("mode", ["merge", "revisions"])
def test_the_time_zone_of_the_process_does_not_matter(exchange: Trial, undertaker: Undertaker, mode: str) -> None:
    day_in_utc = "try_cast(try_cast(at as timestamp) as date)"
    columns = {"id": "INT", "at": "TIMESTAMP", "on": {"physicalType": "DATE", "transformLogic": day_in_utc}}
    rows_by_zone = {}
    for zone in ("UTC", "Asia/Shanghai", "America/St_Johns"):
        source = exchange.source(columns, ["id"], mode, published=["id", "at"], partition=["on"])
        steps = []
        for at, value in enumerate(("2026-03-29 01:30:00", "2026-10-25T00:30:00+02:00", "2026-03-08 02:30:00")):
            source.drop([("1", value), ("2", "2026-01-01 00:00:00")], f"{at}.csv")
            # Logical dates out of order: the second build is earlier than the first.
            steps += [(s, source.name, (2, 0, 3)[at]) for s in ("land", "bronze", "silver")] + [
                ("accept", source.table, 0)
            ]
            ended = undertaker.run(settings().home, settings().catalogue, steps[-4:], TZ=zone)
            assert ended["error"] is None and ended["signal"] == 0, ended
        more = ("_known_at", "_superseded_at") if mode == "revisions" else ("_logical_date",)
        rows_by_zone[zone] = source.rows(*more)
    assert rows_by_zone["UTC"] == rows_by_zone["Asia/Shanghai"] == rows_by_zone["America/St_Johns"]
    assert len(rows_by_zone["UTC"]) == (4 if mode == "revisions" else 2)


@pytest.mark.parametrize("other_meter", ["m1", "m2"], ids=["of rows that are counted", "of others"])
def test_a_step_is_retried_when_another_writer_commits_during_it(
    exchange: Trial, monkeypatch: pytest.MonkeyPatch, other_meter: str
) -> None:
    source = exchange.source(COLUMNS, ["meter", "read_on"])
    source.take([(meter, "2026-01-01", "1") for meter in ("m1", "m2")], 0)
    source.land([("m1", "2026-01-01", "5"), ("m3", "2026-01-01", "3")], 1)
    source.step("bronze", 1)
    source.commit_during_next_step(f"meter = '{other_meter}'", monkeypatch)
    assert source.step("silver", 1).status == "succeeded"
    assert [(row[0], row[2]) for row in source.rows()] == [("m1", 5), ("m2", 1), ("m3", 3)]


@pytest.mark.parametrize("mode", ["append", "merge", "revisions"])
def test_the_path_of_the_home_does_not_matter(
    exchange: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    patterns = "`[1]*" if settings().spark == "embedded" else ""
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / f"My documents, 100%/l'été {patterns}"))
    source = exchange.source(COLUMNS, ["meter", "read_on"], mode, partition=["read_on"])
    source.take([("m1", "2026-01-01", "1"), ("m1", "2026-01-01", "1"), ("m2", "2026-01-02", "2")], 0)
    source.take([("m1", "2026-01-01", "1"), ("m3", "2026-01-02", "3")], 1, file="数据 é#1 %20.csv")
    assert rows_read(source) == [("m1", 1), ("m2", 2), ("m3", 3)]
    assert "数据 é#1 %20.csv" in {row[-1] for row in source.rows("_file")}
    lake.restore(source.table, 1)
    assert [row[0] for row in source.rows()] == ["m1", "m2"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["My documents, 100%", "catalogue", "home"]
    # Untouched: the empty exchange that the fixture made.
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["registry.db"]


@pytest.mark.parametrize("engine", ["spark"], indirect=True)
def test_a_path_that_spark_reads_as_a_glob_is_refused(
    exchange: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "lake [1]"))
    source = exchange.source(COLUMNS, ["meter", "read_on"])
    source.land([("m1", "2026-01-01", "1")])
    with pytest.raises(ExchangeError, match=r"Spark cannot read a folder with \[ in its path.*EXCHANGE_LAKE"):
        source.step("bronze")
    assert [file.name for file in tmp_path.glob("lake*")] == ["lake [1]"]


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a small file system for the length of the block; skip where that is not allowed."""
    folder.mkdir(parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={megabytes}m".encode()):
        pytest.skip(f"no small disk can be mounted here: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        libc.umount2(str(folder).encode(), 2)


def test_a_full_disk_is_reported_and_no_row_is_missing_once_there_is_room(
    exchange: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"m{n}", f"2026-01-{n % 28 + 1:02d}", str(n * 7919 % 100_003)) for n in range(60_000)]
    with small_disk(tmp_path / "small", 24):
        monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "small/home"))
        source = exchange.source(COLUMNS, ["meter", "read_on"])
        source.take([("m0", "2025-12-31", "1")], 0)
        source.drop(rows, "big.csv")
        ballast = tmp_path / "small/ballast"
        for step in ("land", "bronze", "silver"):
            free = os.statvfs(tmp_path / "small").f_bavail * os.statvfs(tmp_path / "small").f_frsize
            # Leaves room for the registry's records but not for the data.
            ballast.write_bytes(b"x" * (free - 200_000))
            with pytest.raises(ExchangeError, match=r"disk is full.*Next: free some space"):
                source.step(step, 1)
            assert checked_rows(source.table)[0][0] == "m0"
            ballast.unlink()
            assert source.step(step, 1).status == "succeeded"
        source.accept()
        assert len(source.rows()) == len(rows) + 1
        *_, bronze, _, silver, _ = records = [(r.step, r.status) for r in runs(source.name)][-6:]
        assert records[1::2] == [(step, "succeeded") for step in ("land", "bronze", "silver")]
        assert records[0] == ("land", "failed")
        # Spark's unfinished files may leave no room to record the end of the run.
        statuses = {"failed"} if settings().spark == "embedded" else {"failed", "running"}
        assert {bronze[1], silver[1]} <= statuses


def test_an_increment_rewrites_only_the_partitions_it_touches(exchange: Trial) -> None:
    source = exchange.source(COLUMNS, ["meter", "read_on"], partition=["read_on"])
    name = exchange.product(
        {"read_on": "DATE", "kwh": "BIGINT"}, ["read_on"],
        f"SELECT read_on, sum(kwh) AS kwh FROM {source.table} GROUP BY read_on", partition="read_on",
    )  # fmt: skip
    for at in range(3):
        source.drop([(f"m{n}", f"2026-01-{at * 8 + d + 1:02d}", "1") for n in range(5) for d in range(8)])
        run_all(source, at)
        run_step("gold", name, day(at), "r")
        run_step("check", name, day(at), "r")
    tables = (source.table, f"gold.{name}")
    before = [files_of(t) for t in tables]
    source.drop([("m1", "2026-01-24", "2"), ("m1", "2026-01-25", "2")])
    run_all(source, 3)
    run_step("gold", name, day(3), "r")
    run_step("check", name, day(3), "r")
    for old, table in zip(before, tables, strict=True):
        new = files_of(table)
        assert {k for k in new if new[k] != old.get(k)} == {("2026-01-24",), ("2026-01-25",)}
    assert source.last("check").rows_in == 6
    assert runs(name, "check")[-1].rows_in == 2


def test_a_lost_table_is_reported_and_lost_bronze_is_rebuilt_by_the_next_step(exchange: Trial) -> None:
    source = exchange.source(COLUMNS, ["meter", "read_on"])
    source.take([("m1", "2026-01-01", "1")], 0)
    shutil.rmtree(lake.location(f"bronze.{source.name}"))
    source.take([("m2", "2026-01-01", "2")], 1)
    assert [row[0] for row in source.bronze()] == ["m1", "m2"]
    assert [row[0] for row in source.rows()] == ["m1", "m2"]
    shutil.rmtree(lake.location(source.table))
    assert source.step("land", 2).status == "succeeded", "so the run reaches the step that reports it"
    with pytest.raises(ExchangeError, match=f"{source.table} is missing; .*Next: .*exchange rebuild"):
        source.step("silver", 2)
    assert not lake.exists(source.table)
