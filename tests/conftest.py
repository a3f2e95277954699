"""Lets two processes share the tests: those of one file stay together, and so do all that need one dear thing."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Of the tests of the lake, those of these files run on Spark each time: there a step takes a second or two of processor
# time, most of it whatever the number of rows. `--spark each` runs the others, too, and `--spark all` all their cases.
_ALSO_ON_SPARK = ("gold", "landing_to_silver", "spark")

# No example fails for want of time: that would be a test of the machine.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


class _Together(LoadScopeScheduling):
    """Keeps tests that share what is dear to start in one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        if file.startswith("tests/lake/") and "[spark" in nodeid:
            return f"{file} on Spark"
        # One cluster for all but the tests that break it, which take as long as all the others.
        is_sharing = file.startswith("tests/cluster/") and file != "tests/cluster/test_faults.py"
        return "tests/cluster" if is_sharing else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Say how tests are shared out."""
    return _Together(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let more tests of the lake be run on Spark."""
    told = (
        "which tests of the lake run on Spark, too: the main ones or each, with the first of its cases for each mode of"
        " a table; or all with all cases, and those that wait for minutes as well"
    )
    parser.addoption("--spark", choices=("some", "each", "all"), default="some", help=told)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `--spark` does not ask for; of what is left, Spark's come last."""
    items.sort(key=_is_on_spark)
    level = config.getoption("--spark")
    if level == "all":
        return
    seen: set[tuple[str, object]] = set()
    left = [
        item for item in items
        if item.get_closest_marker("long") or (_is_on_spark(item) and not _is_in_short_form(item, level, seen))
    ]  # fmt: skip
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


def _is_in_short_form(item: pytest.Item, level: str, seen: set[tuple[str, object]]) -> bool:
    function = f"{item.path}::{getattr(item, 'originalname', item.name)}"
    case = (function, _parameters(item).get("mode"))
    is_first = case not in seen
    seen.add(case)
    return is_first and (level == "each" or item.path.stem.removeprefix("test_") in _ALSO_ON_SPARK)


def _parameters(item: pytest.Item) -> dict[str, object]:
    call = getattr(item, "callspec", None)
    return dict(call.params) if call else {}


def _is_on_spark(item: pytest.Item) -> bool:
    return _parameters(item).get("engine") == "spark"


def pytest_make_parametrize_id(val: object) -> str | None:
    """Give a test one name in all processes: packed bytes hold the second in which they were packed."""
    return "bytes" if isinstance(val, bytes) else None
