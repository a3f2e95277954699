"""Any table can be rebuilt from landed files without disturbing readers, releases or older versions."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from jobs import lake
from jobs.errors import ExpectationsFailed, NotFound, Tampered
from jobs.flow import run_step
from jobs.lake.pointers import checked, pointer
from jobs.operate.rebuild import Rebuilt, rebuild
from jobs.registry import transaction
from jobs.registry.models import Landing
from jobs.registry.releases import releases_of
from jobs.release.recall import recall
from jobs.release.step import find
from jobs.release.verify import verify
from jobs.settings import settings
from tests.declaring import write
from tests.lake.trial import Source, Trial, checked_rows, day, landings, runs, table_rows

COLUMNS = {"site": "STRING", "read_on": "DATE", "amount": "DECIMAL(12,3)", "note": "STRING"}
KEY = ("site", "read_on")

Rows = Sequence[Sequence[Any]]

# Three days: later ones repeat, correct and contradict earlier ones; some rows are invalid.
DAYS: tuple[Rows, ...] = (
    (("a", "2026-01-01", "1.5", None), ("b", "2026-01-01", "2", "x"), ("c", "no date", "3", None)),
    (("a", "2026-01-01", "1.5", None), ("b", "2026-01-01", "2.25", "x"), ("d", "2026-01-02", "4", None)),
    (("b", "2026-01-01", "2", "x"), ("e", "2026-01-03", "5", "y"), *(("f", "2026-01-03", n, None) for n in (6, 7))),
)


# By engine and mode: made by the first test that needs it; later tests start from a copy.
_loaded: dict[tuple[str, str], tuple[Source, Path]] = {}


def checked_source(exchange: Trial, mode: str = "merge") -> Source:
    """A source whose three days were loaded one by one, as Airflow does."""
    kind = (settings().spark, mode)
    if kind in _loaded:
        loaded, folder = _loaded[kind]
        shutil.copytree(folder / "home", settings().home, dirs_exist_ok=True)
        shutil.copytree(folder / "catalogue", exchange.root, dirs_exist_ok=True)
        return replace(loaded, exchange=exchange, settings=dict(loaded.settings))
    source = exchange.source(COLUMNS, KEY, mode)
    for number, rows in enumerate(DAYS):
        source.land(rows, number)
        for step in ("bronze", "silver", "check"):
            run_step(step, source.name, day(number), f"day {number}")
    folder = exchange.root.parent / "loaded"
    shutil.copytree(settings().home, folder / "home")
    shutil.copytree(exchange.root, folder / "catalogue")
    _loaded[kind] = (source, folder)
    return source


def released_product(exchange: Trial, source: Source) -> str:
    query = f"SELECT site, count(*) AS days FROM {source.table} GROUP BY site"
    name = exchange.product({"site": "STRING", "days": "BIGINT"}, ("site",), query)
    for step in ("gold", "check", "release"):
        run_step(step, name, day(3), "first")
    return name


def by_table(results: Sequence[Rebuilt]) -> dict[str, Rebuilt]:
    return {result.table: result for result in results}


@pytest.mark.both_engines("REPLACE TABLE, then every landing at once", cases=("merge",))
@pytest.mark.parametrize("mode", ["append", "merge", "revisions"])
def test_a_rebuilt_table_is_equal_in_every_mode(exchange: Trial, mode: str) -> None:
    source = checked_source(exchange, mode)
    before = {t: table_rows(t) for t in (source.table, f"bronze.{source.name}", f"quarantine.{source.name}")}
    old = checked(source.table).delta_version
    rebuilt = by_table(rebuild(source.table, "again"))
    assert {t: m.equal for t, m in rebuilt.items()} == dict.fromkeys(before, True)
    assert {t: m.message for t, m in rebuilt.items()} == dict.fromkeys(before, "equal to the table before")
    assert {t: table_rows(t) for t in before} == before
    assert checked(source.table).delta_version == rebuilt[source.table].version > old
    assert table_rows(source.table, at=old) == before[source.table]
    again = run_step("silver", source.name, day(4), "later")
    assert again.status == "unchanged"


def test_quarantine_is_rebuilt_with_its_source(exchange: Trial) -> None:
    source = checked_source(exchange)
    rebuilt = by_table(rebuild(f"quarantine.{source.name}", "again"))
    assert rebuilt[f"quarantine.{source.name}"].rows == len(source.quarantine()) == 3


def test_rebuilding_bronze_alone_leaves_silver_unchanged(exchange: Trial) -> None:
    source = checked_source(exchange)
    current = checked(source.table).delta_version
    rebuilt = rebuild(f"bronze.{source.name}", "again")
    assert [(m.table, m.equal) for m in rebuilt] == [(f"bronze.{source.name}", True)]
    assert checked(source.table).delta_version == current
    assert run_step("silver", source.name, day(4), "later").status == "unchanged"


def test_a_rebuild_records_its_steps(exchange: Trial) -> None:
    source = checked_source(exchange)
    rebuild(source.table, "again")
    assert [r.step for r in runs(source.name) if r.run_id == "again" and r.status == "succeeded"] == [
        "bronze", "silver", "check",
    ]  # fmt: skip


def test_a_different_result_is_reported(exchange: Trial) -> None:
    source = checked_source(exchange)
    doubled = {"physicalType": "DECIMAL(12,3)", "transformLogic": "try_cast(amount as decimal(12,3)) * 2"}
    source.declare({**COLUMNS, "amount": doubled})
    result = by_table(rebuild(source.table, "again"))[source.table]
    assert result.equal is False
    assert "DIFFERENT" in str(result)


@pytest.mark.both_engines("tables made where there were others", "lake.objects")
def test_a_lost_lake_is_rebuilt(exchange: Trial) -> None:
    source = checked_source(exchange, "revisions")
    product = released_product(exchange, source)
    rows, sold = checked_rows(source.table), checked_rows(f"gold.{product}")
    shutil.rmtree(settings().lake)
    rebuilt = by_table(rebuild(f"gold.{product}", "again"))
    assert list(rebuilt) == [f"bronze.{source.name}", source.table, f"quarantine.{source.name}", f"gold.{product}"]
    assert checked_rows(source.table) == rows
    assert checked_rows(f"gold.{product}") == sold
    # The rows are those of the release but its files are not: nobody is given other files in their place.
    result = rebuilt[f"gold.{product}"]
    assert (result.equal, result.rows_before) == (True, len(sold))
    assert "release 1.0.0" in result.message and "exchange recall" in result.message
    assert [r.status for r in releases_of(product)] == ["published"]
    assert any("file is missing" in finding.what for finding in verify(product, "1.0.0").findings)
    with pytest.raises(Tampered, match=rf"{product}@1\.0\.0.*are gone.*exchange recall {product}@1\.0\.0"):
        run_step("release", product, day(5), "later")
    recall(find(product, "1.0.0"), reason="its files were lost", by="staff")
    assert run_step("gold", product, day(5), "later").status == "unchanged"
    assert run_step("release", product, day(5), "later").status == "succeeded"
    assert verify(product, "1.1.0").ok


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
@pytest.mark.parametrize("lost", ["first commit", "middle commit", "whole log"])
def test_sold_releases_stay_readable_after_a_rebuild_because_of_a_lost_log(exchange: Trial, lost: str) -> None:
    source = checked_source(exchange)
    product = released_product(exchange, source)
    for number in (6, 7):
        source.land([("g", f"2026-01-0{number}", "1", None)], number)
        for step in ("bronze", "silver", "check"):
            run_step(step, source.name, day(number), f"r{number}")
        for step in ("gold", "check", "release"):
            run_step(step, product, day(number), f"r{number}")
    table = f"gold.{product}"
    sold = {r.number: table_rows_at(table, r.delta_version) for r in releases_of(product)}
    log = lake.location(table) / "_delta_log"
    commits = sorted(log.glob("*.json"))
    for file in commits if lost == "whole log" else [commits[0 if lost == "first commit" else len(commits) // 2]]:
        file.unlink()
    for checkpoint in log.glob("*.checkpoint*"):
        checkpoint.unlink()
    lake.drop_cached_logs()
    rebuilt = by_table(rebuild(table, "again"))[table]
    assert len(sold) == 3 and "cannot be read" not in rebuilt.message
    lake.drop_cached_logs()
    for number, rows in sold.items():
        row = find(product, number)
        assert row.status == "published" and table_rows_at(table, row.delta_version) == rows
        assert verify(product, number).findings == ()
    assert list(log.parent.parent.glob(f"{product}.damaged-*"))
    assert run_step("release", product, day(9), "later").status == "unchanged"
    assert checked_rows(table) == sold[max(sold)]


def table_rows_at(table: str, version: int) -> list[tuple[Any, ...]]:
    return sorted(tuple(row) for row in lake.read_table(table, version).collect())


def test_products_of_a_lost_silver_table_are_built_again(exchange: Trial) -> None:
    source = checked_source(exchange)
    product = released_product(exchange, source)
    sold = checked_rows(f"gold.{product}")
    shutil.rmtree(lake.location(source.table))
    rebuilt = by_table(rebuild(source.table, "again"))
    assert rebuilt[source.table].equal is None
    built = run_step("gold", product, day(5), "later")
    assert built.status == "succeeded"
    run_step("check", f"gold.{product}", day(5), "later")
    assert checked_rows(f"gold.{product}") == sold
    assert run_step("release", product, day(5), "later").status == "unchanged"


def test_a_damaged_log_is_moved_aside_and_not_deleted(exchange: Trial) -> None:
    source = checked_source(exchange)
    rows = checked_rows(source.table)
    for commit in (lake.location(source.table) / "_delta_log").glob("*.*"):
        commit.write_bytes(b"\x00 not a log")
    rebuild(source.table, "again")
    assert checked_rows(source.table) == rows
    assert list(lake.location(source.table).parent.glob(f"{source.name}.damaged-*"))


def test_missing_data_files_do_not_stop_a_rebuild(exchange: Trial) -> None:
    source = checked_source(exchange)
    rows = checked_rows(source.table)
    for file in lake.location(source.table).rglob("*.parquet"):
        file.unlink()
    result = by_table(rebuild(source.table, "again"))[source.table]
    assert result.equal is None
    assert checked_rows(source.table) == rows


def test_lost_landing_records_are_restored_from_manifests(exchange: Trial) -> None:
    source = checked_source(exchange, "append")
    rows, digests = checked_rows(source.table), [x.sha256 for x in landings(source.name)]
    with transaction() as db:
        db.execute(delete(Landing).where(Landing.source == source.name))
    shutil.rmtree(settings().lake)
    rebuild(source.table, "again")
    assert checked_rows(source.table) == rows
    assert [x.sha256 for x in landings(source.name)] == digests
    assert source.step("land", 5).status == "unchanged"


def test_changed_bytes_stop_a_rebuild_before_anything_is_touched(exchange: Trial) -> None:
    source = checked_source(exchange)
    rows, current = checked_rows(source.table), pointer(source.table)
    landed = settings().home / landings(source.name)[1].path
    landed.chmod(0o644)
    write(landed, landed.read_bytes().replace(b"2.25", b"9.25"))
    with pytest.raises(Tampered, match=landed.name):
        rebuild(source.table, "again")
    after = pointer(source.table)
    assert current is not None and after is not None and after.delta_version == current.delta_version
    assert checked_rows(source.table) == rows
    assert all(x.loaded_at for x in landings(source.name))


def test_readers_keep_the_old_version_if_the_new_one_breaks_a_rule(exchange: Trial) -> None:
    source = checked_source(exchange)
    rows, current = checked_rows(source.table), checked(source.table).delta_version
    source.declare(quality=[{"type": "library", "metric": "rowCount", "mustBeGreaterThan": 1000}])
    with pytest.raises(ExpectationsFailed, match="rowCount"):
        rebuild(source.table, "again")
    assert checked(source.table).delta_version == current
    assert checked_rows(source.table) == rows


def test_a_release_survives_a_rebuild_of_its_product(exchange: Trial) -> None:
    source = checked_source(exchange)
    product = released_product(exchange, source)
    result = by_table(rebuild(f"gold.{product}", "again"))[f"gold.{product}"]
    assert (result.equal, result.message) == (True, "equal to the table before")
    assert verify(product, "1.0.0").ok
    assert run_step("release", product, day(5), "later").message == "1.0.0, grade C, as before"


@pytest.mark.parametrize("table", ["release.x", "x", "ops.runs", "silver.nowhere", "gold.nowhere", "silver."])
def test_a_table_that_cannot_be_rebuilt_is_refused(exchange: Trial, table: str) -> None:
    exchange.source(COLUMNS, KEY)
    with pytest.raises(NotFound):
        rebuild(table, "again")


def test_a_source_without_landings_has_nothing_to_rebuild(exchange: Trial) -> None:
    source = exchange.source(COLUMNS, KEY)
    with pytest.raises(NotFound, match="exchange land"):
        rebuild(source.table, "again")
