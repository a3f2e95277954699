"""Finds real publishers' files for tests, wherever this machine keeps them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_DATA = Path(os.environ.get("EXCHANGE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def publisher_file(pattern: str) -> Path:
    """The first file or folder whose path matches; skips the test, and says so, on a machine that has none."""
    files = sorted(_DATA.glob(pattern))
    if not files:
        pytest.skip(f"the publishers' files are absent: {_DATA / pattern}")
    return files[0]
