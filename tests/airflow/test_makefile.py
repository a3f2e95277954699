"""`make` alone tells a newcomer what there is."""

from __future__ import annotations

import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_make_lists_its_targets() -> None:
    # Called from within make, as by `make test`, it would also tell which folder it enters.
    done = subprocess.run(["make", "--no-print-directory"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["help", "run", "up", "test", "bench"]
