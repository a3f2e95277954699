"""Verifying a release offline detects any changed byte and names its place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from jobs.errors import NotFound
from jobs.release import credential
from jobs.release.archive import folder_of
from jobs.release.manifest import Manifest
from jobs.release.verify import Discrepancy, verify
from jobs.settings import settings
from tests.declaring import write
from tests.exchange.checked import PRODUCT, SOURCE, desk_in, meters


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an exchange with two releases, made once for the module."""
    root = tmp_path_factory.mktemp("shipped")
    with desk_in(root) as desk:
        desk.land("a,1,1\n")
        desk.ship(meters(("a", 1, 1.0), ("b", 1, 2.0)))
        desk.land("a,2,1\n")
        desk.ship(meters(("a", 1, 1.0), ("b", 1, 2.0), ("a", 2, 3.0)))
        yield root


@pytest.fixture
def released(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that exchange to damage; returns its home."""
    home = tmp_path / "home"
    # The copy must include what is still in the write-ahead log.
    sqlite3.connect(shipped / "home" / "registry.db").execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    shutil.copytree(shipped / "home", home)
    monkeypatch.setenv("EXCHANGE_HOME", str(home))
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "no-catalogue"))
    monkeypatch.delenv("EXCHANGE_DATABASE_URL", raising=False)
    return home


def flip(file: Path, place: int | None = None) -> None:
    """Change one bit of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    file.chmod(0o644)
    file.write_bytes(bytes(data))


def findings(number: str | None = None) -> list[Discrepancy]:
    return list(verify(PRODUCT, number).findings)


def texts(number: str | None = None) -> list[tuple[str, str]]:
    return [(f.what, f.where) for f in findings(number)]


def data_file(home: Path) -> Path:
    manifest = Manifest.model_validate_json((folder_of(PRODUCT, "1.1.0") / "manifest.json").read_bytes())
    return home / manifest.table.path / manifest.files[0].path


def test_untouched_releases_have_no_findings(released: Path) -> None:
    for number in (None, "1.0.0", "1.1.0"):
        result = verify(PRODUCT, number)
        assert result.ok and result.findings == () and result.skipped == ()
    result = verify(PRODUCT)
    assert (result.number, result.rows, result.landed) == ("1.1.0", 3, 2)
    assert result.files > 0 and result.bytes == data_file(released).stat().st_size * result.files
    assert verify(PRODUCT, "1.0.0").landed == 1


def as_first_format(number: str) -> None:
    """Rewrite a release as an older version without cautions wrote it, with a matching certificate."""
    folder = folder_of(PRODUCT, number)
    document = json.loads((folder / "manifest.json").read_bytes())
    del document["cautions"]
    data = rfc8785.dumps(document | {"format": "exchange-release/1"})
    signed = credential.check((folder / "certificate.jwt").read_text(), credential.public_key())
    subject = signed["credentialSubject"] | {"manifestSha256": hashlib.sha256(data).hexdigest()}
    valid_from = datetime.fromisoformat(document["released_at"])
    token = credential.issue("DataReleaseCredential", subject, valid_from=valid_from)
    for name, content in (("manifest.json", data), ("certificate.jwt", token.encode())):
        (folder / name).chmod(0o644)
        (folder / name).write_bytes(content)
    with sqlite3.connect(settings().home / "registry.db") as db:
        changed = db.execute(
            "UPDATE releases SET manifest = ?, manifest_sha256 = ?, credential = ? WHERE manifest_sha256 = ?",
            (data.decode(), subject["manifestSha256"], token, signed["credentialSubject"]["manifestSha256"]),
        )
        assert changed.rowcount == 1


def test_a_manifest_of_the_first_format_still_verifies(released: Path) -> None:
    as_first_format("1.0.0")
    assert verify(PRODUCT, "1.0.0").ok
    for file in released.glob("registry.db*"):
        file.unlink()
    assert verify(PRODUCT, "1.0.0").ok
    file = folder_of(PRODUCT, "1.0.0") / "manifest.json"
    file.write_bytes(file.read_bytes().replace(b'"title":', b'"cautions":["None."],"title":'))
    assert "the manifest was changed" in [f.what for f in findings("1.0.0")]


def test_files_can_be_verified_without_the_registry(released: Path) -> None:
    for file in released.glob("registry.db*"):
        file.unlink()
    (released / "keys" / "issuer.private.jwk.json").unlink()
    result = verify(PRODUCT)
    assert result.ok and result.skipped == ("registry: there is none here",)
    assert not list(released.glob("registry.db*"))
    flip(data_file(released))
    assert [f.what for f in findings()] == ["a data file was changed"]


@pytest.mark.usefixtures("released")
def test_verifying_needs_neither_engine_nor_network() -> None:
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('no network here')\n"
        "socket.socket.connect = refuse\n"
        "from jobs.release.verify import verify\n"
        f"assert verify('{PRODUCT}').ok\n"
        "assert not (imported := {'pyspark', 'pysail', 'pandas'} & set(sys.modules)), imported\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], env=os.environ.copy(), capture_output=True
    )
    assert ended.returncode == 0, ended.stderr.decode()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("contract.yaml", "the contract was changed"),
        ("evidence.json", "the expectations' result was changed"),
        ("manifest.json", "the manifest was changed"),
        ("certificate.jwt", "the certificate is not valid"),
    ],
)
@pytest.mark.usefixtures("released")
def test_a_flipped_bit_in_a_file_of_the_release_is_detected(name: str, what: str) -> None:
    file = folder_of(PRODUCT, "1.1.0") / name
    for place in (0, file.stat().st_size // 2, file.stat().st_size - 1):
        original = file.read_bytes()
        flip(file, place)
        reported = texts()
        assert reported[0][0].startswith(what), reported
        assert all(where == f"releases/{PRODUCT}/1.1.0/{name}" for _, where in reported), reported
        assert verify(PRODUCT, "1.0.0").ok
        file.write_bytes(original)
    file.unlink()
    assert [(f.what.endswith("is missing"), f.where) for f in findings()] == [
        (True, f"releases/{PRODUCT}/1.1.0/{name}")
    ]


@pytest.mark.usefixtures("released")
def test_the_field_of_the_manifest_that_was_changed_is_named() -> None:
    file = folder_of(PRODUCT, "1.1.0") / "manifest.json"
    document = json.loads(file.read_text())
    document["files"][0]["sha256"] = "0" * 64
    document["licence"]["id"] = "CC0-1.0"
    del document["inputs"]
    file.chmod(0o644)
    file.write_text(json.dumps(document))
    named = [(f.what, f.found) for f in findings()]
    assert [what for what, _ in named] == [
        "the manifest was changed",
        "the manifest's files[0].sha256 was changed",
        "the manifest's inputs was changed",
        "the manifest's licence.id was changed",
    ]
    assert named[3][1] == "CC0-1.0"


@pytest.mark.usefixtures("released")
def test_an_extra_file_is_reported() -> None:
    write(folder_of(PRODUCT, "1.1.0") / "notes.txt", "hello")
    assert texts() == [("a file that is not part of the release", f"releases/{PRODUCT}/1.1.0/notes.txt")]


def test_changed_and_missing_data_files_are_detected(released: Path) -> None:
    file = data_file(released)
    where = str(file.relative_to(released))
    original = file.read_bytes()
    flip(file)
    assert texts() == [("a data file was changed", where)]
    assert verify(PRODUCT, "1.0.0").ok
    file.write_bytes(original + b"x")
    assert [what for what, _ in texts()] == ["a data file has another size", "a data file was changed"]
    file.unlink()
    assert texts() == [("a data file is missing", where)]
    file.write_bytes(original)
    assert verify(PRODUCT).ok


def log_of(home: Path, version: int) -> Path:
    return home / f"lake/gold/{PRODUCT}/_delta_log/{version:020}.json"


def rewrite(log: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "add" in action:
            change(action["add"])
    log.write_text("\n".join(map(json.dumps, actions)))


def test_a_changed_log_of_the_table_is_detected(released: Path) -> None:
    log = log_of(released, 1)
    original = log.read_text()
    rewrite(log, lambda add: add.update(stats=json.dumps({"numRecords": 99})))
    assert {what for what, _ in texts()} == {"the log lists another number of rows"}
    log.write_text(original)
    rewrite(log, lambda add: add.update(size=add["size"] + 1))
    assert {what for what, _ in texts()} == {"the log lists another size"}
    log.write_text(original)
    rewrite(log, lambda add: add.update(path="other.parquet"))
    assert {what for what, _ in texts()} == {
        "the log lists a file that was not released",
        "the log does not list a file of the release",
    }
    log.write_text(original[: len(original) // 2])
    assert "the log" in texts()[0][0]
    log.unlink()
    assert "the log of the table" in texts()[0][0]
    assert verify(PRODUCT, "1.0.0").ok


def test_changed_and_missing_landed_files_are_detected(released: Path) -> None:
    files = sorted((released / "landing").rglob("*.csv"))
    original = files[0].read_bytes()
    flip(files[0])
    assert texts() == [("a landed file was changed", str(files[0].relative_to(released)))]
    files[0].unlink()
    assert texts() == [("a landed file is missing", f"landing, {files[0].name[:64]}")]
    files[0].write_bytes(original)
    # A second copy, landed for another date, is verified too; manifests of landed files are not.
    again = released / "landing" / SOURCE / "2026/03/02" / files[0].name
    write(again, "changed")
    write(again.with_name(f"{files[0].name[:64]}.manifest.json"), "{}")
    assert texts() == [("a landed file was changed", str(again.relative_to(released)))]


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("rows", 999, "the registry's row was changed"),
        ("bytes", 1, "the registry's row was changed"),
        ("grade", "E", "the registry's row was changed"),
        ("licence", "CC0-1.0", "the registry's row was changed"),
        ("delta_version", 0, "the registry's row was changed"),
        ("released_at", "2020-01-01 00:00:00.000000", "the registry's row was changed"),
        ("manifest_sha256", "0" * 64, "the registry holds another digest of the manifest"),
        ("manifest", "{}", "the registry's copy of the manifest was changed"),
        ("credential", "a.b.c", "the certificate is not valid: the header cannot be decoded"),
    ],
)
def test_a_changed_row_of_the_registry_is_detected(released: Path, column: str, value: Any, what: str) -> None:
    change(released, f"update releases set {column} = ? where minor = 1", value)
    assert texts() == [(what, f"registry, releases {PRODUCT}@1.1.0, {column}")]
    assert verify(PRODUCT, "1.0.0").ok


def test_a_missing_row_of_the_registry_is_detected(released: Path) -> None:
    change(released, "delete from releases where minor = 1")
    assert texts("1.1.0") == [("the release is not in the registry", f"registry, releases {PRODUCT}@1.1.0")]


@pytest.mark.usefixtures("released")
def test_a_missing_folder_is_detected() -> None:
    shutil.rmtree(folder_of(PRODUCT, "1.1.0"))
    reported = texts("1.1.0")
    assert {where for _, where in reported} == {
        f"releases/{PRODUCT}/1.1.0/{name}"
        for name in ("certificate.jwt", "manifest.json", "contract.yaml", "evidence.json")
    }


def test_another_release_s_certificate_is_detected(released: Path) -> None:
    shutil.copyfile(folder_of(PRODUCT, "1.0.0") / "certificate.jwt", released / "other.jwt")
    file = folder_of(PRODUCT, "1.1.0") / "certificate.jwt"
    file.unlink()
    (released / "other.jwt").rename(file)
    assert ("the certificate belongs to another release", f"releases/{PRODUCT}/1.1.0/certificate.jwt") in texts()


def test_a_release_signed_with_another_key_is_detected(released: Path) -> None:
    folder = folder_of(PRODUCT, "1.1.0")
    public = (released / "keys" / "issuer.jwk.json").read_bytes()
    shutil.rmtree(released / "keys")
    from jobs.release.step import _sign

    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    forged = _sign(manifest.model_copy(update={"title": "Forged"}))
    (released / "keys" / "issuer.jwk.json").write_bytes(public)
    (folder / "certificate.jwt").chmod(0o644)
    (folder / "certificate.jwt").write_text(forged)
    (name, where), *_ = texts()
    assert (name, where) == (
        "the certificate is not valid: not the expected credential: it names another signing key",
        f"releases/{PRODUCT}/1.1.0/certificate.jwt",
    )


def test_a_missing_public_key_is_reported(released: Path) -> None:
    (released / "keys" / "issuer.jwk.json").unlink()
    assert texts() == [("the exchange's public key is missing", "keys/issuer.jwk.json")]


@pytest.mark.usefixtures("released")
def test_an_unknown_release_is_refused() -> None:
    with pytest.raises(NotFound, match=r"no release 9\.0\.0 .* one of: 1\.0\.0, 1\.1\.0"):
        verify(PRODUCT, "9.0.0")
    for name in ("nothing", "../home", ""):
        with pytest.raises(NotFound):
            verify(name)


def change(home: Path, statement: str, *values: Any) -> None:
    """Change the registry directly in the database."""
    with sqlite3.connect(home / "registry.db") as database:
        assert database.execute(statement, values).rowcount == 1
