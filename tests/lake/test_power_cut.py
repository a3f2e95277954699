"""The machine loses power at any instant: what was never synced is empty, cut or gone, and no table shows it after."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs import lake
from jobs.flow import run_step
from jobs.lake import commits
from jobs.registry import database
from jobs.settings import settings
from tests.lake.trial import Source, Trial, accept, checked_rows, day

COLUMNS = {"meter": "STRING", "read_on": "DATE", "kwh": "INT"}
DAILY = {"read_on": "DATE", "meters": "BIGINT", "kwh": "BIGINT"}
FIRST = [(f"m{n}", f"2026-01-0{d}", str(n)) for n in range(4) for d in (1, 2)]
SECOND = [("m0", "2026-01-02", "50"), ("m1", "2026-01-02", "much"), ("m9", "2026-01-03", "9")]


class PowerCut(BaseException):
    """Ends the step: no error handler catches it."""


def build(source: Source, product: str) -> None:
    for step in ("bronze", "silver"):
        run_step(step, source.name, day(1), "r")
    accept(source.table)
    run_step("gold", product, day(1), "r")
    accept(f"gold.{product}")


def rows(source: Source, product: str) -> tuple[Any, ...]:
    return source.bronze(), source.quarantine(), checked_rows(source.table), checked_rows(f"gold.{product}")


def written_since(before: set[Path]) -> list[Path]:
    return sorted(file for file in settings().lake.rglob("*") if file.is_file() and file not in before)


def cut_off(before: set[Path], synced: set[Path], chance: random.Random) -> int:
    """Do to files that were never synced what a file system may do; returns how many were hit."""
    hit = 0
    for file in written_since(before):
        if file in synced or "_stage" in file.parts or chance.random() < 0.3:
            continue
        hit += 1
        # A name is lost only with the folder that was not synced after it, and later commits go with earlier ones.
        if file.suffix == ".parquet" and chance.random() < 0.3:
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[: chance.choice([0, chance.randrange(file.stat().st_size + 1)])])
    return hit


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
@pytest.mark.parametrize("cuts", [pytest.param(3, id="3"), pytest.param(100, id="100", marks=pytest.mark.long)])
def test_no_table_shows_a_power_cut(exchange: Trial, monkeypatch: pytest.MonkeyPatch, cuts: int) -> None:
    source = exchange.source(COLUMNS, ["meter", "read_on"], partition=["read_on"])
    query = f"SELECT read_on, count(*) AS meters, sum(kwh) AS kwh FROM silver.{source.name} GROUP BY read_on"
    product = exchange.product(DAILY, ["read_on"], query)
    source.land(FIRST)
    build(source, product)
    source.land(SECOND, 1)
    home, began = settings().home, settings().home.parent
    expected: tuple[Any, ...] | None = None
    hits = 0
    for number in range(cuts + 1):
        chance = random.Random(number)
        database.close()
        copy = began / f"home-{number}"
        shutil.copytree(home, copy)
        monkeypatch.setenv("EXCHANGE_HOME", str(copy))
        lake.close()
        lake.drop_cached_logs()
        before = {file for file in settings().lake.rglob("*") if file.is_file()}
        synced: set[Path] = set()
        left = chance.randrange(40) if number else 10_000

        def sync(path: Path, synced: set[Path] = synced) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerCut
            synced.add(path)

        with monkeypatch.context() as patch:
            patch.setattr(commits, "sync", sync)
            try:
                build(source, product)
            except PowerCut:
                lake.close()
                hits += cut_off(before, synced, chance)
        database.close()
        lake.close()
        lake.drop_cached_logs()
        build(source, product)
        found = rows(source, product)
        expected = expected or found
        assert found == expected, f"cut {number}"
        shutil.rmtree(copy)
    assert hits > cuts / 2, "the cuts hit nothing"
    assert os.path.lexists(home)
