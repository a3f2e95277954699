"""Log retention: old commits are removed, and every version in use stays readable by every reader."""

from __future__ import annotations

import pytest
from deltalake import DeltaTable

from jobs import lake
from jobs.flow import run_step
from jobs.operate.upkeep import upkeep
from jobs.release.verify import verify
from tests.lake.trial import Source, Trial, age, build_product, checked_rows, day, table_rows

CHECKPOINT_EVERY = 2
# Enough for checkpoints before and after the release.
DAYS = 6
RELEASED = 3
READINGS = {"meter": "STRING", "kwh": "DECIMAL(8,2)"}


@pytest.fixture
def source(exchange: Trial) -> Source:
    return exchange.source(READINGS, ("meter",))


def commits(table: str) -> list[int]:
    folder = lake.location(table) / "_delta_log"
    return sorted(int(file.name[:20]) for file in folder.glob("*.json") if file.name[:20].isdigit())


@pytest.mark.both_engines("checkpoints, and what each engine keeps of a log", "lake.vacuum")
def test_old_commits_are_removed_and_every_version_in_use_stays_readable(
    exchange: Trial, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.lake.tables._CHECKPOINT_EVERY", CHECKPOINT_EVERY)
    product = exchange.product(READINGS, ("meter",), f"SELECT meter, kwh FROM silver.{source.name}")
    tables = (source.table, f"gold.{product}")
    for number in range(DAYS):
        source.take([("m1", f"{number}.5")], number)
        if number != RELEASED:
            build_product(product, number)
            continue
        # Pins the log from the checkpoint before this version on.
        for step in ("gold", "check", "release"):
            run_step(step, product, day(number), "r")
    before = {table: (commits(table), checked_rows(table)) for table in tables}
    assert upkeep(tables).tables[0].removed_log_files == 0, "recent commits are kept"

    for table in tables:
        age(table)
    assert [commits(table) for table in tables] == [before[table][0] for table in tables]
    (planned, _) = upkeep(tables, dry_run=True).tables
    assert planned.removed_log_files > 0
    upkeep(tables)
    lake.drop_cached_logs()

    head, (gold, rows) = commits(source.table), before[f"gold.{product}"]
    assert 0 < head[0] <= DAYS, "cut before the newest checkpoint"
    assert head == before[source.table][0][head[0] :]
    released = commits(f"gold.{product}")
    assert 0 < released[0] <= RELEASED + 1 < gold[-1]
    assert DeltaTable(str(lake.location(source.table))).to_pyarrow_table().num_rows == 1
    assert checked_rows(f"gold.{product}") == rows
    assert verify(product, "1.0.0").ok
    assert len(table_rows(f"gold.{product}", at=RELEASED + 1)) == 1

    source.take([("m1", "99.5"), ("m2", "1")], DAYS)
    assert [row[0] for row in source.rows()] == ["m1", "m2"]
    assert upkeep([source.table]).tables[0].status == "nothing to do"
