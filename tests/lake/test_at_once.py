"""Steps of several sources and products run in threads of one process without mixing their rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jobs import lake
from jobs.flow import StepRun, run_step
from jobs.lake import close
from tests.lake.trial import Source, Trial, accept, balanced, build_product, day, runs, table_rows

COLUMNS = {"meter": "STRING", "read_on": "DATE", "kwh": "INT"}
KEY = ["meter", "read_on"]
Rows = Sequence[tuple[str, str, str]]
# The first file has a copy, a contradiction and a cell of another type; the second changes one of its rows.
FIRST: Rows = [
    ("1", "2026-01-01", "10"), ("1", "2026-01-01", "10"), ("2", "2026-01-01", "much"), ("3", "2026-01-02", "30"),
    ("4", "2026-01-02", "40"), ("4", "2026-01-02", "41"),
]  # fmt: skip
SECOND: Rows = [("1", "2026-01-01", "11"), ("3", "2026-01-02", "30"), ("5", "2026-01-03", "50")]


class Lockstep:
    """Runs two steps in two threads that wait for each other whenever they register a view."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.met: list[str] = []
        self._barrier = threading.Barrier(2)
        show = lake.Workspace.show

        def show_and_wait(work: lake.Workspace, name: str, frame: Any) -> str:
            view = show(work, name, frame)
            self._meet(name)
            return view

        patch.setattr(lake.Workspace, "show", show_and_wait)

    def run(self, *steps: Callable[[], StepRun]) -> list[StepRun]:
        """Run the steps concurrently; one whose partner has ended goes on alone."""
        self._barrier.reset()

        def run_and_leave(step: Callable[[], StepRun]) -> StepRun:
            try:
                return step()
            finally:
                self._barrier.abort()

        with ThreadPoolExecutor(len(steps)) as pool:
            return list(pool.map(run_and_leave, steps))

    def _meet(self, name: str) -> None:
        try:
            self._barrier.wait(timeout=120)
        except threading.BrokenBarrierError:
            return
        self.met.append(name)


def named(source: Source, rows: Rows) -> list[tuple[str, str, str]]:
    """Rows marked with their source."""
    return [(f"{source.name}:{meter}", date, kwh) for meter, date, kwh in rows]


def content(source: Source) -> str:
    """The content of the source's tables, without its name."""
    tables = (source.bronze(), source.rows(), source.quarantine("rule", "column_name", "value", "record"))
    return repr(tables).replace(f"{source.name}:", "")


@pytest.mark.both_engines("temporary views of a session that threads share", "silver.change", cases=("merge",))
@pytest.mark.parametrize("mode", ["append", "merge", "revisions"])
def test_two_sources_run_concurrently(exchange: Trial, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own_query = {"sql": "SELECT bronze.* FROM bronze"} if mode == "merge" else {}
    one, other, alone = (exchange.source(COLUMNS, KEY, mode, partition=["read_on"], **own_query) for _ in range(3))
    for at, rows in enumerate((FIRST, SECOND)):
        alone.take(named(alone, rows), at, "f.csv")
    # Both threads open the session.
    close()
    with monkeypatch.context() as patch:
        lockstep = Lockstep(patch)
        for at, rows in enumerate((FIRST, SECOND)):
            for source in (one, other):
                source.drop(named(source, rows), f"{at}.csv")
            for step in ("land", "bronze", "silver"):
                steps = [lambda s=source: s.step(step, at) for source in (one, other)]  # noqa: B023 - run in this round
                results = lockstep.run(*steps)
                assert [r.status for r in results] == ["succeeded", "succeeded"]
            for source in (one, other):
                source.accept()
    views = {"bronze", "landings", "typed", "good_rows", "shared", "suspects", "verdicts", "batch", "compared"}
    assert views - {"compared"} <= set(lockstep.met), "the steps were never at the same point"
    for source in (one, other):
        assert content(source) == content(alone)
        assert all(f"{source.name}:" in row[0] for row in source.rows())
        assert all(balanced(run) for run in runs(source.name, "silver"))


def test_two_products_run_concurrently(exchange: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same table, one product builds only the changed partition and the other everything."""
    source = exchange.source(COLUMNS, KEY, "merge", partition=["read_on"])
    daily = {"read_on": "DATE", "meters": "BIGINT", "kwh": "BIGINT"}
    query = f"SELECT read_on, count(*) AS meters, sum(kwh) AS kwh FROM silver.{source.name} GROUP BY read_on"
    by_day = exchange.product(daily, ["read_on"], query, partition="read_on")
    whole = exchange.product(daily, ["read_on"], query.replace("sum(kwh)", "max(kwh)"))
    source.take(FIRST, 0)
    for product in (by_day, whole):
        build_product(product)
    source.take([("5", "2026-01-02", "50"), ("6", "2026-01-02", "60")], 1)
    with monkeypatch.context() as patch:
        lockstep = Lockstep(patch)
        results = lockstep.run(*(lambda p=p: run_step("gold", p, day(1), "r") for p in (by_day, whole)))
    assert [r.status for r in results] == ["succeeded", "succeeded"]
    assert lockstep.met == [f"silver__{source.name}"] * 2
    for product in (by_day, whole):
        accept(f"gold.{product}")
    assert [row[1:] for row in table_rows(f"gold.{by_day}")] == [(1, 10), (3, 140)]
    assert [row[1:] for row in table_rows(f"gold.{whole}")] == [(1, 10), (3, 60)]


def test_two_checks_run_concurrently(exchange: Trial) -> None:
    """Great Expectations has one project per process; each check must still see its own table's rows."""
    positive = [{"id": "positive", "type": "sql", "query": "SELECT count(*) FROM ${table} WHERE kwh < 0",
                 "mustBe": 0, "dimension": "conformity", "severity": "warning"}]  # fmt: skip
    good, bad = (exchange.source(COLUMNS, KEY, quality=positive) for _ in range(2))
    for source, kwh in ((good, "1"), (bad, "-1")):
        source.land([(f"m{n}", "2026-01-01", kwh) for n in range(5)])
        source.step("bronze")
        source.step("silver")
    with ThreadPoolExecutor(2) as pool:
        passed, warned = pool.map(lambda s: run_step("check", s.table, day(0), "r"), (good, bad))
    assert (passed.rows, warned.rows) == (5, 5)
    assert "score 100.0" in (passed.message or "")
    assert "score 100.0" not in (warned.message or "")
