"""Makes a table's commits survive a power cut, and finds those that did not.

After a cut, a file that was never synced may be empty, cut or gone. A commit that nothing relies on yet is nobody's
loss and is put aside; any other damaged commit is reported, because whoever read on would see an older table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from jobs.durable import sync
from jobs.errors import Tampered
from jobs.lake.place import location, log_folder
from jobs.settings import settings

_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\b.*\.parquet")
_OF_VERSION = re.compile(r"\d{20}\.")
# The shortest action that a commit can consist of is longer.
_SHORTEST = 16


def sync_commit(table: str, version: int | None = None) -> None:
    """Have the system write a commit to the disk: its data files, then the log's own, each with its folders.

    Only then may anything outside of the table rely on the version. An object store needs none of it: what it has
    acknowledged is kept.

    Args:
        table: the table.
        version: the commit's; the newest if None.

    Raises:
        OSError: a file is missing, or the disk failed.
    """
    if settings().is_remote:
        return
    folder = location(table)
    log = log_folder(table)
    commit = log / f"{version:020d}.json" if version is not None else max(_commits(log))[1]
    data = [folder / path for path in _added(commit)]
    folders = {parent for file in data for parent in file.parents if parent.is_relative_to(folder)}
    for file in data:
        sync(file)
    for parent in sorted(folders, key=lambda parent: -len(parent.parts)):
        sync(parent)
    # Checkpoints and checksums of the version have its number, too.
    for file in sorted(log.glob(f"{commit.name[:20]}.*")):
        sync(file)
    sync(log)
    if int(commit.name[:20]) == 0:
        for parent in (folder, folder.parent, settings().lake, settings().store):
            sync(parent)


def require_whole(table: str, version: int) -> None:
    """Refuse a version that cannot be read without a commit that is missing or holds nothing.

    Readers of logs take an empty commit for one that changed nothing, and some a missing first one, too.

    Raises:
        Tampered: a commit of it is missing or empty.
    """
    if settings().is_remote:
        return
    log = log_folder(table)
    files = dict(_commits(log))
    begins = max((v for v in _checkpoints(log) if v <= version), default=-1)
    for number in range(begins + 1, version + 1):
        file = files.get(number)
        if file is None or _is_blank(file):
            raise Tampered(
                f"the commit of version {number} is {'empty' if file else 'missing'}, so {table} would be read as it"
                " never was",
                where=str(log / f"{number:020d}.json"),
                expected="the commit as it was written, in lines of JSON",
                next_step=f"restore the file from a backup, or run: exchange rebuild {table}",
            )


def put_torn_aside(table: str, after: int = -1) -> bool:
    """Move the newest commits out of the log, if a power cut left them empty or cut, to the table's folder ``_torn``.

    Args:
        table: the table.
        after: the newest version that anything relies on; it and those before are left as they are.

    Returns:
        Whether there were any.
    """
    log = log_folder(table)
    if settings().is_remote or not log.is_dir():
        return False
    torn = None
    for number, file in sorted(_commits(log), reverse=True):
        if number <= after or _is_readable(file):
            break
        torn = number
    if torn is None:
        return False
    aside = location(table) / "_torn"
    aside.mkdir(exist_ok=True)
    for file in list(log.iterdir()):
        if _OF_VERSION.match(file.name) and int(file.name[:20]) >= torn:
            file.replace(aside / file.name)
    sync(log)
    return True


def _commits(log: Path) -> Iterator[tuple[int, Path]]:
    return ((int(m[1]), file) for file in log.iterdir() if (m := _COMMIT.fullmatch(file.name)))


def _checkpoints(log: Path) -> Iterator[int]:
    return (int(m[1]) for file in log.iterdir() if (m := _CHECKPOINT.fullmatch(file.name)))


def _added(commit: Path) -> Iterator[str]:
    """Paths of the data files that a commit adds, relative to the table's folder."""
    for line in commit.read_text(encoding="utf-8").splitlines():
        if '"add"' in line and "add" in (action := json.loads(line)):
            # The log writes paths as URLs.
            yield unquote(action["add"]["path"])


def _is_blank(file: Path) -> bool:
    return file.stat().st_size < _SHORTEST and not file.read_bytes().strip(b"\0 \r\n\t")


def _is_readable(file: Path) -> bool:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return bool(lines) and all(isinstance(json.loads(line), dict) for line in lines)
    except ValueError:
        return False
