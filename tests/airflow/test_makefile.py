"""`make` alone tells a newcomer what there is, and installs into the environment that is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_make_lists_its_targets() -> None:
    # Called from within make, as by `make test`, it would also tell which folder it enters.
    done = subprocess.run(["make", "--no-print-directory"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["help", "run", "up", "test", "bench"]


def test_the_environment_is_kept_whatever_stands_for_python_on_the_path(tmp_path: Path) -> None:
    for file in ("Makefile", "uv.lock", "pyproject.toml"):
        shutil.copy(CHECKOUT / file, tmp_path)
    (tmp_path / ".venv").mkdir()
    shim = program(tmp_path / "python3.11", f'exec "{sys.executable}" "$@"')
    uv = program(tmp_path / "uv", f'echo "$@" >> {tmp_path}/asked')
    command = ["make", "--silent", ".venv/.installed-run", ".venv/.installed-test", f"PYTHON={shim}", f"UV={uv}"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    asked = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert [f"--python {sys.executable} " in f"{one} " for one in asked] == [True, True]


def program(file: Path, line: str) -> Path:
    file.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    file.chmod(0o755)
    return file
