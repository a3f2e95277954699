"""The session: opened once, opened again after it was closed, and always the one that pyspark calls active."""

from __future__ import annotations

import pytest
from pyspark.sql.connect.session import SparkSession

from jobs import spark


@pytest.mark.usefixtures("exchange")
def test_the_session_is_active_even_after_another_broke_off() -> None:
    first = spark.connect()
    assert spark.connect() is first
    other = SparkSession.builder.remote(f"sc://{first.client.host}").create()
    SparkSession._default_session = SparkSession._active_session.session = other
    other.client.close()
    assert spark.connect() is first
    assert SparkSession.active() is first
    spark.close()
    second = spark.connect()
    assert second is not first
    assert SparkSession.active() is second
    assert second.sql("SELECT 1 AS one").collect()[0]["one"] == 1
