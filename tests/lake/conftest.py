"""What the tests of the lake share: an exchange with nothing in it, on each engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from spark_server import served, skip_without_java
from trial import Exchange

from jobs.lake.engine import close


@pytest.fixture(scope="session")
def spark_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the one Spark Connect server of this process."""
    skip_without_java()
    with served(tmp_path_factory.mktemp("spark")) as address:
        yield address
        close()


@pytest.fixture(params=["embedded", "spark"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engine that this process works on, by its setting."""
    address = "embedded" if request.param == "embedded" else str(request.getfixturevalue("spark_server"))
    monkeypatch.setenv("EXCHANGE_SPARK", address)
    return str(request.param)


@pytest.fixture
def exchange(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exchange:
    """An exchange with nothing in it, and the process's settings pointed at it."""
    del engine  # It is where the settings point by now.
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "catalogue"))
    monkeypatch.delenv("EXCHANGE_DATABASE_URL", raising=False)
    monkeypatch.delenv("EXCHANGE_LAKE", raising=False)
    return Exchange(tmp_path / "catalogue")
