"""Lets two processes share the tests: those of one file stay together, and so do all that need one dear thing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# No example fails for want of time: that would be a test of the machine.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


class _Together(LoadScopeScheduling):
    """Keeps tests that share what is dear to start in one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        if file.startswith("tests/lake/") and "[spark" in nodeid:
            # One JVM for all of them: a second one would take both memory and the other processor.
            return "tests/lake on Spark"
        return "tests/cluster" if file.startswith("tests/cluster/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Say how tests are shared out."""
    return _Together(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let every test of the lake run on Spark, too."""
    text = (
        "which tests of the lake run on Spark, too: those `marked` both_engines, or `all` with every case, and what is"
        " marked `long` as well"
    )
    parser.addoption("--spark", choices=("marked", "all"), default="marked", help=text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `--spark` does not ask for; Spark's cases come first, as they keep one process busy longest."""
    items.sort(key=lambda item: not _is_on_spark(item))
    if config.getoption("--spark") == "all":
        return
    seen: set[tuple[str, object]] = set()
    left_out = [
        item for item in items
        if item.get_closest_marker("long") or (_is_on_spark(item) and not _is_chosen(item, seen))
    ]  # fmt: skip
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_chosen(item: pytest.Item, seen: set[tuple[str, object]]) -> bool:
    """Whether a case runs on Spark each time: of a marked test those it names, or the first of each table mode."""
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
    """Give a test one name in all processes: packed bytes hold the second in which they were packed."""
    return "bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def new_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with nothing in it, made once by all migrations; copying it takes the place of migrating."""
    # Alembic and SQLAlchemy are no part of most unit tests.
    from jobs.registry import reading

    home = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXCHANGE_HOME", str(home))
        patch.delenv("EXCHANGE_DATABASE_URL", raising=False)
        with reading():
            pass
    return home / "registry.db"
