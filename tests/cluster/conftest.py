"""One cluster for all tests that need one, started as a person starts it, and ended with nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Cluster, skip_without_java


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that is up."""
    skip_without_java()
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    code, said = made.run("up", "--workers", "2", "--cores", "1", "--memory", "1g")
    assert code == 0, said
    yield made
    code, said = made.run("down")
    assert code == 0, said
    assert made.left_running() == []


@pytest.fixture
def other_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One that is not up, and that is taken down at the end of the test."""
    skip_without_java()
    made = Cluster(tmp_path / "other")
    yield made
    made.run("down")
