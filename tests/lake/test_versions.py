"""Every version of a table stays readable, however many follow it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from jobs import lake
from jobs.lake import connect
from jobs.lake.relog import KnownFile, KnownVersion, rewrite_log

TABLE = "gold.counted"
COMMITS = 25

pytestmark = pytest.mark.both_engines("time travel and statistics of the log", "lake.log")


@pytest.mark.usefixtures("exchange")
def test_versions_before_a_checkpoint_stay_readable() -> None:
    lake.create(TABLE, [lake.Field("n", "BIGINT")])
    for n in range(COMMITS):
        assert lake.append(TABLE, connect().sql(f"SELECT CAST({n} AS BIGINT) AS n")) == n + 1
    checkpoints = list((lake.location(TABLE) / "_delta_log").glob("*.checkpoint*.parquet"))
    assert checkpoints
    for version in range(1, COMMITS + 1):
        assert lake.read_table(TABLE, version).count() == version
        assert lake.rows(TABLE, version) == version


@pytest.mark.both_engines("which log an engine reads and goes on from", "lake.commits", "lake.relog")
@pytest.mark.usefixtures("exchange")
def test_a_log_written_anew_has_its_known_versions_and_goes_on() -> None:
    table = "gold.lost"
    lake.create(table, [lake.Field("n", "BIGINT"), lake.Field("day", "STRING")], ["day"])
    for n in range(3):
        lake.append(table, connect().sql(f"SELECT CAST({n} AS BIGINT) AS n, 'day {n} é' AS day"))
    known = [
        KnownVersion(
            number, datetime(2026, 1, number, tzinfo=UTC), lake.columns_at(table, number), ("day",),
            tuple(KnownFile(f.path, f.size, f.rows) for f in lake.files(table, number)),
        )
        for number in (1, 3)
    ]  # fmt: skip
    folder, table_id = lake.location(table), str(lake.delta(table).metadata().id)
    damaged = folder.rename(folder.with_name("lost.damaged"))
    for file in known[1].files:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).hardlink_to(damaged / file.path)
    # Nothing of the old log is left.
    rewrite_log(table, table_id, known)
    lake.drop_cached_logs()
    assert [lake.read_table(table, version).count() for version in (1, 2, 3)] == [1, 1, 3]
    assert str(lake.delta(table, 1).metadata().id) == table_id
    assert sorted(row["day"] for row in lake.read_table(table).collect()) == ["day 0 é", "day 1 é", "day 2 é"]
    assert lake.append(table, connect().sql("SELECT CAST(9 AS BIGINT) AS n, 'day 9' AS day")) == 4
    assert [lake.read_table(table, version).count() for version in (1, 4)] == [1, 4]


@pytest.mark.usefixtures("exchange")
def test_statistics_in_the_log_keep_exact_numbers() -> None:
    lake.create(TABLE, [lake.Field("amount", "DECIMAL(24,6)"), lake.Field("share", "DOUBLE")])
    lake.append(
        TABLE, connect().sql("SELECT CAST('12345678901.123456' AS DECIMAL(24,6)) AS amount, 0.1 + 0.2D AS share")
    )
    frame = lake.read_table(TABLE)
    assert [str(row["amount"]) for row in frame.collect()] == ["12345678901.123456"]
    assert frame.where("amount = 12345678901.123456").count() == 1
    assert frame.where("share = 0.1 + 0.2D").count() == 1
