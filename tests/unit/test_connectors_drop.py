"""The drop folder: files are fetched once they stop changing, and nothing else is."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from jobs.declared.connector import DropConnector
from jobs.land.connectors import fetch
from jobs.land.fetched import Fetched, NotTaken


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "drop" / "prices"
    monkeypatch.setenv("EXCHANGE_DROP_QUIET_SECONDS", "0.5")
    folder.mkdir(parents=True)
    return folder


def put(folder: Path, name: str, age: float = 60) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def looked_at(*globs: str) -> list[Fetched | NotTaken]:
    return list(fetch(DropConnector(files=globs), "prices", Path("unused")))


def fetched(*globs: str) -> list[Fetched]:
    return [one for one in looked_at(*globs) if isinstance(one, Fetched)]


def not_taken(*globs: str) -> dict[str, str]:
    """Why files were not taken, by their name."""
    return {one.name: one.reason for one in looked_at(*globs) if isinstance(one, NotTaken)}


def test_matching_files_are_fetched_oldest_first_and_kept(folder: Path) -> None:
    put(folder, "b.csv", age=300)
    put(folder, "a.csv", age=100)
    put(folder, "notes.txt")
    put(folder, "2026/c.csv")
    files = fetched("*.csv")
    assert [(one.file_name, one.url) for one in files] == [
        ("b.csv", "drop:prices/b.csv"),
        ("a.csv", "drop:prices/a.csv"),
    ]
    assert files[0].published_at is not None
    assert abs(files[0].published_at.timestamp() - (time.time() - 300)) < 5
    assert sorted(path.name for path in folder.iterdir()) == ["2026", "a.csv", "b.csv", "notes.txt"]
    assert [one.url for one in fetched("*/*.csv")] == ["drop:prices/2026/c.csv"]


def test_unfinished_and_hidden_files_are_skipped(folder: Path) -> None:
    for name in (".a.csv", "a.csv.part", "a.csv.tmp", "~$a.csv", "a.csv~", "a.csv.crdownload"):
        put(folder, name)
    put(folder, ".git/a.csv")
    assert fetched("*", "*/*") == []


def test_a_missing_folder_is_created(folder: Path) -> None:
    folder.rmdir()
    assert fetched("*.csv") == []
    assert folder.is_dir()


def test_a_growing_file_is_left_for_the_next_run(folder: Path) -> None:
    put(folder, "done.csv")
    put(folder, "fresh.csv", age=0)
    growing = folder / "growing.csv"
    growing.write_text("a")
    stop = threading.Event()

    def grow() -> None:
        with growing.open("a") as file:
            while not stop.wait(0.05):
                file.write("more\n")
                file.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        assert sorted(one.file_name for one in fetched("*.csv")) == ["done.csv", "fresh.csv"]
    finally:
        stop.set()
        writer.join()
    assert len(fetched("*.csv")) == 3


def test_a_file_that_a_program_has_open_for_writing_is_left(folder: Path) -> None:
    with put(folder, "stalled.csv").open("a") as writer:
        writer.write("2,56")
        writer.flush()
        os.utime(folder / "stalled.csv", (time.time() - 60, time.time() - 60))
        assert not_taken("*.csv") == {"stalled.csv": "still being written"}
        # Whoever reads it does not hold it up.
        put(folder, "read.csv")
        with (folder / "read.csv").open() as reader:
            assert [one.file_name for one in fetched("*.csv")] == ["read.csv"]
            assert reader.read() == "read.csv"
    assert len(fetched("*.csv")) == 2


def test_a_clock_that_is_ahead_does_not_hold_a_file_up(folder: Path) -> None:
    put(folder, "early.csv", age=-86_400)
    assert [one.file_name for one in fetched("*.csv")] == ["early.csv"]


def test_what_cannot_be_taken_is_named_and_the_good_files_are_fetched(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("x")
    put(folder, "good.csv")
    put(folder, "model.pkl.csv")
    (folder / "inside.csv").symlink_to(folder / "good.csv")
    (folder / "out.csv").symlink_to(secret)
    (folder / "gone.csv").symlink_to(folder / "nothing")
    (folder / "loop.csv").symlink_to(folder / "loop.csv")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.csv")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.csv")).write_text("x")
    link = "a link to outside the folder or to nothing"
    assert not_taken("*.csv") == {
        "caf\\xe9.csv": "its name is not UTF-8",
        "model.pkl.csv": "a pickle; opening it runs code",
        "out.csv": link,
        "gone.csv": link,
        "loop.csv": link,
        "pipe.csv": "not a regular file",
        "up": "`files:` of source.yaml (*.csv) does not match it",
    }
    assert {one.file_name for one in fetched("*.csv")} == {"good.csv", "inside.csv"}
    assert not_taken("up/*.csv", "*.csv")["up"].startswith("`files:`")


def test_a_file_swapped_for_a_link_between_two_looks_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside").mkdir()
    for place in (tmp_path / "secret.csv", tmp_path / "outside" / "b.csv"):
        place.write_text("secret")
    put(folder, "a.csv")
    put(folder, "sub/b.csv")
    put(folder, "z.csv", age=1)

    def swap(_found: object) -> None:
        (folder / "a.csv").unlink()
        (folder / "a.csv").symlink_to(tmp_path / "secret.csv")
        (folder / "sub").rename(tmp_path / "away")
        (folder / "sub").symlink_to(tmp_path / "outside")

    monkeypatch.setattr("jobs.land.connectors.drop._wait_until_quiet", swap)
    files = looked_at("*.csv", "*/*.csv")
    assert [one.name for one in files if isinstance(one, NotTaken)] == ["a.csv", "sub/b.csv"]
    assert [one.file_name for one in files if isinstance(one, Fetched)] == ["z.csv"]


def test_bytes_come_from_the_opened_file_whatever_its_name_points_to_by_then(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("secret")
    put(folder, "a.csv")
    (one,) = fetch(DropConnector(files=("*.csv",)), "prices", Path("unused"))
    assert isinstance(one, Fetched)
    for file in fetch(DropConnector(files=("*.csv",)), "prices", Path("unused")):
        (folder / "a.csv").unlink()
        (folder / "a.csv").symlink_to(secret)
        assert isinstance(file, Fetched)
        with file.content() as content:
            assert content.read() == b"a.csv"


def test_names_in_capitals_or_another_unicode_form_match_and_others_are_named(folder: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    taken = {"READINGS_FEB.CSV", "readings mar #1 100%.csv", "読み.csv", f"{decomposed}.csv"}
    for name in (*taken, "apr.csv.gz", "2026/c.csv"):
        put(folder, name)
    assert {one.file_name for one in fetched("read*.csv", "読*.csv", f"{composed}*.csv")} == taken
    assert set(not_taken("*.csv")) == {"apr.csv.gz", "2026/c.csv"}
    assert not_taken("**/*.csv", "**/*.gz") == {}
    assert len(fetched("**/*.csv", "**/*.gz")) == 6


def test_a_replaced_file_of_the_same_size_and_time_has_another_etag(folder: Path) -> None:
    path = put(folder, "a.csv")
    before, stat = fetched("*.csv")[0].etag, path.stat()
    assert fetched("*.csv")[0].etag == before
    path.write_text("b.csv")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert fetched("*.csv")[0].etag != before
