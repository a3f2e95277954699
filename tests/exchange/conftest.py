"""What the tests of the registry and of the buyer's door share: an empty exchange and a real server."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exchange.wares import Door, open_door


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An exchange with nothing in it."""
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EXCHANGE_DATABASE_URL", raising=False)
    return tmp_path / "home"


@pytest.fixture
def home_with_registry(home: Path, new_registry: Path) -> Path:
    """An exchange with nothing in it, whose registry need not be migrated."""
    home.mkdir()
    shutil.copyfile(new_registry, home / "registry.db")
    return home


@pytest.fixture
def door(home_with_registry: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Door]:
    """A real server on a port of this machine, with everything it logs kept."""
    caplog.set_level(logging.DEBUG)
    with open_door(home_with_registry.parent) as opened:
        yield opened
