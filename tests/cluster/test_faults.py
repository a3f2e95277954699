"""Any part of the cluster may fail during a step: no row is lost or doubled, and the next run succeeds.

`make torture` kills at any instant.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import delete, text, update

from jobs import flow, lake
from jobs.errors import ConcurrentWrite, ExchangeError, Locked
from jobs.lake import close, guard, lease
from jobs.registry import locks, transaction
from jobs.registry.models import Lease
from jobs.settings import CHECKOUT, settings
from jobs.steps import Step
from tests.cluster.faults import Faults
from tests.cluster.running import Cluster
from tests.lake.trial import Source, Trial, checked_rows, landings, runs, table_rows

# Spark is slow at everything it does for the first time, more so on a busy machine.
pytestmark = pytest.mark.timeout(1800)

COLUMNS = {"meter": "STRING", "read_on": "DATE", "kwh": "INT"}
STEPS = ("land", "bronze", "silver", "check")
# The longest that a step may take to fail, in seconds.
FAILS_WITHIN = 600.0


@pytest.fixture(scope="module")
def faults(cluster: Cluster) -> Iterator[Faults]:
    faults = Faults(cluster).begin()
    yield faults
    faults.end()


@dataclass
class Life:
    """A source with a few new rows each day. Each fault uses the next day, because starting over takes long."""

    source: Source
    days: int = 0

    def drop_next_day(self) -> int:
        """Drop the next day's rows, with a correction, a copy and an invalid row; returns its number."""
        number = self.days
        rows = [(f"m{n}", f"2026-01-{number + 1:02}", str(n)) for n in range(20)]
        corrected = [("m0", f"2026-01-{number:02}", "77")] if number else []
        self.source.drop([*rows, rows[0], *corrected, ("bad", "never", "1")])
        self.days += 1
        return number

    def run_next_day(self) -> None:
        """Drop and load a day without a fault."""
        number = self.drop_next_day()
        assert [self.source.step(step, number).status for step in STEPS] == ["succeeded"] * 4

    def is_whole(self) -> bool:
        """Assert that the tables hold what they would without faults, and that the counts add up."""
        source, days = self.source, self.days
        expected = {(f"m{n}", f"2026-01-{d + 1:02}"): n for d in range(days) for n in range(20)}
        expected |= {("m0", f"2026-01-{d:02}"): 77 for d in range(1, days)}
        rows = [(meter, str(on), kwh) for meter, on, kwh in table_rows(source.table, *COLUMNS)]
        assert sorted(rows) == sorted((*key, kwh) for key, kwh in expected.items())
        assert len(checked_rows(source.table)) == len(rows), "the checked version is the newest"
        assert len(landings(source.name)) == days
        assert sum(x.rows or 0 for x in landings(source.name)) == days * 23 - 1 == lake.rows(f"bronze.{source.name}")
        assert len(source.quarantine()) == days
        assert not [r.step for r in runs(source.name) if r.run_id == "again" and r.status != "succeeded"]
        return True


@pytest.fixture(scope="module")
def shared_life(faults: Faults, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder = tmp_path_factory.mktemp("faults")
    variables = faults.cluster.place("faults", folder / "home") | {"EXCHANGE_CATALOGUE": str(folder / "catalogue")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        life = Life(Trial(folder / "catalogue").source(COLUMNS, ("meter", "read_on"), partition=("read_on",)))
        life.run_next_day()
        yield life
        close()


@pytest.fixture
def life(faults: Faults, shared_life: Life) -> Iterator[Life]:
    """The source on a healthy cluster, which is repaired after the test."""
    yield shared_life
    faults.repair()


def fails(source: Source, step: str, number: int) -> str:
    """Run a step that must fail in time, with a next step in one line; returns the message."""
    began = time.monotonic()
    with pytest.raises(ExchangeError) as failed:
        source.step(step, number)
    assert time.monotonic() - began < FAILS_WITHIN
    assert failed.value.next_step
    assert "\n" not in str(failed.value)
    return str(failed.value)


def head(table: str) -> int:
    version = lake.version(table)
    assert version is not None
    return version


@pytest.mark.long
def test_steps_wait_for_a_slow_refusing_or_absent_store_and_then_fail(faults: Faults, life: Life) -> None:
    source, door, number = life.source, faults.door, life.drop_next_day()
    door.refuse_each, door.delay = 3, 0.01
    assert source.step("land", number).status == "succeeded"
    back = threading.Timer(30, door.open)
    faults.at_first_file(f"bronze.{source.name}", lambda: (door.close(), back.start()))
    assert source.step("bronze", number).status == "succeeded", "a step waits for a store that soon returns"
    assert door.refused > 20
    door.refuse_each, door.delay = 0, 0.0

    door.close()
    message = fails(source, "silver", number)
    assert "the object store does not answer" in message, message
    door.open()
    for step in ("silver", "check"):
        source.step(step, number, "again")
    assert life.is_whole()


@pytest.mark.long  # Clients wait longer after each refusal: four minutes in all.
def test_a_day_succeeds_on_a_slow_and_refusing_store(faults: Faults, life: Life) -> None:
    faults.door.refuse_each, faults.door.delay = 3, 0.01
    life.run_next_day()
    assert faults.door.refused > 100
    faults.repair()
    assert life.is_whole()


@pytest.mark.long  # Every attempt of a task waits for the store before the engine gives up: four minutes in all.
def test_a_store_lost_during_a_step_fails_it(faults: Faults, life: Life) -> None:
    source, number = life.source, life.drop_next_day()
    for step in ("land", "bronze"):
        source.step(step, number)
    faults.at_first_file(source.table, faults.door.close)
    message = fails(source, "silver", number)
    assert "the object store does not answer" in message, message
    faults.door.open()
    for step in ("silver", "check"):
        source.step(step, number, "again")
    assert life.is_whole()


@pytest.mark.parametrize(
    ("layer", "worker"), [pytest.param("bronze", "worker-1", marks=pytest.mark.long), ("silver", "worker-2")]
)
def test_a_step_succeeds_though_a_worker_is_killed(faults: Faults, life: Life, layer: str, worker: str) -> None:
    source, number = life.source, life.drop_next_day()
    source.step("land", number)
    faults.at_first_file(f"{layer}.{source.name}", lambda: faults.kill(worker))
    for step in ("bronze", "silver", "check"):
        assert source.step(step, number, "again").status == "succeeded", "the other worker takes over"
    assert life.is_whole()


@pytest.mark.long
def test_steps_survive_a_database_restarted_between_and_during_them(faults: Faults, life: Life) -> None:
    source, number = life.source, life.drop_next_day()
    source.step("land", number)
    faults.kill("database", signal.SIGINT)
    faults.up()
    assert source.step("bronze", number).status == "succeeded"

    faults.at_commit(source.table, head(source.table) + 1, lambda: faults.kill("database", signal.SIGINT))
    for _ in ("in the middle of a step", "from its beginning"):
        message = fails(source, "silver", number)
        assert "registry cannot be used" in message or "the lock of" in message, message
    faults.up()
    for step in ("silver", "check"):
        source.step(step, number, "again")
    assert life.is_whole()


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(False, marks=pytest.mark.long, id="before"),
        pytest.param(True, marks=pytest.mark.slow, id="after"),
    ],
)
def test_killing_the_connect_server_during_a_commit_loses_no_row(faults: Faults, life: Life, after: bool) -> None:
    source, number = life.source, life.drop_next_day()
    for step in ("land", "bronze"):
        source.step(step, number)
    before, version = checked_rows(source.table), head(source.table)
    faults.at_commit(source.table, version + 1, lambda: faults.kill("connect"), after=after)
    message = fails(source, "silver", number)
    assert "the engine went away" in message, message
    assert "no engine answers" in fails(source, "silver", number)
    assert head(source.table) == version + after
    faults.up()
    assert checked_rows(source.table) == before
    for step in ("silver", "check"):
        source.step(step, number, "again")
    assert life.is_whole()


@pytest.mark.long
def test_a_full_disk_on_a_worker_is_reported(faults: Faults, life: Life) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: a full disk on a worker: only root can mount a small disk")
    source = life.source.exchange.source(COLUMNS, ("meter", "read_on"), partition=("read_on",))
    source.drop([(f"{n:064x}", f"2026-02-0{1 + n % 9}", str(n)) for n in range(40_000)])
    work = faults.cluster.folder / "work" / "worker-1"
    faults.kill("worker-1")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(work)], check=True)
    try:
        faults.up()
        for step in ("land", "bronze"):
            source.step(step)
        filler = work / "filler"
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        # The other worker may do all of it.
        try:
            source.step("silver")
        except ExchangeError as error:
            assert "the disk is full, on one of the machines that work for the engine" in str(error), error
        filler.unlink()
        log = (faults.cluster.folder / "logs" / "connect.log").read_text(encoding="utf-8")
        signs = ("No space left on device", "Could not find any valid local directory")
        assert any(sign in log for sign in signs), "the worker ran into its full disk"
        for step in ("silver", "check"):
            source.step(step, 0, "again")
        assert len(checked_rows(source.table)) == 40_000
    finally:
        faults.kill("worker-1")
        subprocess.run(["umount", "-l", str(work)], check=True)


@pytest.mark.long
def test_two_homes_cannot_build_a_table_at_the_same_time(life: Life, tmp_path: Path) -> None:
    source, number = life.source, life.drop_next_day()
    (tmp_path / "drop").symlink_to(settings().drop)
    program = """
import sys
from jobs.errors import ExchangeError
from jobs.flow import run_step
from tests.lake.trial import day
for step in ("land", "bronze"):
    try:
        print(run_step(step, sys.argv[1], day(int(sys.argv[2])), "r").status)
    except ExchangeError as error:
        print(error)
"""

    def other() -> list[str]:
        ended = subprocess.run(
            [sys.executable, "-c", program, source.name, str(number)], cwd=CHECKOUT, capture_output=True, text=True,
            env=dict(os.environ) | {"EXCHANGE_HOME": str(tmp_path)}, timeout=300, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    with locks.hold(f"source.{source.name}"):
        refused = other()
        assert all(f"'source.{source.name}' is locked by process {os.getpid()} on" in x for x in refused)
        with transaction() as db:
            db.execute(text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"))
        with pytest.raises(Locked, match=r"the lock of .* was lost"):
            lake.delete(source.table, "true")
    with ThreadPoolExecutor() as pool:
        theirs = pool.submit(other)
        for step in ("land", "bronze"):
            with suppress(Locked):
                source.step(step, number)
        assert len(theirs.result()) == 2
    for step in STEPS:
        source.step(step, number)
    assert life.is_whole()


@pytest.mark.usefixtures("life")
def test_a_lock_is_free_as_soon_as_its_holder_releases_it_or_is_killed() -> None:
    def hold_and_let_go() -> None:
        with locks.hold("let go"):
            pass

    for _ in range(100):
        hold_and_let_go()
    program = (
        "import time; from jobs.registry import locks\n"
        "with locks.hold('killed'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    with locks.hold("killed"):
        assert holder.poll() is not None


@pytest.mark.long
def test_another_writer_s_commit_during_a_step_is_detected(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, number = life.source, life.drop_next_day()
    for step in ("land", "bronze"):
        source.step(step, number)
    # Rows of other keys than the batch's: the step commits on top of them before it detects them.
    source.commit_during_next_step("meter = 'm1'", monkeypatch)
    version = head(source.table)
    assert source.step("silver", number).status == "succeeded"
    assert head(source.table) > version + 2, "the other commit, ours on top, and a rollback before the retry"
    source.step("check", number)
    assert life.is_whole()


def test_a_step_overtaken_at_every_attempt_fails(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def overtaken(step: Step, *_: object) -> None:
        done.append(step.name)
        raise ConcurrentWrite("a table was written by somebody else", next_step="see who else writes it")

    monkeypatch.setattr(flow, "_run", overtaken)
    assert "written by somebody else" in fails(life.source, "silver", 0)
    assert done == ["silver"] * guard.ATTEMPTS


def test_a_paused_writer_that_lost_its_lease_makes_no_commit(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    table = life.source.table
    version = head(table)
    with lease.hold():
        with transaction() as db:
            db.execute(update(Lease).values(writer="another server"))
        slept = lease._now() + lease.SECONDS
        monkeypatch.setattr(lease, "_now", lambda: slept)
        with pytest.raises(Locked, match="another server writes this lake"):
            lake.delete(table, "true")
        assert head(table) == version
        with transaction() as db:
            db.execute(delete(Lease))
