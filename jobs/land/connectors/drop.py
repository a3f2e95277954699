"""Fetches the files that people or partners put into a source's watched folder, and leaves them there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from os import stat_result
from pathlib import Path, PurePosixPath

from jobs.declared.connector import DropConnector, is_executable
from jobs.errors import ExchangeError
from jobs.land.fetched import Fetched
from jobs.settings import settings

_UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".filepart", ".swp", "~")
_SETTLING = 1.0


def fetch(connector: DropConnector, source: str, _scratch: Path) -> Iterator[Fetched]:
    """Yield the files in ``drop/<source>/`` that match the globs, oldest first; create the folder if needed.

    Hidden and temporary names are skipped. If a file changed within the last second, all are checked again after one
    second, and those still changing are left for the next run. A glob with a slash matches in subfolders.

    Raises:
        ExchangeError: after all good files, if a link leads outside the folder or a file runs code when opened.
    """
    folder = settings().drop / source
    folder.mkdir(parents=True, exist_ok=True)
    real_folder = folder.resolve()
    matching = list(_matching(folder, connector.files))
    outside = [path for path in matching if path.is_symlink() and not _is_inside(path, real_folder)]
    unsafe = [path for path in matching if is_executable(path.name)]
    refused = {*outside, *unsafe}
    stats = {path: path.stat() for path in matching if path not in refused and path.exists()}
    newest = max((stat.st_mtime for stat in stats.values()), default=0.0)
    if newest > time.time() - _SETTLING:
        time.sleep(_SETTLING)
    for path, stat in sorted(stats.items(), key=lambda item: (item[1].st_mtime_ns, item[0])):
        if _is_settled(path, stat):
            name = path.relative_to(folder).as_posix()
            yield Fetched(
                path=path,
                file_name=path.name,
                url=f"drop:{source}/{name}",
                etag=_mark(stat),
                published_at=datetime.fromtimestamp(stat.st_mtime, UTC),
                facts={"member": name},
            )
    _refuse(folder, outside, unsafe)


def _mark(stat: stat_result) -> str:
    """A mark that changes whenever the bytes do: it includes the ctime, which only the system can set."""
    return f"{stat.st_ino:x}-{stat.st_size:x}-{stat.st_mtime_ns:x}-{stat.st_ctime_ns:x}"


def _matching(folder: Path, globs: Sequence[str]) -> Iterator[Path]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        unfinished = path.name.lower().endswith(_UNFINISHED) or path.name.startswith("~")
        hidden = any(part.startswith(".") for part in name.parts)
        if not hidden and not unfinished and _matches(name, globs) and (path.is_symlink() or path.is_file()):
            yield path


def _matches(name: Path, globs: Sequence[str]) -> bool:
    plain = PurePosixPath(name)
    return any(fnmatchcase(str(plain), glob) and len(plain.parts) == len(PurePosixPath(glob).parts) for glob in globs)


def _is_inside(path: Path, real_folder: Path) -> bool:
    real = path.resolve()
    return real.is_relative_to(real_folder) and real.is_file()


def _is_settled(path: Path, before: stat_result) -> bool:
    try:
        after = path.stat()
    except FileNotFoundError:
        return False
    return (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def _refuse(folder: Path, outside: Sequence[Path], unsafe: Sequence[Path]) -> None:
    if outside:
        raise ExchangeError(
            f"{', '.join(sorted(path.name for path in outside))}: a link to outside the folder or to nothing",
            where=f"drop/{folder.name}",
            expected="files, or links to files in the same folder",
            next_step="replace the link by a copy of the file",
        )
    if unsafe:
        raise ExchangeError(
            f"{', '.join(sorted(path.name for path in unsafe))}: a pickle; opening it runs code",
            where=f"drop/{folder.name}",
            expected="data files, for example csv, json, gz or zip",
            next_step="remove it from the folder, or narrow `files:`",
        )
