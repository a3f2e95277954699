"""Fetches the files that people or partners put into a source's watched folder, and leaves them there.

Whoever can write to the folder can also swap a file for a link between two looks at it, so every file is opened once,
step by step from the folder and following no link, and all that is said of it is said of the open file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from jobs.declared.connector import DropConnector, is_executable, matches
from jobs.land.fetched import Fetched, NotTaken, still_written, version_of
from jobs.settings import settings

# How programs that copy name a file until it is complete.
_UNFINISHED = (
    ".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".filepart", ".incomplete", ".inprogress",
    ".uploading", ".writing", "._copying_", ".swp", "~",
)  # fmt: skip
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Opening a pipe would otherwise wait for its writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_LINK = ("a link to outside the folder or to nothing", "replace it by a copy of the file")
_PICKLE = ("a pickle; opening it runs code", "remove it from the folder, or narrow `files:`")
_NOT_UTF8 = ("its name is not UTF-8", "rename it")
_NO_FILE = ("not a regular file", "remove it from the folder")


@dataclass(frozen=True)
class _Found:
    """A file of the folder that the declaration asks for.

    Attributes:
        name: its path from the folder.
        target: the same with links followed.
        seen: its status when the folder was listed.
    """

    name: str
    target: str
    seen: os.stat_result


def fetch(connector: DropConnector, source: str, _scratch: Path) -> Iterator[Fetched | NotTaken]:
    """Yield the files in ``drop/<source>/`` that match the globs, oldest first; create the folder if needed.

    Hidden and temporary names are skipped. A file that changed within the last seconds (`drop_quiet_seconds`) is looked
    at again after as many; one that changed meanwhile, or that a program has open for writing, is left for the next
    run. Links within the folder are followed. Any other file is yielded as not taken.
    """
    folder = settings().drop / source
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(os.path.realpath(folder))
    found: list[_Found] = []
    for one in _listed(root, connector):
        if isinstance(one, NotTaken):
            yield one
        else:
            found.append(one)
    _wait_until_quiet(found)
    for file in sorted(found, key=lambda file: (file.seen.st_mtime_ns, file.name)):
        with ExitStack() as stack:
            opened = _opened(root, file, stack)
            if isinstance(opened, NotTaken):
                yield opened
            elif opened is not None:
                yield _fetched(root, source, file, opened)


def _fetched(root: Path, source: str, file: _Found, opened: BinaryIO) -> Fetched:
    status = os.fstat(opened.fileno())
    return Fetched(
        path=root / file.target,
        file_name=file.name.rpartition("/")[2],
        url=f"drop:{source}/{file.name}",
        etag=_mark(status),
        published_at=datetime.fromtimestamp(status.st_mtime, UTC),
        facts={"member": file.name},
        opened=opened,
    )


def _mark(status: os.stat_result) -> str:
    """A mark that changes whenever the bytes do: it includes the ctime, which only the system can set."""
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}"


def _listed(root: Path, connector: DropConnector, below: str = "") -> Iterator[_Found | NotTaken]:
    try:
        with os.scandir(root / below) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        # A folder may vanish between two looks.
        if not isinstance(error, FileNotFoundError):
            yield NotTaken(_printable(below) or str(root), _reason(error), "correct its owner or permissions")
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name.startswith("~") or entry.name.lower().endswith(_UNFINISHED):
            continue
        name = f"{below}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _listed(root, connector, f"{name}/")
        elif (one := _one(root, connector, name)) is not None:
            yield one


def _one(root: Path, connector: DropConnector, name: str) -> _Found | NotTaken | None:
    """A file of the folder; None if it is gone by now."""
    shown = _printable(name)
    if shown != name:
        return NotTaken(shown, *_NOT_UTF8)
    if not any(matches(name, glob) for glob in connector.files):
        asked = ", ".join(connector.files)
        return NotTaken(
            name, f"`files:` of source.yaml ({asked}) does not match it", "add a glob, or move it elsewhere", False
        )
    if is_executable(name):
        return NotTaken(name, *_PICKLE)
    try:
        # Not followed: the link itself may have vanished, which is no fault of its target.
        (root / name).lstat()
    except FileNotFoundError:
        return None
    try:
        target = Path(os.path.realpath(root / name, strict=True))
        seen = target.lstat()
    except OSError as error:
        return NotTaken(name, *_LINK) if error.errno in (errno.ENOENT, errno.ELOOP) else _unreadable(name, error)
    if not target.is_relative_to(root):
        return NotTaken(name, *_LINK)
    if not stat.S_ISREG(seen.st_mode):
        return NotTaken(name, *_NO_FILE)
    return _Found(name, target.relative_to(root).as_posix(), seen)


def _wait_until_quiet(found: list[_Found]) -> None:
    """Wait if a file changed a moment ago, until none that changes no more is younger than the quiet time."""
    quiet = settings().drop_quiet_seconds
    now = time.time()
    # The clock of a partner's machine may be ahead of ours; its files are looked at twice as well.
    ages = [max(0.0, now - file.seen.st_mtime) for file in found]
    youngest = min(ages, default=quiet)
    if youngest < quiet:
        time.sleep(quiet - youngest)


def _opened(root: Path, file: _Found, stack: ExitStack) -> BinaryIO | NotTaken | None:
    """The file, open and complete; None if it is gone."""
    *folders, leaf = file.target.split("/")
    try:
        place = _folder(root, stack)
        for folder in folders:
            place = _folder(folder, stack, place)
        opened = stack.enter_context(os.fdopen(os.open(leaf, _FILE, dir_fd=place), "rb"))
    except FileNotFoundError:
        return None
    except OSError as error:
        swapped = error.errno in (errno.ELOOP, errno.ENOTDIR)
        return NotTaken(file.name, *_LINK) if swapped else _unreadable(file.name, error)
    status = os.fstat(opened.fileno())
    if not stat.S_ISREG(status.st_mode):
        return NotTaken(file.name, *_NO_FILE)
    if version_of(status) != version_of(file.seen) or _is_open_for_writing(opened):
        return still_written(file.name)
    return opened


def _folder(path: Path | str, stack: ExitStack, place: int | None = None) -> int:
    opened = os.open(path, _FOLDER, dir_fd=place)
    stack.callback(os.close, opened)
    return opened


def _is_open_for_writing(file: BinaryIO) -> bool:
    """Whether a program on this machine has the file open for writing, where the system says so.

    Linux gives a read lease only on a file that nobody writes, and only to its owner or with the capability to take
    any; otherwise nothing is known. See fcntl(2).
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        # Whoever opens the file while the lease is held has this process sent a signal. The default one would end it.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False


def _unreadable(name: str, error: OSError) -> NotTaken:
    return NotTaken(name, _reason(error), "correct its owner or permissions")


def _reason(error: OSError) -> str:
    return f"cannot be read ({error.strerror or error})"


def _printable(name: str) -> str:
    """A file's name; bytes that are not UTF-8 appear as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
