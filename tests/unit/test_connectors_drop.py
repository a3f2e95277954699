"""The drop folder: files are fetched once they stop changing, and nothing else is."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from jobs.declared.connector import DropConnector
from jobs.errors import ExchangeError
from jobs.land.connectors import fetch
from jobs.land.fetched import Fetched


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "drop" / "prices"
    folder.mkdir(parents=True)
    return folder


def put(folder: Path, name: str, age: float = 60) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def fetched(*globs: str) -> list[Fetched]:
    return list(fetch(DropConnector(files=globs), "prices", Path("unused")))


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


def test_a_link_out_of_the_folder_is_refused_after_the_good_files(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("x")
    put(folder, "good.csv")
    (folder / "inside.csv").symlink_to(folder / "good.csv")
    (folder / "out.csv").symlink_to(secret)
    coming = fetch(DropConnector(files=("*.csv",)), "prices", Path("unused"))
    assert {next(coming).file_name, next(coming).file_name} == {"good.csv", "inside.csv"}
    with pytest.raises(ExchangeError, match=r"out\.csv: a link to outside the folder"):
        next(coming)


def test_a_pickle_is_refused(folder: Path) -> None:
    put(folder, "model.pkl.gz")
    with pytest.raises(ExchangeError, match=r"model\.pkl\.gz: a pickle"):
        fetched("*")


def test_a_replaced_file_of_the_same_size_and_time_has_another_etag(folder: Path) -> None:
    path = put(folder, "a.csv")
    before, stat = fetched("*.csv")[0].etag, path.stat()
    assert fetched("*.csv")[0].etag == before
    path.write_text("b.csv")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert fetched("*.csv")[0].etag != before
