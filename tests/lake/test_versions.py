"""Every version of a table stays readable, however many follow it."""

from __future__ import annotations

import pytest

from jobs import lake
from jobs.lake import connect

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
