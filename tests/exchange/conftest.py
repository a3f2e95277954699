"""Fixtures of the exchange tests: an empty exchange and a real sharing server."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exchange.wares import Door, open_door


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of an empty exchange; its registry does not exist yet."""
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EXCHANGE_DATABASE_URL", raising=False)
    return tmp_path / "home"


@pytest.fixture
def home_with_registry(home: Path, new_registry: Path) -> Path:
    """The home of an empty exchange with a migrated registry."""
    home.mkdir()
    shutil.copyfile(new_registry, home / "registry.db")
    return home


@pytest.fixture
def door(home_with_registry: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Door]:
    """A real sharing server on a local port; caplog keeps everything it logs."""
    caplog.set_level(logging.DEBUG)
    with open_door(home_with_registry.parent) as opened:
        yield opened
