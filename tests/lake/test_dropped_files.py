"""A landed file that staff drop leaves every table with the next run, is never read again, and stays on record."""

from __future__ import annotations

import json

import pytest

from jobs.cli.program import run
from jobs.settings import settings
from tests.lake.trial import Trial, landings

COLUMNS = {"meter": "STRING", "read_on": "DATE", "kwh": "INT"}
GOOD = [("m1", "2026-01-01", "1"), ("m2", "2026-01-01", "2")]
BAD = [("m1", "2026-01-01", "100"), ("m3", "2026-01-02", "much"), ("m4", "2026-01-02", "4")]


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
@pytest.mark.parametrize("mode", ["append", "merge", "revisions"])
def test_a_dropped_file_leaves_every_table(exchange: Trial, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = exchange.source(COLUMNS, ["meter", "read_on"], mode)
    source.take(GOOD, 0)
    assert run(("landing", "drop", landings(source.name)[0].sha256, "--reason", "x")) == 2
    assert "only file" in capsys.readouterr().err
    before = source.rows(), source.bronze(), source.quarantine()
    source.take(BAD, 1)
    assert len(source.quarantine()) >= 1
    bad = landings(source.name)[1]
    assert run(("landing", "drop", bad.sha256[:10], "--reason", "another city's meters", "--by", "ann")) == 0
    assert source.step("bronze", 2).message is not None and "rows of 1 dropped file" in source.last("bronze").message
    assert source.step("silver", 2).status == "succeeded"
    source.accept()
    assert (source.rows(), source.bronze(), source.quarantine()) == before
    # It is on record, its bytes are kept, and it does not come back when the publisher offers it again.
    assert (settings().store / bad.path).exists()
    source.land(BAD, 3)
    assert [source.step(step, 3).status for step in ("bronze", "silver")] == ["unchanged"] * 2
    capsys.readouterr()
    assert run(("landing", "files", source.name, "--json")) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [f["drop_reason"] for f in listed] == [None, *["another city's meters"] * 2]
    assert run(("landing", "drop", bad.sha256, "--reason", "again")) == 2
    source.take([("m9", "2026-01-03", "9")], 4)
    assert len(source.rows()) == len(before[0]) + 1
