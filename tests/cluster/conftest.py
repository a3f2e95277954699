"""Fixtures of the cluster tests: one cluster for all, started as a user starts it and stopped without leftovers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.lake import close
from tests.cluster.running import QUICK, Cluster, Place, skip_without_java


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that break parts of the cluster last: restarted parts are slow at first."""
    items.sort(key=lambda item: item.path == Path(__file__).with_name("test_faults.py"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The running cluster that all tests share."""
    skip_without_java()
    shared = Cluster(tmp_path_factory.mktemp("cluster"))
    code, output = shared.run("up", "--workers", "2", "--cores", "1", "--memory", "1g")
    assert code == 0, output
    yield shared
    code, output = shared.run("down")
    assert code == 0, output
    assert shared.left_running() == []


@pytest.fixture
def other_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A second cluster, not started; stopped at the end of the test."""
    skip_without_java()
    other = Cluster(tmp_path / "other")
    yield other
    other.run("down")


@pytest.fixture
def on_cluster(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Place]:
    """An exchange with its own lake in the cluster's store and its own schema in the database."""
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    name = f"test_{abs(hash(request.node.nodeid))}"
    yield Place(monkeypatch, cluster.place(name, tmp_path / "cluster-home"))
    close()


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An exchange with a local home and the embedded engine."""
    return Place(monkeypatch, {"EXCHANGE_HOME": str(tmp_path / "home")})
