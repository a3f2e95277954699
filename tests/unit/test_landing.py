"""Landing: bytes and manifest appear whole and once, and never change."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from jobs.errors import ExchangeError, Tampered, disk_full
from jobs.land.fetched import Fetched, StillWritten
from jobs.land.landed import LandedFile, manifests, received, verify

DAY = datetime(2026, 11, 22, 16, tzinfo=UTC)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def arrived(tmp_path: Path, data: bytes = b"a,b\n1,2\n", name: str = "x.csv") -> Fetched:
    path = tmp_path / "arrived" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return Fetched(path, name, f"drop:prices/{name}", "W/1", DAY - timedelta(days=1), {"package": "名"})


def store(fetched: Fetched, source: str, logical_date: datetime) -> LandedFile:
    with received(fetched, source, logical_date) as copy:
        return copy.keep()


def files_in(home: Path) -> list[str]:
    return sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())


def test_bytes_and_manifest_lie_side_by_side(tmp_path: Path, home: Path) -> None:
    fetched = arrived(tmp_path)
    landed = store(fetched, "prices", DAY)
    sha256 = hashlib.sha256(b"a,b\n1,2\n").hexdigest()
    folder = "landing/prices/2026/11/22"
    assert files_in(home) == [f"{folder}/{sha256}.csv", f"{folder}/{sha256}.manifest.json"]
    assert landed.path == f"{folder}/{sha256}.csv"
    assert landed.file.read_bytes() == fetched.path.read_bytes()
    assert landed.file.stat().st_mode & 0o222 == 0
    manifest = json.loads((home / folder / f"{sha256}.manifest.json").read_text())
    assert manifest["facts"] == {"package": "名"}
    assert manifest["logical_date"] == "2026-11-22T16:00:00+00:00"
    assert list(manifests("prices")) == [landed]
    verify(landed)


def test_bytes_are_kept_once_and_each_arrival_has_a_manifest(tmp_path: Path, home: Path) -> None:
    first = store(arrived(tmp_path), "prices", DAY)
    again = store(arrived(tmp_path), "prices", DAY)
    assert first.is_new
    assert (again.is_new, again.fetched_at) == (False, first.fetched_at), "a killed step left it"
    renamed = store(arrived(tmp_path, name="renamed.csv"), "prices", DAY)
    assert (renamed.is_new, renamed.sha256, renamed.path) == (True, first.sha256, first.path)
    with received(arrived(tmp_path), "prices", DAY + timedelta(days=3)) as copy:
        back = copy.keep(first.path, arrival=3, after=renamed.fetched_at)
    with received(arrived(tmp_path), "prices", DAY) as copy:
        same_day = copy.keep(first.path, arrival=1, after=back.fetched_at)
    assert back.is_new and same_day.is_new and back.path == same_day.path == first.path
    assert [x.fetched_at for x in manifests("prices")] == [
        x.fetched_at for x in (first, renamed, same_day, back)
    ]  # fmt: skip
    assert len([name for name in files_in(home) if name.endswith(".csv")]) == 1
    changed = store(arrived(tmp_path, b"a,b\n1,3\n"), "prices", DAY)
    assert changed.is_new
    assert len(files_in(home)) == 7


def test_manifests_are_ordered_by_date(tmp_path: Path) -> None:
    days = [DAY, DAY - timedelta(days=400), DAY + timedelta(days=1)]
    for number, day in enumerate(days):
        store(arrived(tmp_path, b"%d" % number), "prices", day)
    store(arrived(tmp_path), "others", DAY)
    assert [landed.logical_date for landed in manifests("prices")] == sorted(days)


def test_a_json_file_does_not_collide_with_its_manifest(tmp_path: Path) -> None:
    landed = store(arrived(tmp_path, b"{}", "x.json"), "prices", DAY)
    assert landed.file.read_bytes() == b"{}"
    assert [one.file_name for one in manifests("prices")] == ["x.json"]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.csv.gz", ".csv.gz"),
        ("A.ZIP", ".zip"),
        ("no-suffix", ""),
        ("data.2026.csv", ".csv"),
        ("数据.csv", ".csv"),
        ("x.<>", ""),
    ],
)
def test_a_usable_suffix_is_kept(tmp_path: Path, name: str, suffix: str) -> None:
    landed = store(arrived(tmp_path, name.encode(), name), "prices", DAY)
    assert landed.path.endswith(landed.sha256 + suffix)
    assert landed.file_name == name


def test_the_folder_is_the_utc_date(tmp_path: Path) -> None:
    hong_kong = datetime(2026, 11, 23, 4, tzinfo=timezone(timedelta(hours=8)))
    assert "/2026/11/22/" in store(arrived(tmp_path), "prices", hong_kong).path


def test_tampering_is_detected(tmp_path: Path) -> None:
    landed = store(arrived(tmp_path), "prices", DAY)
    landed.file.chmod(0o644)
    landed.file.write_bytes(b"a,b\n1,9\n")
    with pytest.raises(Tampered, match="their sha256 is"):
        verify(landed)
    landed.file.write_bytes(b"short")
    with pytest.raises(Tampered, match="their size is"):
        store(arrived(tmp_path), "prices", DAY)
    landed.file.unlink()
    with pytest.raises(Tampered, match="are missing"):
        verify(landed)


def test_a_broken_manifest_is_refused(tmp_path: Path, home: Path) -> None:
    store(arrived(tmp_path), "prices", DAY)
    manifest = next(home.rglob("*.manifest.json"))
    manifest.chmod(0o644)
    manifest.write_text("{")
    with pytest.raises(Tampered, match="not a manifest"):
        list(manifests("prices"))


def test_concurrent_landings_of_the_same_bytes_are_one(tmp_path: Path, home: Path) -> None:
    fetched = arrived(tmp_path, os.urandom(3_000_000))
    with ThreadPoolExecutor(8) as pool:
        landed = list(pool.map(lambda _: store(fetched, "prices", DAY), range(16)))
    assert sum(one.is_new for one in landed) == 1
    assert len({(one.path, one.fetched_at) for one in landed}) == 1
    assert len(files_in(home)) == 2


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, home: Path) -> None:
    fetched = arrived(tmp_path, b"x" * 200_000)
    code = (
        "import resource, signal, sys, datetime, pathlib\n"
        "from jobs.land.fetched import Fetched\n"
        "from jobs.errors import ExchangeError\n"
        "from jobs.land.landed import received\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    file = Fetched(pathlib.Path(sys.argv[1]), 'x.csv', 'u')\n"
        "    with received(file, 'prices', datetime.datetime.now(datetime.UTC)) as copy:\n"
        "        copy.keep()\n"
        "except ExchangeError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(fetched.path)], capture_output=True, text=True, check=True)
    assert "cannot be read or written (File too large)" in done.stdout
    assert files_in(home) == []
    output = str(disk_full(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), home))
    assert "the disk is full" in output
    assert "free some space" in output


def test_a_file_that_changes_while_it_is_copied_is_not_landed(tmp_path: Path, home: Path) -> None:
    path = arrived(tmp_path, b"2,56").path
    with path.open("rb") as opened, pytest.raises(StillWritten):
        file = Fetched(path, "x.csv", "u", opened=opened)

        class Growing:
            def __getattr__(self, name: str) -> object:
                return getattr(opened, name)

            def read(self, size: int) -> bytes:
                path.write_bytes(b"2,5678")
                return opened.read(size)

        with received(replace(file, opened=Growing()), "prices", DAY):
            pass
    assert files_in(home) == []


def test_a_vanished_file_is_an_exchange_error(tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match="cannot be read or written"):
        store(Fetched(tmp_path / "gone.csv", "gone.csv", "u"), "prices", DAY)


def test_landing_again_after_a_kill_at_any_instant_gives_the_same_files(tmp_path: Path, home: Path) -> None:
    fetched = arrived(tmp_path, os.urandom(1 << 20) * 60)
    code = (
        "import sys, datetime, pathlib\n"
        "from jobs.land.fetched import Fetched\n"
        "from jobs.land.landed import received\n"
        "print('ready', flush=True)\n"
        "day = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)\n"
        "with received(Fetched(pathlib.Path(sys.argv[1]), 'x.csv', 'drop:prices/x.csv'), 'prices', day) as copy:\n"
        "    copy.keep()\n"
    )
    for wait in (0.005, 0.02, 0.05):
        process = subprocess.Popen([sys.executable, "-c", code, str(fetched.path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert {path.stat().st_size for path in home.rglob("[!.]*.csv")} <= {60 << 20}
    for draft in home.rglob(".*.part"):
        os.utime(draft, (0, 0))
    landed = store(fetched, "prices", datetime(2026, 11, 22, tzinfo=UTC))
    verify(landed)
    assert len(files_in(home)) == 2


def test_landing_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    with path.open("wb") as file:
        file.truncate(300 << 20)
    tracemalloc.start()
    store(Fetched(path, "large.csv", "u"), "prices", DAY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


def test_reading_declarations_imports_nothing_heavy() -> None:
    code = (
        "import sys, jobs.declared.catalog, jobs.declared.format, jobs.declared.connector\n"
        "heavy = ('pyarrow', 'numpy', 'pandas', 'pyspark', 'requests', 'sqlalchemy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
