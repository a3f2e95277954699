"""`make` lists its targets and installs into the existing environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from jobs.settings import CHECKOUT


def test_make_lists_its_targets() -> None:
    # Under `make test` it would otherwise also print the folder it enters.
    done = subprocess.run(["make", "--no-print-directory"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    targets = [line.split()[1] for line in done.stdout.splitlines()]
    assert targets == ["help", "run", "up", "check", "test", "bench", "torture"]


def test_a_python_shim_on_the_path_does_not_recreate_the_environment(tmp_path: Path) -> None:
    for file in ("Makefile", "uv.lock", "pyproject.toml"):
        shutil.copy(CHECKOUT / file, tmp_path)
    (tmp_path / ".venv").mkdir()
    shim = program(tmp_path / "python3.11", f'exec "{sys.executable}" "$@"')
    uv = program(tmp_path / "uv", f'echo "$@" >> {tmp_path}/calls')
    command = ["make", "--silent", ".venv/.installed-run", ".venv/.installed-test", f"PYTHON={shim}", f"UV={uv}"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert [f"--python {sys.executable} " in f"{call} " for call in calls] == [True, True]


def test_cluster_1_installs_and_uses_the_cluster(tmp_path: Path) -> None:
    for file in ("Makefile", "uv.lock", "pyproject.toml"):
        shutil.copy(CHECKOUT / file, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    uv = program(tmp_path / "uv", f'echo "$@" >> {tmp_path}/calls')
    program(tmp_path / ".venv" / "bin" / "exchange", 'echo "$@ in $EXCHANGE_HOME"')
    command = ["make", "--silent", f"PYTHON={sys.executable}", f"UV={uv}"]
    environment = {name: value for name, value in os.environ.items() if name not in ("EXCHANGE_HOME", "CLUSTER")}

    def make(*words: str) -> list[str]:
        line = [*command, *words]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert make("up")[-1] == "up in "
    assert "--extra cluster" not in (tmp_path / "calls").read_text(encoding="utf-8")
    assert make("up", "CLUSTER=1")[-1] == f"up --cluster in {tmp_path}/.exchange/on-cluster"
    assert "--extra cluster" in (tmp_path / "calls").read_text(encoding="utf-8")
    assert make("run", "CLUSTER=1", "EXCHANGE_HOME=/elsewhere")[-1] == "run --cluster in /elsewhere"


def program(file: Path, line: str) -> Path:
    file.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    file.chmod(0o755)
    return file
