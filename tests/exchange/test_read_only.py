"""A home that cannot be written (a backup, a snapshot, another user's) can be listed, queried and verified."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.check import evidence
from jobs.settings import CHECKOUT
from tests.exchange.checked import PRODUCT, Desk, meters

READING = (
    "products", f"quality gold.{PRODUCT}", "runs", "sources", "releases", f"verify {PRODUCT}", "doctor", "grants",
    f"sql 'SELECT count(*) AS n FROM gold.{PRODUCT}' --json", f"sql 'SELECT meter FROM release.{PRODUCT}' --csv",
    "sql 'SELECT count(*) FROM ops.runs' --json", f"sql 'DESCRIBE gold.{PRODUCT}' --json", "sql 'SHOW TABLES' --json",
)  # fmt: skip
WRITING = (f"grant {PRODUCT} --to acme --days 1", f"recall {PRODUCT}@1.0.0 --reason wrong", "land meters")
RUN = """
import contextlib, io, json, shlex, sys
from jobs.cli.program import run
told = {}
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = run(shlex.split(command))
    told[command] = [code, out.getvalue(), err.getvalue()]
print(json.dumps(told))
"""
READ = """
import sqlite3, sys
from pathlib import Path
from jobs.registry.read_only import connect, is_read_only
for file in map(Path, sys.argv[1:]):
    assert is_read_only(file)
    connection = connect(file)
    print(*connection.execute("SELECT grade FROM releases").fetchone())
    try:
        connection.execute("DELETE FROM releases")
    except sqlite3.OperationalError:
        print("refused")
"""
UNSHARE = ("unshare", "--mount", "--map-root-user")
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


def _run(home: Path, catalogue: Path, commands: tuple[str, ...]) -> dict[str, tuple[int, str, str]]:
    """Run commands where the home is on a file system that is read-only."""
    program = [sys.executable, "-c", RUN, json.dumps(commands)]
    environment = os.environ | {"EXCHANGE_HOME": str(home), "EXCHANGE_CATALOGUE": str(catalogue)}
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", READ_ONLY, str(home), *program],
        env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, tuple[int, str, str]] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a release, as a power cut leaves it: the newest records are in the write-ahead log only."""
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"]).returncode:
        pytest.skip("this user may not mount anything, so no file system can be made read-only")
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "made"))
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "catalogue"))
    monkeypatch.delenv("EXCHANGE_DATABASE_URL", raising=False)
    # As a check writes it, so that it can be shown.
    keep, rule = evidence.keep, {"id": "r", "dimension": "validity", "severity": "error", "success": True}
    rule |= {"unexpected": 0, "by_row": True}
    monkeypatch.setattr(evidence, "keep", lambda document: keep(document | {"rows": 2, "rules": [rule]}))
    desk = Desk(tmp_path / "catalogue")
    desk.declare()
    desk.land("a,1,1\n")
    desk.ship(meters(("a", 1, 1.0), ("b", 1, 2.0)))
    copied = tmp_path / "home"
    shutil.copytree(tmp_path / "made", copied, ignore=shutil.ignore_patterns("*-shm"))
    assert (copied / "registry.db-wal").stat().st_size
    return copied


def test_a_read_only_home_can_be_read(home: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    told = _run(home, tmp_path / "catalogue", (*READING, *WRITING))
    for command in READING:
        code, _, err = told[command]
        assert code == 0, f"{command}: {told[command]}"
        assert "Traceback" not in err
    assert "1.0.0" in told["products"][1] and "1.0.0" in told["releases"][1]
    assert json.loads(told[f"sql 'SELECT count(*) AS n FROM gold.{PRODUCT}' --json"][1]) == [{"n": 2}]
    meanings = [(c["col_name"], c["comment"]) for c in json.loads(told[f"sql 'DESCRIBE gold.{PRODUCT}' --json"][1])]
    assert meanings == [("meter", "the meter"), ("day", "the day"), ("kwh", "the kwh")]
    # What it found is cut where paths are long; what to do is not.
    assert "nothing, if you only want to read" in told["doctor"][1] and "failed" not in told["doctor"][1]
    for command in WRITING:
        code, _, err = told[command]
        assert code in (1, 2) and "read-only" in err.lower(), f"{command}: {told[command]}"
    assert before == {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}


def test_the_registry_of_a_read_only_home_lacks_nothing(home: Path, tmp_path: Path) -> None:
    """With a log and without, and beside a process that has it open: every record is read, and none can be written."""
    folder = tmp_path / "registries"
    for name in ("torn", "whole", "open"):
        (folder / name).mkdir(parents=True)
        for file in home.glob("registry.db*"):
            shutil.copy(file, folder / name)
    connection = sqlite3.connect(folder / "whole" / "registry.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    assert not (folder / "whole" / "registry.db-wal").exists()
    held = sqlite3.connect(folder / "open" / "registry.db")
    held.execute("UPDATE releases SET grade = 'B'")
    held.commit()
    program = [sys.executable, "-c", READ, *(str(folder / name / "registry.db") for name in ("torn", "whole", "open"))]
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", READ_ONLY, str(folder), *program],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    held.close()
    assert done.stdout.split() == ["A", "refused", "A", "refused", "B", "refused"], done.stderr
