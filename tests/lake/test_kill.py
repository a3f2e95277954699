"""A process killed in any step, at named points or at any instant: after a rerun, no table shows it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs import lake
from jobs.flow import run_step
from jobs.lake.pointers import pointer
from tests.lake.killed import Undertaker
from tests.lake.trial import Source, Trial, accept, checked_rows, day, landings, runs, table_rows

COLUMNS = {"meter": "STRING", "read_on": "DATE", "kwh": "INT"}
DAILY = {"read_on": "DATE", "meters": "BIGINT", "kwh": "BIGINT"}
FIRST = [(f"m{n}", f"2026-01-0{d}", str(n)) for n in range(4) for d in (1, 2)]
SECOND = [
    ("m0", "2026-01-02", "50"),
    ("m1", "2026-01-02", "much"),
    ("m9", "2026-01-03", "9"),
    ("m9", "2026-01-03", "9"),
]
BROKEN = b"meter,read_on,kwh\nm5,2026-01-01,5"


@dataclass
class Scene:
    """An exchange with one source and one product; its second day is dropped but not landed."""

    home: Path
    catalogue: Path
    source: Source
    product: str

    def copy(self, to: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
        """Copy the exchange to another folder and point this process's settings to it."""
        shutil.copytree(self.home, to)
        monkeypatch.setenv("EXCHANGE_HOME", str(to))
        monkeypatch.setenv("EXCHANGE_CATALOGUE", str(self.catalogue))
        return Scene(to, self.catalogue, self.source, self.product)

    def steps(self, *names: str) -> list[tuple[str, str, int]]:
        """Orders to run steps for the second day."""
        gold = ("gold",)
        return [(n, self.product if n in gold else self.source.name, 1) for n in names]

    def finish(self) -> None:
        """Run all steps of the second day again, as a scheduler unaware of the kill does."""
        for step in ("land", "bronze", "silver"):
            run_step(step, self.source.name, day(1), "again")
        self._accept(self.source.table)
        run_step("gold", self.product, day(1), "again")
        self._accept(f"gold.{self.product}")

    def _accept(self, table: str) -> None:
        current = pointer(table)
        if current is None or lake.version(table) != current.head_version:
            accept(table)

    def state(self) -> dict[str, Any]:
        """Everything that must not depend on the kill; asserts that the checked versions are the newest."""
        name = self.source.name
        for table in (f"silver.{name}", f"gold.{self.product}"):
            assert checked_rows(table) == table_rows(table)
        return {
            "landings": sorted((x.sha256, x.logical_date, x.rows, x.rows_refused, x.fault) for x in landings(name)),
            "files": sorted(
                p.name for p in (self.home / "landing" / name).rglob("*") if p.is_file() and p.suffix != ".part"
            ),
            "bronze": table_rows(f"bronze.{name}"),
            "silver": table_rows(f"silver.{name}"),
            "quarantine": table_rows(f"quarantine.{name}"),
            "gold": table_rows(f"gold.{self.product}"),
            "still running": [r.step for r in runs(name) if r.run_id == "again" and r.status == "running"],
        }


@pytest.fixture(scope="module")
def undertaker() -> Iterator[Undertaker]:
    started = Undertaker.begin()
    yield started
    started.end()


@pytest.fixture
def scene(engine: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The scene of a table mode, made once per engine; tests work on copies."""
    kind = (engine, request.param)
    if kind not in _scenes:
        _scenes[kind] = _make_scene(request.param, tmp_path_factory.mktemp("scene"))
    return _scenes[kind]


_scenes: dict[tuple[str, str], Scene] = {}


def _make_scene(mode: str, root: Path) -> Scene:
    patch = pytest.MonkeyPatch()
    patch.setenv("EXCHANGE_HOME", str(root / "home"))
    patch.setenv("EXCHANGE_CATALOGUE", str(root / "catalogue"))
    exchange = Trial(root / "catalogue")
    # The second day's file lacks most of the first day's list.
    silver = {"largest_loss": 1} if mode == "snapshot" else {}
    source = exchange.source(COLUMNS, ["meter", "read_on"], mode, partition=["read_on"], silver=silver)
    query = f"SELECT read_on, count(*) AS meters, sum(kwh) AS kwh FROM silver.{source.name} GROUP BY read_on"
    product = exchange.product(DAILY, ["read_on"], query, partition="read_on")
    scene = Scene(root / "home", root / "catalogue", source, product)
    source.take(FIRST, 0, "first.csv")
    run_step("gold", product, day(0), "r")
    accept(f"gold.{product}")
    source.drop(SECOND, "second.csv")
    import gzip

    source.drop(gzip.compress(BROKEN)[:-4], "cut.csv.gz")
    patch.undo()
    return scene


@pytest.fixture
def expected(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The state of an undisturbed exchange."""
    state = _undisturbed.get(scene.home)
    if state is None:
        calm = scene.copy(tmp_path / "calm", monkeypatch)
        calm.finish()
        state = _undisturbed[scene.home] = calm.state()
        assert len(state["silver"]) == (9 if scene.source.mode == "merge" else 10)
        assert len(state["quarantine"]) == 2
    return state


_undisturbed: dict[Path, dict[str, Any]] = {}

POINTS = [
    ("land", "jobs.land.landed:_Draft.keep_as", 1, True),
    ("land", "jobs.land.landed:Received.keep", 1, True),
    ("land", "jobs.land.step:_arrived", 2, True),
    ("bronze", "jobs.lake:overwrite", 1, False),
    ("bronze", "jobs.lake:overwrite", 1, True),
    ("bronze", "jobs.lake:delete", 1, True),
    ("bronze", "jobs.bronze.step:_record_loaded", 1, True),
    ("silver", "jobs.silver.step:_quarantine", 1, True),
    ("silver", "jobs.silver.step:write", 1, True),
    ("silver", "jobs.registry.runs:_end", 3, False),
    ("silver", "jobs.registry.runs:_end", 3, True),
    ("gold", "jobs.lake:overwrite", 3, True),
    ("gold", "jobs.registry.runs:_end", 4, False),
]


CASES = [("merge", p) for p in POINTS] + [("revisions", p) for p in POINTS if p[0] == "silver"]
CASES += [("snapshot", p) for p in POINTS if p[1] == "jobs.silver.step:write"]
NAMES = [f"{mode}-{p[0]}-{p[1].split(':')[1]}-{'after' if p[3] else 'before'}" for mode, p in CASES]


@pytest.mark.both_engines(
    "a server that goes on after its client died",
    cases=("merge-bronze-overwrite-after", "merge-silver-write-after", "merge-gold-overwrite-after"),
)
@pytest.mark.parametrize(("scene", "point"), CASES, ids=NAMES, indirect=["scene"])
def test_a_kill_at_any_named_point_leaves_no_trace(
    scene: Scene, expected: dict[str, Any], undertaker: Undertaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    point: tuple[str, str, int, bool],
) -> None:  # fmt: skip
    step, function, nth, after = point
    killed = scene.copy(tmp_path / "killed", monkeypatch)
    orders = killed.steps("land", "bronze", "silver")
    if step == "gold":
        orders += [("accept", killed.source.table, 1), *killed.steps("gold")]
    ended = undertaker.run(killed.home, killed.catalogue, orders, at=function, nth=nth, after=after)
    assert ended["signal"] == 9, ended
    assert len(ended["statuses"]) == ("land", "bronze", "silver", "gold").index(step), "it died in another step"
    killed.finish()
    assert killed.state() == expected


@pytest.mark.parametrize("scene", ["merge", "revisions"], indirect=True)
def test_a_kill_at_any_instant_leaves_no_trace(
    scene: Scene, expected: dict[str, Any], undertaker: Undertaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = scene.copy(tmp_path / "killed", monkeypatch)
    chance = random.Random(scene.source.mode)
    died, longest = [], 1.5
    for _ in range(5):
        orders = killed.steps("land", "bronze", "silver", "silver")
        ended = undertaker.run(killed.home, killed.catalogue, orders, seconds=chance.uniform(0.1, longest))
        died.append((ended["signal"], len(ended["statuses"])))
        # A process that survived was faster than assumed on this machine.
        longest = longest if ended["signal"] else longest / 2
    assert any(signal for signal, _ in died), died
    killed.finish()
    assert killed.state() == expected


@pytest.mark.parametrize("scene", ["revisions"], indirect=True)
def test_a_kill_while_a_table_is_replaced_keeps_the_checked_rows(
    scene: Scene, undertaker: Undertaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = scene.copy(tmp_path / "calm", monkeypatch)
    calm.finish()
    changed = Path(shutil.copytree(scene.catalogue, tmp_path / "catalogue"))
    changes = {"columns": {**COLUMNS, "kwh": "BIGINT"}, "format": {"delimiter": None, "null_values": ["", "much"]}}
    source = Source(
        Trial(changed), scene.source.name, scene.source.published, scene.source.mode, scene.source.key,
        {**scene.source.settings, **changes},
    )
    source.exchange.write_source(source)
    killed = scene.copy(tmp_path / "killed", monkeypatch)
    killed.finish()
    before = checked_rows(killed.source.table)
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(changed))
    for step, function in (
        ("bronze", "jobs.lake:replace"),
        ("bronze", "jobs.bronze.step:_load"),
        ("silver", "jobs.lake:replace"),
    ):
        ended = undertaker.run(killed.home, changed, killed.steps("land", "bronze", "silver"), at=function)
        assert (ended["signal"], len(ended["statuses"])) == (9, 1 if step == "bronze" else 2)
        assert checked_rows(killed.source.table) == before, "readers keep the checked rows"
    killed.finish()
    assert lake.columns_at(killed.source.table)["kwh"] == "long"
    disturbed = killed.state()
    monkeypatch.setenv("EXCHANGE_HOME", str(calm.home))
    calm.finish()
    assert disturbed == calm.state()


@pytest.fixture
def built(
    scene: Scene, expected: dict[str, Any], undertaker: Undertaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Scene:
    """The exchange with an unchecked version of the second day."""
    del expected  # Computed first, as it points the settings to another copy.
    copy = scene.copy(tmp_path / "built", monkeypatch)
    undertaker.run(copy.home, copy.catalogue, copy.steps("land", "bronze", "silver"))
    return copy


@pytest.mark.parametrize("scene", ["merge"], indirect=True)
def test_a_kill_while_a_bad_version_is_rolled_back_leaves_no_trace(
    built: Scene, expected: dict[str, Any], undertaker: Undertaker
) -> None:
    for function in ("jobs.lake.tables:restore", "jobs.lake.pointers:take_back", "jobs.silver.step:begin"):
        ended = undertaker.run(built.home, built.catalogue, built.steps("silver"), at=function)
        assert ended["signal"] == 9
    built.finish()
    assert built.state() == expected


@pytest.mark.parametrize("scene", ["merge"], indirect=True)
def test_a_check_killed_while_deciding_is_completed_by_the_next(built: Scene, undertaker: Undertaker) -> None:
    unchecked, table = lake.version(built.source.table), built.source.table
    for function, after in (("jobs.check.evaluate:evaluate", True), ("jobs.check.step:move", False)):
        ended = undertaker.run(built.home, built.catalogue, [("check", table, 1)], at=function, after=after)
        assert ended["signal"] == 9
        current = pointer(table)
        assert current and current.delta_version != unchecked
    ended = undertaker.run(built.home, built.catalogue, [("check", table, 1)], at="jobs.check.step:move")
    assert ended["signal"] == 9
    current = pointer(table)
    assert current and current.delta_version == unchecked
    again = [run_step("check", table, day(1), f"again-{number}").status for number in range(2)]
    assert again == ["succeeded", "unchanged"], "dependants of the checked version are triggered exactly once"
    assert lake.version(table) == unchecked
