"""One cluster for all tests that need one, started as a person starts it, and ended with nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.lake import close
from tests.cluster.running import QUICK, Cluster, Place, skip_without_java


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests that break parts of the cluster come last: one that is started again is slow at first."""
    items.sort(key=lambda item: item.path == Path(__file__).with_name("test_faults.py"))


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


@pytest.fixture
def on_cluster(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Place]:
    """A lake of its own on the cluster, with records of its own in its database."""
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    name = f"test_{abs(hash(request.node.nodeid))}"
    yield Place(monkeypatch, cluster.place(name, tmp_path / "cluster-home"))
    close()


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A home on this machine, with the embedded engine."""
    return Place(monkeypatch, {"EXCHANGE_HOME": str(tmp_path / "home")})
