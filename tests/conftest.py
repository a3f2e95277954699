"""Distributes tests over two processes: a file stays in one, and so do tests that share an expensive fixture."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# No deadline for an example: it would test the machine.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
# Tests drop whole files, and need not wait until one has not changed for ten seconds.
os.environ.setdefault("EXCHANGE_DROP_QUIET_SECONDS", "0")


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
        "lake tests to run on Spark as well: `modules` runs those whose mark both_engines names modules, so that each"
        " module meets Spark; `marked` adds the others marked both_engines, and tests marked slow; `all` runs every"
        " case on both engines, and tests marked long"
    )
    parser.addoption("--spark", choices=("modules", "marked", "all"), default="modules", help=text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what `--spark` does not ask for. Spark cases run first: they keep one process busy longest."""
    items.sort(key=lambda item: not _is_on_spark(item))
    level = config.getoption("--spark")
    if level == "all":
        return
    seen: set[tuple[str, object]] = set()
    too_long = ("slow", "long") if level == "modules" else ("long",)
    deselected = [
        item for item in items
        if any(map(item.get_closest_marker, too_long))
        or (_is_on_spark(item) and not _is_chosen(item, seen, needs_modules=level == "modules"))
    ]  # fmt: skip
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]


def _is_chosen(item: pytest.Item, seen: set[tuple[str, object]], needs_modules: bool) -> bool:
    """Whether a Spark case runs: one that the test's mark names, or else the first of each table mode.

    Args:
        needs_modules: whether it only runs if the mark names modules.
    """
    mark = item.get_closest_marker("both_engines")
    if mark is None or (needs_modules and len(mark.args) == 1):
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
