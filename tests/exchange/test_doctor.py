"""The doctor reports what cannot work before a run meets it, and what to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import ExchangeError
from jobs.lake import close
from jobs.operate.doctor import Diagnosis, examine, require_working


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    for name in ("EXCHANGE_LAKE", "EXCHANGE_SPARK", "EXCHANGE_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def diagnoses_by_subject() -> dict[str, Diagnosis]:
    return {diagnosis.subject: diagnosis for diagnosis in examine()}


def test_a_new_home_is_healthy(home: Path) -> None:
    diagnoses = diagnoses_by_subject()
    assert {diagnosis.status for diagnosis in diagnoses.values()} == {"ok"}, diagnoses
    assert "embedded Sail" in diagnoses["engine"].found
    assert diagnoses["last run"].found == "none yet"
    assert not list((home / "landing").iterdir())
    require_working()


def test_an_unwritable_lake_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    (home / "file").write_text("in the way")
    monkeypatch.setenv("EXCHANGE_LAKE", str(home / "file"))
    assert diagnoses_by_subject()["lake"].status == "failed"
    with pytest.raises(ExchangeError, match="cannot be read or written"):
        require_working()


def test_a_missing_engine_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCHANGE_SPARK", "sc://127.0.0.1:1/;token=planted")
    close()
    diagnoses = diagnoses_by_subject()
    assert diagnoses["engine"].status == diagnoses["engine and lake"].status == "failed"
    assert "no engine answers at sc://127.0.0.1:1 " in diagnoses["engine"].found
    assert "planted" not in repr(diagnoses)
    assert diagnoses["lake"].status == "ok"


def test_an_invalid_database_url_is_reported_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCHANGE_DATABASE_URL", "nothing://user:planted@host/db")
    diagnoses = diagnoses_by_subject()
    assert diagnoses["database"].status == "failed"
    assert "EXCHANGE_DATABASE_URL" in diagnoses["database"].found
    assert "planted" not in repr(diagnoses)


def test_an_invalid_setting_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCHANGE_SHARE_PORT", "many")
    with pytest.raises(ExchangeError, match=r"EXCHANGE_SHARE_PORT: .*valid integer"):
        require_working()
