"""What the tests of the lake share: an exchange with nothing in it, on each engine.

A test runs on the embedded engine. `@pytest.mark.both_engines(reason, *modules, cases=…)` runs it on Spark, too:

- reason: what the two engines might do differently, in a few words;
- modules: those of `jobs` whose part in it the case on Spark proves, such as ``lake.tables``. A case that calls no
  function of a module it names fails, so that `tests/unit/test_marks.py` can trust these labels;
- cases: parts of the ids of the cases that run on Spark; otherwise the first of each table mode.
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
from tests.lake.spark_server import served, skip_without_java
from tests.lake.trial import Trial


@pytest.fixture(scope="session")
def spark_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the one Spark Connect server of this process."""
    skip_without_java()
    with served(tmp_path_factory.mktemp("spark")) as address:
        yield address
        close()


@pytest.fixture(params=["embedded", "spark"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The engine that this process works on, by its setting."""
    if request.param == "embedded":
        monkeypatch.setenv("EXCHANGE_SPARK", "embedded")
        yield "embedded"
        return
    monkeypatch.setenv("EXCHANGE_SPARK", str(request.getfixturevalue("spark_server")))
    mark = request.node.get_closest_marker("both_engines")
    with _calls_of(mark.args[1:] if mark else ()):
        yield "spark"


@contextmanager
def _calls_of(modules: Sequence[str]) -> Iterator[None]:
    """Fail unless the block calls a function of each of these modules of `jobs`; importing one is no call."""
    waiting = {str(CHECKOUT / "jobs" / f"{module.replace('.', '/')}.py"): module for module in modules}

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename in waiting and code.co_flags & inspect.CO_OPTIMIZED:
            del waiting[code.co_filename]
            if not waiting:
                sys.setprofile(None)

    if waiting:
        sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
    assert not waiting, f"marked as proof on Spark of modules that it does not call: {sorted(waiting.values())}"


@pytest.fixture
def exchange(engine: str, new_registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """An exchange with nothing in it, and the process's settings pointed at it."""
    del engine  # It is where the settings point by now.
    home = tmp_path / "home"
    home.mkdir()
    shutil.copyfile(new_registry, home / "registry.db")
    monkeypatch.setenv("EXCHANGE_HOME", str(home))
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "catalogue"))
    monkeypatch.delenv("EXCHANGE_DATABASE_URL", raising=False)
    monkeypatch.delenv("EXCHANGE_LAKE", raising=False)
    return Trial(tmp_path / "catalogue")
