"""Upkeep compacts the files of many small runs, and removes nothing that a release, a reader or a pointer needs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow.parquet import read_table

from jobs import lake
from jobs.errors import ExchangeError
from jobs.flow import run_step
from jobs.lake.pointers import pointer
from jobs.operate.upkeep import TableReport, orphans, plan, upkeep
from jobs.registry.locks import hold
from jobs.release.verify import verify
from jobs.settings import settings
from tests.lake.trial import Source, Trial, age, checked_rows, day, table_rows

DAYS = 12
READINGS = {"meter": "STRING", "read_on": "DATE", "kwh": "DECIMAL(8,2)"}
TOTALS = {"meter": "STRING", "kwh": "DECIMAL(18,2)"}


@pytest.fixture
def source(exchange: Trial) -> Source:
    source = exchange.source(READINGS, ("meter", "read_on"))
    source.take([(f"m{n}", "2026-01-01", "0.5") for n in range(3)])
    for number in range(1, DAYS):
        source.append_again(number)
    return source


def steps(source: Source, number: int) -> None:
    for step in ("bronze", "silver", "check"):
        assert source.step(step, number).status == "succeeded"


def product_of(exchange: Trial, source: Source) -> str:
    query = f"SELECT meter, sum(kwh) AS kwh FROM silver.{source.name} GROUP BY meter"
    return exchange.product(TOTALS, ("meter",), query)


def publish(product: str, number: int, steps: Sequence[str] = ("gold", "check", "release")) -> list[str]:
    return [run_step(step, product, day(number), f"r{number}").status for step in steps]


def maintain(table: str) -> TableReport:
    (report,) = upkeep([table]).tables
    return report


def files_on_disk(table: str) -> set[Path]:
    return set(lake.location(table).rglob("*.parquet")) - set((lake.location(table) / "_delta_log").rglob("*.parquet"))


@pytest.mark.both_engines("OPTIMIZE")
def test_compacting_small_files_changes_no_rows_and_no_products(exchange: Trial, source: Source) -> None:
    product = product_of(exchange, source)
    assert publish(product, 0) == ["succeeded"] * 3
    before = checked_rows(source.table)
    report = maintain(source.table)
    assert (report.status, report.files_before, report.files_after) == ("done", DAYS, 1)
    assert checked_rows(source.table) == before == table_rows(source.table)
    # Other files with the same rows do not trigger a build of products.
    assert publish(product, 1) == ["unchanged"] * 3
    assert maintain(source.table).status == "nothing to do"
    source.land([("m9", "2026-02-01", "1")], DAYS)
    steps(source, DAYS)
    assert len(source.rows()) == len(before) + 1


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("days", [20, 75, pytest.param(200, marks=pytest.mark.long)])
def test_compacting_many_daily_runs_does_not_disturb_readers(exchange: Trial, days: int) -> None:
    source = exchange.source(READINGS, ("meter", "read_on"), "append")
    product = product_of(exchange, source)
    source.take([(f"m{n}", "2026-01-01", "1.5") for n in range(3)])
    build_every = min(25, days // 3)
    for number in range(1, days):
        source.append_again(number)
        if number % build_every == 0:
            # Every other one is built and checked but not released.
            steps = ("gold", "check", "release") if number % (2 * build_every) == 0 else ("gold", "check")
            assert set(publish(product, number, steps)) == {"succeeded"}
    tables = (source.table, f"gold.{product}")
    before = checked_rows(source.table)
    for table in tables:
        age(table)

    by_engine = lake.read_table(source.table).toLocalIterator()
    by_file = map(read_table, sorted(files_on_disk(source.table)))
    engine_rows, file_rows = [next(by_engine)], next(by_file).num_rows

    planned = upkeep(tables, dry_run=True).tables
    silver, gold = upkeep(tables).tables
    assert tuple(replace(report, status="done") for report in planned) == (silver, gold)
    assert (silver.files_before, silver.files_after, silver.removed_files) == (days, 1, 0)
    assert gold.removed_files > 0

    engine_rows += list(by_engine)
    file_rows += sum(table.num_rows for table in by_file)
    assert len({tuple(row) for row in engine_rows}) == file_rows == len(before) == 3 * days
    assert checked_rows(source.table) == before == table_rows(source.table)
    for release in range((days - 1) // (2 * build_every)):
        verification = verify(product, f"1.0.{release}")
        assert verification.ok, verification.findings
    # After the days that readers are given to finish, the small files go.
    age(source.table)
    assert maintain(source.table).removed_files == days
    assert checked_rows(source.table) == before


def test_only_partitions_with_many_small_files_are_compacted(exchange: Trial) -> None:
    source = exchange.source(READINGS | {"area": "STRING"}, ("meter", "area"), "append", partition=("area",))
    for number in range(9):
        rows = [(f"m{number}", "2026-01-01", "1", area) for area in ("north", "south")]
        rows += [("m0", "2026-01-01", "1", "it's")] * (number == 0)
        source.take(rows, number)
    still = {f.path for f in lake.files(source.table) if ("area", "it's") in f.partition}
    assert plan(source.table).partitions == ((("area", "north"),), (("area", "south"),))
    assert maintain(source.table).files_after == 3
    assert still <= {f.path for f in lake.files(source.table)}
    assert len(source.rows()) == 19


def test_a_dry_run_predicts_the_compaction_and_large_files_stay(
    exchange: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A checkpoint lists files in an order of its own, another in each process; without one they are in that of commits.
    monkeypatch.setattr("jobs.lake.tables._CHECKPOINT_EVERY", 100)
    source = exchange.source(READINGS, ("meter", "read_on"), "append")
    for number, rows in enumerate((1_000, 20_000, *[1] * 9)):
        source.take([(f"m{n}", f"2026-01-{number + 1:02}", f"{n % 97}.5") for n in range(rows)], number)
    large, middle, *_ = sorted((f.size for f in lake.files(source.table)), reverse=True)
    monkeypatch.setattr("jobs.lake.tables._COMPACT_BYTES", large - 1)
    monkeypatch.setattr("jobs.operate.upkeep.SMALL_BYTES", middle)
    (planned,) = upkeep([source.table], dry_run=True).tables
    report = maintain(source.table)
    assert replace(planned, status="done") == report
    # Sail compacts neighbours in the log, where the large file separates the oldest; Spark sorts by size.
    assert (report.files_before, report.files_after) == (11, 3 if settings().spark == "embedded" else 2)
    assert large in {f.size for f in lake.files(source.table)}


@pytest.mark.both_engines("VACUUM")
def test_vacuum_removes_unreferenced_files_and_keeps_releases_whole(exchange: Trial, source: Source) -> None:
    product = product_of(exchange, source)
    assert publish(product, 0) == ["succeeded"] * 3
    for number in (DAYS, DAYS + 1):
        source.land([("m1", f"2026-02-{number:02}", "7")], number)
        steps(source, number)
        assert publish(product, number) == ["succeeded"] * 3
    gold, rows = f"gold.{product}", checked_rows(source.table)
    maintain(source.table)
    assert plan(source.table).removable == (), "files of the last days are kept for their readers"
    age(source.table)
    age(gold)
    planned = plan(source.table)
    (dry,) = upkeep([source.table], dry_run=True).tables
    assert (dry.status, dry.removed_files, dry.removed_bytes) == (
        "planned", len(planned.removable), planned.removable_bytes,
    )  # fmt: skip
    files_before = files_on_disk(source.table)
    report = maintain(source.table)
    assert report.removed_files == len(planned.removable) >= DAYS
    assert len(files_on_disk(source.table)) == len(files_before) - report.removed_files == 1
    maintain(gold)
    for number in ("1.0.0", "1.0.1", "1.0.2"):
        verification = verify(product, number)
        assert verification.ok, verification.findings
    assert checked_rows(source.table) == rows


def test_vacuum_removes_a_dead_writer_s_file_once_it_is_old(source: Source) -> None:
    stray = lake.location(source.table) / "part-stray.parquet"
    stray.write_bytes(b"half")
    assert plan(source.table).removable == ()
    os.utime(stray, (0, 0))
    assert plan(source.table).removable == (("part-stray.parquet", 4),)


def test_a_locked_table_is_skipped(source: Source) -> None:
    with hold(f"source.{source.name}"):
        (report,) = upkeep([source.table]).tables
    assert report.status == "skipped"
    assert "is locked by" in report.message
    assert len(lake.files(source.table)) == DAYS


def test_upkeep_rolls_back_an_unfinished_build(source: Source) -> None:
    rows = checked_rows(source.table)
    source.land([("m9", "2026-02-01", "1")], DAYS)
    source.step("bronze", DAYS)
    source.step("silver", DAYS)
    maintain(source.table)
    assert checked_rows(source.table) == rows == table_rows(source.table)
    assert source.step("silver", DAYS).status == "succeeded"
    assert len(source.rows()) == len(rows) + 1


def test_unregistered_landed_files_are_reported_and_kept(source: Source) -> None:
    current = pointer(source.table)
    assert current is not None
    folder = next((settings().landing / source.name).rglob("*.manifest.json")).parent
    manifest = next(folder.glob("*.manifest.json"))
    stranger = manifest.with_name("0" * 64 + ".manifest.json")
    stranger.write_text(manifest.read_text().replace(manifest.name[:64], "0" * 64))
    assert any("0" * 64 in message and "not in the registry" in message for message in orphans())
    assert stranger.exists()


def test_staged_files_of_lost_machines_are_removed_and_those_in_use_kept(exchange: Trial) -> None:
    exchange.source(READINGS, ("meter",))
    gone, younger = (settings().lake / "_stage" / name / "typed" / "part-0.parquet" for name in ("gone-7", "there-8"))
    replaced, shown = (settings().lake / "_shown" / f"ops.runs-{key}" / "part-0.parquet" for key in ("a1", "b2"))
    for file, days in ((gone, 30), (younger, 0), (replaced, 31), (shown, 30)):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"rows")
        then = time.time() - days * 86_400
        os.utime(file, (then, then))
    planned = upkeep(dry_run=True)
    assert (planned.leftover_files, planned.leftover_bytes) == (2, 8)
    assert gone.exists() and replaced.exists()
    assert upkeep().leftover_files == 2
    assert [file.exists() for file in (gone, younger, replaced, shown)] == [False, True, False, True]


def test_an_unknown_table_is_refused(source: Source) -> None:
    with pytest.raises(ExchangeError, match=r"there is no table silver\.nothing; expected one of: .*" + source.table):
        upkeep(["silver.nothing"])


def test_a_table_that_never_passed_is_built_again_after_its_log_was_cut(exchange: Trial) -> None:
    source = exchange.source({"id": "STRING", "n": "INT"}, ["id"])
    for at in range(2):
        source.land([(f"a{at}", at)], at)
        source.step("bronze", at)
        source.step("silver", at)
    log = lake.location(source.table) / "_delta_log"
    cut_off = sorted(log.glob("*.json"))[:-1]
    lake.delta(source.table).create_checkpoint()
    for commit in cut_off:
        commit.unlink()
    source.land([("b", 7)], 2)
    source.build(2)
    assert source.rows() == [("a0", 0), ("a1", 1), ("b", 7)]
