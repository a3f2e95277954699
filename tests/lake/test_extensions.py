"""What a package adds by name does its work from the landed bytes to the checked version."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import ExpectationsFailed
from jobs.flow import run_step
from tests.lake.extending import CONNECTOR, FORMAT, RULE, site_in
from tests.lake.trial import Exchange, day


def test_a_source_of_added_connector_format_and_rule_lands_loads_and_is_checked(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_in(tmp_path / "site", monkeypatch)
    site.install("exchange.connectors", "spelled", CONNECTOR)
    site.install("exchange.formats", "fixed_width", FORMAT)
    site.install("exchange.rules", "at_most_times_median", RULE)
    outliers = {"type": "custom", "engine": "exchange", "name": "outliers", "implementation": {
        "type": "at_most_times_median", "times": 3,
    }}  # fmt: skip
    source = exchange.source(
        {"meter": "STRING", "kwh": {"physicalType": "DOUBLE", "quality": [outliers]}}, ["meter"],
        format={"type": "fixed_width", "widths": [3, 4]},
        connector={"type": "spelled", "lines": ["m1  1.5", "m2  2.5", "x"]},
    )  # fmt: skip
    for step in ("land", "bronze", "silver"):
        assert source.step(step).status == "succeeded"
    assert source.rows() == [("m1", 1.5), ("m2", 2.5)]
    assert source.quarantine("rule", "value") == [("format.wrong_length", "wrong_length: 1")]
    assert run_step("check", source.table, day(0), "r").status == "succeeded"

    source.declare(connector={"type": "spelled", "lines": ["m3 99.0"]})
    for step in ("land", "bronze", "silver"):
        assert source.step(step, 1).status == "succeeded"
    with pytest.raises(ExpectationsFailed, match="no kwh above 3 times the median"):
        run_step("check", source.table, day(1), "r")
