"""Commits are on the disk before anything relies on them, and one that a power cut emptied is never built upon."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from jobs import lake
from jobs.errors import ExchangeError, Tampered
from jobs.lake import commits, guard, pointers, tables
from jobs.registry import transaction
from jobs.registry.models import Pointer
from jobs.release.snapshot import snapshot
from tests.exchange.checked import NOW

TABLE = "silver.toy"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, new_registry: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a table with three versions of one partition each."""
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EXCHANGE_DATABASE_URL", raising=False)
    (tmp_path / "home").mkdir()
    shutil.copy(new_registry, tmp_path / "home")
    for number in range(3):
        commit(number)
    return lake.location(TABLE)


def commit(number: int) -> None:
    rows = pa.table({"item": [number], "day": [f"{number} é"]})
    write_deltalake(str(lake.location(TABLE)), rows, mode="append", partition_by=["day"])


def commit_file(folder: Path, version: int) -> Path:
    return folder / "_delta_log" / f"{version:020d}.json"


def point(version: int) -> None:
    with transaction() as session:
        session.merge(Pointer(table_name=TABLE, delta_version=version, head_version=version, moved_at=NOW))


def test_a_commit_is_synced_from_its_data_to_its_log_before_its_writer_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    monkeypatch.setattr(guard, "require_own_commit", lambda table: lake.delta(table).version())
    assert tables._committed(TABLE) == 2
    [data] = (file for file in folder.rglob("*.parquet") if "2 é" in str(file) or "2%20" in str(file))
    assert synced == [data, data.parent, folder, commit_file(folder, 2), folder / "_delta_log"]
    synced.clear()
    commits.sync_commit(TABLE, 0)
    # The first commit's folders are new, too.
    assert synced[-4:] == [folder, folder.parent, folder.parent.parent, folder.parents[2]]
    assert len(synced) == 9


def test_files_that_are_gone_are_not_called_synced(folder: Path) -> None:
    for file in folder.rglob("*.parquet"):
        file.unlink()
    with pytest.raises(FileNotFoundError):
        commits.sync_commit(TABLE, 2)


@pytest.mark.parametrize("content", [b"", b"\n", b"\0" * 12])
@pytest.mark.parametrize("damaged", [1, 2])
def test_an_empty_commit_is_refused_wherever_the_log_is_read(folder: Path, content: bytes, damaged: int) -> None:
    commit_file(folder, damaged).write_bytes(content)
    lake.drop_cached_logs()
    for read in (lake.version, lake.files, lake.rows, lake.columns_at, lambda table: snapshot(table, 2)):
        with pytest.raises(ExchangeError, match=r"Next: .*exchange rebuild silver\.toy") as refused:
            read(TABLE)
        # The reader itself finds bytes that are no text.
        assert isinstance(refused.value, Tampered) or b"\0" in content
    # What was before it stays readable.
    assert lake.rows(TABLE, damaged - 1) == damaged


def test_an_empty_commit_before_a_checkpoint_is_not_needed(folder: Path) -> None:
    lake.delta(TABLE).create_checkpoint()
    commit_file(folder, 1).write_bytes(b"")
    lake.drop_cached_logs()
    assert lake.rows(TABLE) == 3


@pytest.mark.parametrize("content", [b"", b'{"add":{"pa', b"\xff\xfe"])
def test_torn_commits_after_the_recorded_one_are_put_aside_and_others_are_reported(
    folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    point(1)
    commit_file(folder, 2).write_bytes(content)
    lake.drop_cached_logs()
    monkeypatch.setattr(guard, "expect", lambda *_: None)
    assert pointers.begin(TABLE) is not None
    assert lake.rows(TABLE) == 2 and [f.name for f in (folder / "_torn").iterdir()] == [f"{2:020d}.json"]
    # Its number is free again.
    commit(7)
    assert lake.version(TABLE) == 2 and lake.rows(TABLE) == 3
    point(2)
    commit_file(folder, 2).write_bytes(content)
    lake.drop_cached_logs()
    with pytest.raises(ExchangeError, match=r"exchange rebuild silver\.toy"):
        pointers.begin(TABLE)
    assert commit_file(folder, 2).read_bytes() == content


def test_a_log_that_ends_before_the_recorded_version_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "expect", lambda *_: None)
    point(5)
    with pytest.raises(ExchangeError, match=r"ends at version 2, but version 5 was recorded.*exchange rebuild"):
        pointers.begin(TABLE)


def test_a_damaged_later_commit_does_not_take_away_an_older_version(folder: Path) -> None:
    commit_file(folder, 2).write_bytes(b'{"add":{"pa')
    lake.drop_cached_logs()
    assert lake.rows(TABLE, 1) == 2
    with pytest.raises(ExchangeError, match=r"the log of silver\.toy cannot be read"):
        lake.version(TABLE)
