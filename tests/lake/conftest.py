"""What the tests of the lake share."""

from __future__ import annotations

from pathlib import Path

import pytest
from trial import Exchange


@pytest.fixture
def exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exchange:
    """An exchange with nothing in it, and the process's settings pointed at it."""
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "catalogue"))
    monkeypatch.delenv("EXCHANGE_DATABASE_URL", raising=False)
    monkeypatch.delenv("EXCHANGE_SPARK", raising=False)
    return Exchange(tmp_path / "catalogue")
