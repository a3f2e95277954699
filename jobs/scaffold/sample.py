"""Opens a sample of a publisher's data, and picks the members of an archive that hold it."""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from jobs.declared.connector import DropConnector, PackageConnector
from jobs.errors import ExchangeError, NotFound
from jobs.land import members, refuse_document

# Enough to detect the encoding and layout of any file.
HEAD = 4 << 20
_PACKAGE = re.compile(r"^package:(?P<name>[A-Za-z0-9._-]+)(==(?P<version>[^#]+))?#(?P<member>.+)$")
_DATA = re.compile(r"\.(csv|tsv|tab|txt|dat|json|jsonl|ndjson|geojson)(\.gz)?$", re.I)
_SUFFIX = re.compile(r"(\.[A-Za-z0-9]{1,8}(\.gz)?)$")


@dataclass(frozen=True)
class Sample:
    """One file of a publisher, the connector for more of its kind, and the members that hold the data.

    Attributes:
        globs: the members of an archive that hold the data; empty for a single file.
        others: the members that are left out.
    """

    path: Path
    file_name: str
    connector: DropConnector | PackageConnector
    globs: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def head(self, size: int = HEAD) -> bytes:
        """Return the first bytes of the data, unpacked.

        Raises:
            RefusedFile: the file is damaged, or no format reads it.
        """
        for member in members(self.path, self.file_name, self.globs):
            data = b""
            while len(data) < size and (more := member.stream.read(size - len(data))):
                data += more
            return data
        return b""


@contextmanager
def sample_of(given: str) -> Iterator[Sample]:
    """Open a local file, or ``package:NAME==VERSION#member`` fetched from the package index, for the block.

    Raises:
        NotFound: there is no such file.
        ExchangeError: there is no such package or member.
    """
    if not given.startswith("package:"):
        path = Path(given).expanduser()
        if not path.is_file():
            raise NotFound(
                f"there is no file '{given}'",
                expected="a file, or package:NAME==VERSION#member/in/the/wheel.csv",
                next_step="correct the path",
            )
        suffix = _SUFFIX.search(path.name)
        glob = f"*{suffix.group(1)}" if suffix else "*"
        yield _with_members(Sample(path, path.name, DropConnector(files=(glob,))))
        return
    connector = _package(given)
    from jobs.land.connectors import fetch
    from jobs.land.fetched import Fetched

    with TemporaryDirectory(prefix="exchange-sample-") as scratch:
        for fetched in fetch(connector, source="sample", scratch=Path(scratch)):
            if isinstance(fetched, Fetched):
                pin = fetched.facts["wheel_sha256"] if connector.version != "latest" else ()
                pinned = PackageConnector.model_validate(connector.model_dump() | {"sha256": pin})
                yield _with_members(Sample(fetched.path, fetched.file_name, pinned))
                return
    raise NotFound(f"'{given}' has no such file", expected="a member of the package's wheel")


def _package(given: str) -> PackageConnector:
    from pydantic import ValidationError

    match = _PACKAGE.match(given)
    try:
        if match:
            return PackageConnector(
                package=match["name"], version=match["version"] or "latest", files=(match["member"],)
            )
        what = "package or member is missing"
    except ValidationError as error:
        what = str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
    raise ExchangeError(f"'{given}': {what}", expected="package:NAME==VERSION#member/in/the/wheel.csv")


def _with_members(sample: Sample) -> Sample:
    names = {name: size for name, size in _members(sample.path).items() if not _is_clutter(name)}
    if len(names) < 2:
        return sample
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in names:
        suffix_match = _DATA.search(name)
        kinds[suffix_match.group(0).lower() if suffix_match else ""].append(name)
    kinds.pop("", None)
    if not kinds:
        raise ExchangeError(
            f"the archive has no data file: {', '.join(list(names)[:10])}",
            where=str(sample.path),
            expected="a *.csv, *.json or similar member",
        )
    suffix, alike = max(kinds.items(), key=lambda kind: sum(names[n] for n in kind[1]))
    largest = max(alike, key=lambda n: names[n])
    one = replace(sample, globs=(PurePosixPath(largest).name,))
    same = all(_first_line(replace(sample, globs=(PurePosixPath(n).name,))) == _first_line(one) for n in alike)
    chosen = alike if same else [largest]
    return replace(
        sample, globs=(f"*{suffix}",) if same else one.globs, others=tuple(n for n in names if n not in chosen)
    )


def _first_line(sample: Sample) -> bytes:
    return sample.head(1 << 16).split(b"\n", 1)[0]


def _members(path: Path) -> dict[str, int]:
    """An archive's members and sizes; empty for other files, and for broken archives, which reading refuses."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                refuse_document(archive, path.name)
                return {i.filename: i.file_size for i in archive.infolist() if not i.is_dir()}
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as tar:
                return {i.name: i.size for i in tar if i.isfile()}
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError):
        return {}
    return {}


def _is_clutter(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name.startswith(".") or "__MACOSX" in path.parts
