"""Distributes tests over two processes: a file stays in one, and so do tests that share an expensive fixture."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# No deadline for an example: it would test the machine.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


class _Together(LoadScopeScheduling):
    """Keeps tests that share something slow to start in one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        if file.startswith("tests/lake/") and "[spark" in nodeid:
            # One JVM for all of them: a second one would take memory and the other core.
            return "tests/lake on Spark"
        return "tests/cluster" if file.startswith("tests/cluster/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Choose how tests are distributed."""
    return _Together(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--spark`."""
    text = (
        "lake tests to run on Spark as well: `marked` runs those marked both_engines; `all` runs every case on both"
        " engines, including tests marked long"
    )
    parser.addoption("--spark", choices=("marked", "all"), default="marked", help=text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what `--spark` does not ask for. Spark cases run first: they keep one process busy longest."""
    items.sort(key=lambda item: not _is_on_spark(item))
    if config.getoption("--spark") == "all":
        return
    seen: set[tuple[str, object]] = set()
    deselected = [
        item for item in items
        if item.get_closest_marker("long") or (_is_on_spark(item) and not _is_chosen(item, seen))
    ]  # fmt: skip
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]


def _is_chosen(item: pytest.Item, seen: set[tuple[str, object]]) -> bool:
    """Whether a Spark case runs by default: those that the test's mark names, or the first of each table mode."""
    mark = item.get_closest_marker("both_engines")
    if mark is None:
        return False
    if cases := mark.kwargs.get("cases"):
        return any(case in item.name for case in cases)
    case = (f"{item.path}::{getattr(item, 'originalname', item.name)}", _parameters(item).get("mode"))
    is_first = case not in seen
    seen.add(case)
    return is_first


def _parameters(item: pytest.Item) -> dict[str, object]:
    call = getattr(item, "callspec", None)
    return dict(call.params) if call else {}


def _is_on_spark(item: pytest.Item) -> bool:
    return _parameters(item).get("engine") == "spark"


def pytest_make_parametrize_id(val: object) -> str | None:
    """Give a test the same id in all processes: compressed bytes contain the time of their compression."""
    return "bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def new_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty registry, migrated once per process; tests copy it instead of migrating again."""
    # Most unit tests need neither Alembic nor SQLAlchemy.
    from jobs.registry import reading

    home = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXCHANGE_HOME", str(home))
        patch.delenv("EXCHANGE_DATABASE_URL", raising=False)
        with reading():
            pass
    return home / "registry.db"
