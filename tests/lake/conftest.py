"""Fixtures of the lake tests: an empty exchange on each engine.

A test runs on the embedded engine. `@pytest.mark.both_engines(reason, *modules, cases=…)` runs it on Spark as well:

- reason: what the engines might do differently, in a few words;
- modules: the modules of `jobs` that the Spark case covers, e.g. ``lake.tables``. A case that never calls a function of
  a named module fails, so `tests/unit/test_marks.py` can trust these labels;
- cases: parts of the ids of the cases to run on Spark; by default the first of each table mode.
"""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from jobs.lake import close
from jobs.settings import CHECKOUT
from tests.lake.spark_server import packages_of, served, skip_without_java
from tests.lake.trial import Trial


@pytest.fixture(scope="session")
def spark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that this process's Spark Connect server writes but tables."""
    return tmp_path_factory.mktemp("spark")


@pytest.fixture(scope="session")
def spark_server(spark_folder: Path) -> Iterator[str]:
    """Address of this process's only Spark Connect server."""
    skip_without_java()
    with served(spark_folder) as address:
        yield address
        close()


@pytest.fixture(params=["embedded", "spark"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The engine this process uses, set by EXCHANGE_SPARK."""
    if request.param == "embedded":
        monkeypatch.setenv("EXCHANGE_SPARK", "embedded")
        yield "embedded"
        return
    monkeypatch.setenv("EXCHANGE_SPARK", str(request.getfixturevalue("spark_server")))
    mark = request.node.get_closest_marker("both_engines")
    with _require_calls(mark.args[1:] if mark else ()):
        yield "spark"


@contextmanager
def _require_calls(modules: Sequence[str]) -> Iterator[None]:
    """Fail unless the block calls a function of each of these modules of `jobs`; importing a module does not count."""
    uncalled = {str(CHECKOUT / "jobs" / f"{module.replace('.', '/')}.py"): module for module in modules}

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename in uncalled and code.co_flags & inspect.CO_OPTIMIZED:
            del uncalled[code.co_filename]
            if not uncalled:
                sys.setprofile(None)

    if uncalled:
        sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
    assert not uncalled, f"the mark names modules that the Spark case never calls: {sorted(uncalled.values())}"


@pytest.fixture
def packages(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder, not there yet, in which this process and the engine's Python workers both find an installed package."""
    return packages_of(request.getfixturevalue("spark_folder") if engine == "spark" else tmp_path)


@pytest.fixture
def exchange(engine: str, new_registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """An empty exchange, with this process's settings pointing to it."""
    del engine  # The settings point to it by now.
    home = tmp_path / "home"
    home.mkdir()
    shutil.copyfile(new_registry, home / "registry.db")
    monkeypatch.setenv("EXCHANGE_HOME", str(home))
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "catalogue"))
    monkeypatch.delenv("EXCHANGE_DATABASE_URL", raising=False)
    monkeypatch.delenv("EXCHANGE_LAKE", raising=False)
    return Trial(tmp_path / "catalogue")
