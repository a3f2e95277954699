"""Where state is kept and declarations are read, unless the environment says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.settings import CHECKOUT, Settings


def test_an_installed_package_keeps_nothing_among_the_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EXCHANGE_HOME", "EXCHANGE_CATALOGUE"):
        monkeypatch.delenv(name, raising=False)
    assert (Settings().home, Settings().catalogue) == (CHECKOUT / ".exchange", CHECKOUT)
    libraries, work = tmp_path / "site-packages", tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr("jobs.settings.CHECKOUT", libraries)
    monkeypatch.chdir(work)
    assert (Settings().home, Settings().catalogue) == (work / ".exchange", work)
