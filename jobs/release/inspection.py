"""Compares the bytes of a release with its manifest, and records every discrepancy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from jobs import lake
from jobs.errors import ExchangeError
from jobs.lake.objects import sha256_of
from jobs.release.manifest import (
    CONTRACT_FILE,
    CREDENTIAL_FILE,
    EVIDENCE_FILE,
    MANIFEST_FILE,
    Manifest,
    ReleasedFile,
    digest,
)
from jobs.release.snapshot import Snapshot, snapshot
from jobs.settings import settings

MISSING = "nothing there"
# The manifest beside each landed file may be extended, so it is not certified.
_LANDING_MANIFEST = ".manifest.json"


@dataclass(frozen=True)
class Discrepancy:
    """One thing that is not as it was released: what, where, and the two values that differ."""

    what: str
    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; expected {self.expected}, found {self.found}"


@dataclass
class Inspection:
    """One release under verification, and its discrepancies so far; `skipped` names what could not be verified."""

    product: str
    number: str
    folder: Path
    findings: list[Discrepancy] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def record(self, what: str, where: Path | str, expected: object, actual: object) -> None:
        """Record a discrepancy; a path is shown relative to the exchange's home."""
        place = where if isinstance(where, str) else _relative(where)
        self.findings.append(Discrepancy(what, place, _brief(expected), _brief(actual)))

    def compare(self, what: str, where: Path | str, expected: object, actual: object) -> bool:
        """Record a discrepancy if two values differ; returns whether they are equal."""
        if expected != actual:
            self.record(what, where, expected, actual)
        return expected == actual


def unexpected_files(work: Inspection) -> None:
    """Record files in the release's folder that do not belong there."""
    expected = {MANIFEST_FILE, CREDENTIAL_FILE, CONTRACT_FILE, EVIDENCE_FILE}
    for file in sorted(work.folder.glob("*")) if work.folder.is_dir() else ():
        if file.name not in expected:
            work.record("a file that is not part of the release", file, MISSING, f"{file.stat().st_size} bytes")


def copies(work: Inspection, manifest: Manifest) -> None:
    """Compare the release's copies of the contract and of the expectations' result with the manifest."""
    for what, name, expected in (
        ("the contract", CONTRACT_FILE, manifest.contract.sha256),
        ("the expectations' result", EVIDENCE_FILE, manifest.expectations.result_sha256),
    ):
        file = work.folder / name
        data = read(work, file, what)
        if data is not None:
            work.compare(f"{what} was changed", file, f"sha256 {expected}", f"sha256 {digest(data)}")


def table_log(work: Inspection, manifest: Manifest) -> None:
    """Compare the log of the pinned version with the manifest: the same files, sizes, rows and columns."""
    table = manifest.table
    log = settings().store / table.path / "_delta_log"
    try:
        version = snapshot(table.name, table.delta_version)
    except ExchangeError as error:
        work.record("the log of the table cannot be read", log, f"version {table.delta_version}", error.what)
        return
    except Exception as error:
        # On a damaged log, its reader fails in undocumented ways.
        message = f"{type(error).__name__}: {error}"
        work.record("the log of the table is damaged", log, f"version {table.delta_version}", message)
        return
    work.compare("the table is another one", log, table.id, version.id)
    columns = {column.name: column.type for column in table.columns}
    work.compare("the table's log lists other columns", log, columns, version.columns)
    _logged_files(work, manifest, version, log)


def _logged_files(work: Inspection, manifest: Manifest, version: Snapshot, log: Path) -> None:
    released = {file.path: file for file in manifest.files}
    for path in sorted(released.keys() | version.files.keys()):
        place = f"{_relative(log)}, version {version.version}, {path}"
        if path not in version.files:
            work.record("the log does not list a file of the release", place, "the file", MISSING)
        elif path not in released:
            rows = version.files[path].rows
            work.record("the log lists a file that was not released", place, MISSING, f"{rows} rows")
        else:
            logged, file = version.files[path], released[path]
            work.compare("the log lists another size", place, file.size, logged.size)
            work.compare("the log lists another number of rows", place, file.rows, logged.rows)


def data_files(work: Inspection, manifest: Manifest) -> int:
    """Verify the digest and row count of every data file; returns the number of bytes read."""
    folder = lake.location(manifest.table.name)
    rows = sum(f.rows for f in manifest.files)
    work.compare("the files' rows do not add up", work.folder / MANIFEST_FILE, manifest.table.rows, rows)
    total = 0
    for file, size, sha256 in _digested(folder, manifest.files):
        place = folder / file.path
        if size is None:
            work.record("a data file is missing", place, f"{file.size} bytes", MISSING)
            continue
        total += size
        if sha256 == file.sha256:
            _compare_rows(work, place, file)
            continue
        work.compare("a data file has another size", place, f"{file.size} bytes", f"{size} bytes")
        work.record("a data file was changed", place, f"sha256 {file.sha256}", f"sha256 {sha256}")
    return total


def _compare_rows(work: Inspection, place: Path, file: ReleasedFile) -> None:
    rows = lake.rows_in(place)
    work.compare("a data file has another number of rows than the manifest lists", place, file.rows, rows)


def _digested(folder: Path, files: Iterable[ReleasedFile]) -> Iterator[tuple[ReleasedFile, int | None, str]]:
    def one(file: ReleasedFile) -> tuple[ReleasedFile, int | None, str]:
        place = folder / file.path
        return (file, place.stat().st_size, sha256_of(place)) if place.is_file() else (file, None, "")

    with ThreadPoolExecutor(max_workers=4) as pool:
        yield from pool.map(one, files)


def landed_files(work: Inspection, manifest: Manifest) -> None:
    """Verify every copy of each landed file that the release comes from against the sha256 in its name."""
    digests_needed = set(manifest.landed)
    copies = [
        file
        for source in manifest.sources
        for file in sorted((settings().landing / source.source).rglob("*"))
        if file.name[:64] in digests_needed and not file.name.endswith(_LANDING_MANIFEST) and file.is_file()
    ]
    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = list(pool.map(sha256_of, copies))
    for file, sha256 in zip(copies, digests, strict=True):
        work.compare("a landed file was changed", file, f"sha256 {file.name[:64]}", f"sha256 {sha256}")
    for sha256 in sorted(digests_needed - {file.name[:64] for file in copies}):
        work.record("a landed file is missing", f"landing, {sha256}", f"sha256 {sha256}", MISSING)


def read(work: Inspection, file: Path, what: str) -> bytes | None:
    """A file's bytes; a missing file is recorded as a discrepancy."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        work.record(f"{what} is missing", file, "the file", MISSING)
        return None


def _relative(place: Path) -> str:
    """A path relative to the lake's store, or else to the exchange's home."""
    root = settings().store if str(place).startswith(str(settings().store)) else settings().home
    return str(place).removeprefix(str(root)).lstrip("/")


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}…"
