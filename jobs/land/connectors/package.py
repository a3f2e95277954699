"""Fetches files from a wheel on a package index, so that a data package is a publisher like any other."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from jobs.declared.connector import PackageConnector, is_executable, matches
from jobs.errors import ExchangeError, NotFound, PublisherError, RefusedFile, disk_full
from jobs.lake.objects import sha256_of
from jobs.land.containers import Budget, Guarded
from jobs.land.fetched import Fetched
from jobs.settings import settings

_TIMEOUT = 1800
_CHUNK = 1 << 20
_ADDRESS = re.compile(r"\b[a-z+]+://\S+|host='[^']*'|\b[\w.-]+:\d{2,5}\b", re.I)
_NETWORK = re.compile(
    r"Retrying \(|NewConnectionError|ConnectionError|ConnectTimeout|ReadTimeout|timed out|ProxyError|SSLError"
    r"|HTTP error 5\d\d|5\d\d Server Error|Temporary failure in name resolution|IncompleteRead",
    re.I,
)
# 404 means that the index lacks the package; any other failed answer says nothing about the package.
_NO_ANSWER = re.compile(r"Could not fetch URL \S+: (?!404 )(.*?)(?: for url: .*)?(?: - skipping)?$", re.M)
_VERSIONS = re.compile(r"\(from versions: ([^)]*)\)")


def fetch(connector: PackageConnector, _source: str, scratch: Path) -> Iterator[Fetched]:
    """Download a wheel with pip, under pip's own configuration, and extract the declared files.

    Nothing is installed or imported. A pinned version is downloaded once. Where the declaration has its
    sha256, no other content is opened or kept.

    Raises:
        PublisherError: the index is unreachable or the connection breaks.
        NotFound: the index lacks the package, version or wheel, or the wheel lacks a declared file.
        RefusedFile: the wheel is damaged or not the declared one, or a file in it runs code when opened.
    """
    wheel = _kept(connector) or _downloaded(connector, scratch)
    version = _version(wheel)
    sha256 = sha256_of(wheel)
    try:
        archive = zipfile.ZipFile(wheel)
    except zipfile.BadZipFile as error:
        raise RefusedFile("the wheel is not a zip", where=wheel.name, next_step="tell the package's owner") from error
    with archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        budget = Budget(wheel.name, wheel.stat().st_size)
        for number, name in enumerate(_chosen(names, connector.files, wheel.name)):
            target = scratch / f"{number:04d}" / PurePosixPath(name).name
            _extract(archive, name, target, budget)
            yield Fetched(
                path=target,
                file_name=target.name,
                url=f"pkg:pypi/{_canonical(connector.package)}@{version}#{name}",
                facts={"package": connector.package, "version": version, "wheel_sha256": sha256, "member": name},
            )


def _chosen(names: list[str], globs: Sequence[str], wheel: str) -> list[str]:
    chosen: list[str] = []
    for glob in globs:
        matching = [name for name in names if matches(name, glob)]
        if not matching:
            leaf = {PurePosixPath(name).name: name for name in names}
            near = get_close_matches(glob, names, 5, 0.5)
            near += [leaf[name] for name in get_close_matches(PurePosixPath(glob).name, list(leaf), 5, 0.6)]
            listed = ", ".join(list(dict.fromkeys(near))[:5] or names[:5])
            raise NotFound(
                f"no file in the wheel matches {glob!r}",
                where=wheel,
                expected=f"a path inside the wheel (** crosses folders), for example {listed}",
                next_step="correct `files:` in the connector block",
            )
        chosen += [name for name in sorted(matching) if name not in chosen]
    unsafe = [name for name in chosen if is_executable(name)]
    if unsafe:
        raise RefusedFile(
            f"{unsafe[0]} is a pickle; opening it runs code, so it is never fetched",
            where=wheel,
            expected="data files, for example csv, json, gz or zip",
            next_step="narrow `files:` in the connector block",
        )
    return chosen


def _extract(archive: zipfile.ZipFile, name: str, target: Path, budget: Budget) -> None:
    target.parent.mkdir(parents=True)
    try:
        with archive.open(name) as member, target.open("wb") as file:
            stream = Guarded(member, f"{budget.file_name}!{name}", budget)
            while data := stream.read(_CHUNK):
                file.write(data)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise RefusedFile(
            f"{name} is damaged ({error})", where=budget.file_name, next_step="tell the package's owner"
        ) from error
    except OSError as error:
        raise disk_full(error, target) from error


def _kept(connector: PackageConnector) -> Path | None:
    """The earlier downloaded wheel of a pinned version, unless its bytes have changed since."""
    if connector.version == "latest":
        return None
    folder = settings().home / "packages" / f"{_canonical(connector.package)}-{connector.version}"
    for wheel in sorted(folder.glob("*/*.whl")):
        sha256 = wheel.parent.name
        if sha256 in (connector.sha256 or (sha256,)) and sha256_of(wheel) == sha256:
            return wheel
    return None


def _downloaded(connector: PackageConnector, scratch: Path) -> Path:
    kept = settings().home / "packages"
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        _run_pip(connector, Path(folder))
        wheels = list(Path(folder).glob("*.whl"))
        if not wheels:
            raise PublisherError("pip downloaded no wheel", where=connector.package, next_step="run the step again")
        wheel = wheels[0]
        version = _version(wheel) if connector.version == "latest" else connector.version
        name, sha256 = f"{_canonical(connector.package)}-{version}", sha256_of(wheel)
        if sha256 not in (connector.sha256 or (sha256,)):
            raise _another(connector, wheel.name, sha256)
        target = kept / name / sha256 / wheel.name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{os.getpid()}.{target.name}.part")
        try:
            with wheel.open("rb") as source, partial.open("wb") as file:
                while data := source.read(_CHUNK):
                    file.write(data)
            partial.replace(target)
        except OSError as error:
            raise disk_full(error, target) from error
        finally:
            partial.unlink(missing_ok=True)
        return target


def _another(connector: PackageConnector, wheel: str, sha256: str) -> RefusedFile:
    return RefusedFile(
        f"the package index serves another content than the declaration pins, sha256 {sha256}",
        where=f"{connector.package}=={connector.version} ({wheel})",
        expected=f"sha256 {' or '.join(connector.sha256)}",
        next_step="find out from the package's owner why it differs, and whether your index or mirror can be trusted;"
        " only if this content is right, add its digest to `sha256:` in the connector block",
    )


def _run_pip(connector: PackageConnector, folder: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ExchangeError(
            "pip is not in this environment", where=sys.executable, next_step="install the project's dependencies again"
        )
    requirement = connector.package if connector.version == "latest" else f"{connector.package}=={connector.version}"
    # Without -vv, pip reports an unreachable index as a missing package.
    options = ["-vv", "--no-deps", "--only-binary", ":all:", "--no-input", "--progress-bar=off"]
    options.append("--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    try:
        # Name and version match a pattern that allows neither options nor addresses.
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise PublisherError(
            f"the download took longer than {_TIMEOUT // 60} minutes",
            where=requirement,
            next_step="run the step again later",
        ) from error
    if done.returncode:
        raise _explained(connector, requirement, done.stdout + done.stderr)


def _explained(connector: PackageConnector, requirement: str, output: str) -> ExchangeError:
    if "No space left on device" in output:
        return ExchangeError("the disk is full", where=requirement, next_step="free some space and run the step again")
    errors = [line.removeprefix("ERROR: ").strip() for line in output.splitlines() if line.startswith("ERROR")]
    detail = _ADDRESS.sub("the package index", "; ".join(errors) or output.strip()[-300:])[:500]
    unanswered = _NO_ANSWER.search(output)
    if unanswered or _NETWORK.search(output):
        reason = _ADDRESS.sub("the package index", unanswered.group(1))[:200] if unanswered else detail
        return PublisherError(
            f"the package index is unreachable ({reason})", where=requirement, next_step="run the step again later"
        )
    versions = _VERSIONS.search(output)
    available = [] if versions is None else [name for name in versions.group(1).split(", ") if name and name != "none"]
    if versions and not available:
        return NotFound(
            f"the package index has no wheel of {connector.package!r}",
            where=requirement,
            expected="a package with a wheel for this Python version",
            next_step="correct `package:` in the connector block",
        )
    if versions:
        near = get_close_matches(connector.version, available, 3, 0.5)
        return NotFound(
            f"{connector.package!r} has no version {connector.version!r}",
            where=requirement,
            expected=f"one of {', '.join(dict.fromkeys([*near, *available[-5:]]))}",
            next_step="correct `version:` in the connector block",
        )
    return ExchangeError(f"pip refused: {detail}", where=requirement, next_step="correct the connector block")


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def _canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
