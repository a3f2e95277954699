"""Extensions of an installed package work from landed bytes to the checked version."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import ExpectationsFailed
from jobs.flow import run_step
from tests.lake.extending import CONNECTOR, FORMAT, RULE, STEP, site_in
from tests.lake.trial import Trial, day, run_steps, runs


@pytest.mark.both_engines("a package's format in the engine's Python workers")
def test_a_source_runs_on_an_installed_connector_format_rule_and_step(
    exchange: Trial, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_in(packages, monkeypatch)
    for group, name, module in (
        ("exchange.connectors", "spelled", CONNECTOR), ("exchange.formats", "fixed_width", FORMAT),
        ("exchange.rules", "at_most_times_median", RULE), ("exchange.steps", "tally", STEP),
    ):  # fmt: skip
        assert len(site.install(group, name, module)) <= 2
    outliers = {"type": "custom", "engine": "exchange", "name": "outliers", "implementation": {
        "type": "at_most_times_median", "times": 3,
    }}  # fmt: skip
    source = exchange.source(
        {"meter": "STRING", "kwh": {"physicalType": "DOUBLE", "quality": [outliers]}}, ["meter"],
        format={"type": "fixed_width", "widths": [3, 4]},
        connector={"type": "spelled", "lines": ["m1  1.5", "m2  2.5", "x"]},
    )  # fmt: skip
    results = run_steps(source.name, day(0), "r")
    assert [(run.step, run.status) for run in results] == [
        (step, "succeeded") for step in ("land", "bronze", "silver", "check", "tally")
    ]
    assert (results[-1].rows, results[-1].message) == (2, "2 rows on 2026-01-01")
    assert [(run.status, run.rows_in) for run in runs(source.name, "tally")] == [("succeeded", 2)]
    assert source.rows() == [("m1", 1.5), ("m2", 2.5)]
    assert source.quarantine("rule", "value") == [("format.wrong_length", "wrong_length: 1")]

    source.declare(connector={"type": "spelled", "lines": ["m3 99.0"]})
    for step in ("land", "bronze", "silver"):
        assert source.step(step, 1).status == "succeeded"
    with pytest.raises(ExpectationsFailed, match="no kwh above 3 times the median"):
        run_step("check", source.table, day(1), "r")
