"""The doctor reports what cannot work before a run meets it, and what to change."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from jobs.errors import ExchangeError
from jobs.lake import close
from jobs.operate import doctor
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
    # Whether others can log in is up to the machine.
    assert {d.status for d in diagnoses.values() if d.subject != "other users"} == {"ok"}, diagnoses
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


def test_the_doctor_names_who_else_can_log_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def users(*given: tuple[str, int, str]) -> None:
        entries = [pwd.struct_passwd((name, "x", uid, uid, "", "/", shell)) for name, uid, shell in given]
        monkeypatch.setattr(pwd, "getpwall", lambda: entries)

    services = (("postgres", 110, "/bin/bash"), ("nobody", 65534, "/bin/sh"), ("ci", 1001, "/usr/sbin/nologin"))
    users(*services, ("me", os.getuid(), "/bin/bash"))
    assert doctor._other_users().status == "ok"
    users(*services, ("eve", 1002, "/bin/zsh"), ("bob", 1003, "/bin/bash"))
    diagnosis = doctor._other_users()
    assert (diagnosis.status, diagnosis.found[:8]) == ("warning", "bob, eve")
    assert "container" in (diagnosis.next_step or "")
    monkeypatch.setenv("EXCHANGE_SPARK", "sc://elsewhere:15002/;token=t")
    assert doctor._other_users().status == "ok"
