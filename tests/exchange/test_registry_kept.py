"""A registry that is lost, emptied, damaged or swapped is noticed at once, and comes back from a copy or the lake."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.cli.program import run
from jobs.errors import ExchangeError
from jobs.exchange.grants import create_grant, grants
from jobs.lake import close as close_engine
from jobs.operate.registry import rebuild_registry, restore_registry
from jobs.registry import backup, database, engine, reading, transaction
from jobs.registry.landings import landings_in
from jobs.registry.models import Participant
from jobs.registry.releases import releases_of
from jobs.release.archive import folder_of
from jobs.release.verify import verify
from jobs.settings import settings
from tests.exchange.checked import NOW, PRODUCT, SOURCE, Desk, meters

FIRST = meters(("a", 1, 1.0), ("b", 2, 2.0))
LATER = meters(("a", 1, 1.0), ("b", 2, 2.0), ("c", 3, 3.0))


@pytest.fixture
def desk(home_with_registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """An exchange with one sold release."""
    assert settings().home == home_with_registry
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "catalogue"))
    desk = Desk(tmp_path / "catalogue")
    desk.declare()
    desk.land("meter,day,kwh\na,1,1\nb,2,2\n")
    desk.ship(FIRST)
    create_grant(PRODUCT, "buyer", 30)
    return desk


def lose(how: str) -> None:
    """Do to the registry's file what a disk or a person may do to it."""
    engine().dispose()
    database.close()
    file = settings().home / "registry.db"
    for journal in settings().home.glob("registry.db-*"):
        journal.unlink()
    if how == "gone":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif how == "page flipped":
        data = bytearray(file.read_bytes())
        page = 4096 * (len(data) // 4096 // 2)
        data[page : page + 4096] = bytes(255 - byte for byte in data[page : page + 4096])
        file.write_bytes(data)
    else:
        file.write_bytes(b"not a database at all" * 300)


@pytest.mark.parametrize("how", ["gone", "empty", "cut", "page flipped", "rubbish"])
def test_a_lost_registry_is_refused_by_every_command_and_comes_back(
    desk: Desk, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    backup.backup()
    later = desk.ship(LATER)
    sold = {p: p.read_bytes() for p in (settings().releases / PRODUCT).rglob("*") if p.is_file()}
    lose(how)
    for command in (("releases",), ("sources",), ("grants",), ("land", SOURCE), ("release", PRODUCT), ("upkeep",)):
        assert run(command) != 0, command
        said = capsys.readouterr().err
        assert "exchange registry restore" in said and "Traceback" not in said, (command, said)
    assert run(("registry", "restore")) == 0
    capsys.readouterr()
    # The release that is newer than the copy was found beside it.
    assert [r.number for r in releases_of(PRODUCT)] == [later.number, "1.0.0"]
    assert len(grants()) == 1
    assert {p: p.read_bytes() for p in (settings().releases / PRODUCT).rglob("*") if p.is_file()} == sold
    assert desk.ship(meters(("z", 9, 9.0))).number == "1.2.0"
    assert bool(list(settings().home.glob("registry.db.replaced-*"))) == (how != "gone")


def test_a_new_home_needs_no_registry_and_a_swapped_one_is_refused(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("EXCHANGE_HOME", str(tmp_path / "new" / "home"))
        assert releases_of(PRODUCT) == []
        assert stat.S_IMODE((tmp_path / "new" / "home").stat().st_mode) == 0o700
    database.close()
    for other in ("empty.db", "new/home/registry.db"):
        monkeypatch.setenv("EXCHANGE_DATABASE_URL", f"sqlite:///{tmp_path / other}")
        with pytest.raises(ExchangeError, match=r"registry is empty|registry of another exchange") as refused:
            desk.release()
        assert "EXCHANGE_DATABASE_URL" in str(refused.value)
    with pytest.raises(ExchangeError, match="another exchange's registry"):
        backup.restore(_copied(tmp_path / "new" / "home" / "registry.db", tmp_path / "theirs.db"))


def _copied(file: Path, to: Path) -> Path:
    with sqlite3.connect(file) as source, sqlite3.connect(to) as target:
        source.backup(target)
    return to


def test_a_copy_is_whole_while_others_write_and_the_newest_are_kept(home: Path) -> None:
    with reading():
        pass
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            with transaction() as session:
                # Pairs: a copy of half a transaction would have an odd number.
                session.add_all(Participant(name=f"{number}{half}", role="buyer", created_at=NOW) for half in "ab")
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = [backup.backup() for _ in range(backup.KEPT + 3)]
    finally:
        stop.set()
        writer.join()
    assert backup.backups() == sorted(copies)[-backup.KEPT :][::-1]
    for copy in backup.backups():
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        with sqlite3.connect(copy) as opened:
            assert opened.execute("pragma integrity_check").fetchone() == ("ok",)
            assert opened.execute("select count(*) % 2 from participants").fetchone() == (0,)
    assert sorted(p.name for p in (home / "backups").iterdir()) == sorted(c.name for c in backup.backups())
    with pytest.raises(ExchangeError, match="the file exists"):
        backup.backup(copies[-1])


def test_a_registry_without_a_copy_is_rebuilt_from_the_lake(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.ship(LATER)
    with pytest.raises(ExchangeError, match="the registry works"):
        rebuild_registry("r")
    lose("gone")
    for file in (settings().landing / SOURCE).rglob("*.manifest.json"):
        # The desk's landed files have no manifest of their own.
        file.unlink()
    assert run(("registry", "restore")) != 0 and "exchange registry rebuild" in capsys.readouterr().err
    assert run(("registry", "rebuild")) == 0
    said = capsys.readouterr()
    assert "2 releases" in said.out and "lost: grants" in said.err
    assert [r.number for r in releases_of(PRODUCT)] == ["1.1.0", "1.0.0"]
    desk.landings = 0
    assert desk.land("meter,day,kwh\nd,4,4\n") in digests_in_source()
    desk.passes(desk.build(meters(("z", 9, 9.0))))
    assert desk.release(NOW + timedelta(days=9)).number == "1.2.0"
    assert not any(f.what.startswith("the registry") for f in verify(PRODUCT, "1.0.0").findings)


def digests_in_source() -> set[str]:
    with reading() as session:
        return {landing.sha256 for landing in landings_in(session, SOURCE)}


@pytest.mark.usefixtures("desk")
def test_a_damaged_copy_is_refused_and_the_registry_stays() -> None:
    copy = backup.backup()
    copy.write_bytes(copy.read_bytes()[:8192])
    with pytest.raises(ExchangeError, match="damaged"):
        restore_registry("r", copy)
    assert [r.number for r in releases_of(PRODUCT)] == ["1.0.0"] and folder_of(PRODUCT, "1.0.0").is_dir()


def test_an_open_home_is_closed_to_others_with_a_note(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with reading():
        pass
    database.close()
    home.chmod(0o755)
    with reading():
        pass
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert "only its owner can" in caplog.text


@pytest.mark.usefixtures("desk")
def test_doctor_looks_through_the_whole_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.operate.doctor import _diagnose, _records

    assert "no copy" in _records().found
    backup.backup()
    assert _records().status == "ok"
    monkeypatch.setattr(database, "_LOOKED_THROUGH_BYTES", 0)
    lose("page flipped")
    found = _diagnose("records", _records)
    assert found.status == "failed" and "exchange registry restore" in str(found.next_step), found


@pytest.fixture(scope="module", autouse=True)
def engine_closed() -> Iterator[None]:
    """End the engine with the module."""
    yield
    close_engine()
