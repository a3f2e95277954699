"""Finds files in a table's folder that no version in use references, and removes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Set
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

from jobs.lake.log import files
from jobs.lake.objects import Listed, listed
from jobs.lake.place import LOG, location, log_folder

# Names of commits, checkpoints and checksums begin with the number of their version.
_NUMBERED = re.compile(r"(\d{20})\..+")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")


def unneeded(
    table: str, versions: Iterable[int], since: datetime, pinned: Set[str] = frozenset()
) -> Iterator[tuple[str, int]]:  # fmt: skip
    """Data files that none of these versions references, nor any version that was the newest after an instant.

    Args:
        table: the table.
        versions: the versions whose files are read from the log, which takes a while for each.
        since: the instant.
        pinned: further files to keep, as paths relative to the table's folder.

    Yields:
        Path relative to the table's folder, and size, of each that was last written before that instant.
    """
    needed = {f.path for v in versions for f in files(table, v)} | pinned | _removed_since(table, since)
    for file in listed(location(table)):
        is_data = file.name.endswith(".parquet") and not file.name.startswith(f"{LOG}/")
        if is_data and file.name not in needed and file.modified_at < since:
            yield file.name, file.size


def unneeded_log(table: str, versions: Iterable[int], since: datetime) -> Iterator[tuple[str, int]]:
    """Parts of a table's log that no reader of these versions needs, nor of any that was the newest after an instant.

    A reader begins at the newest checkpoint that is not after the version it wants, and reads the commits that follow.
    The log is cut only before a checkpoint, so every version from that checkpoint on stays readable.

    Yields:
        as `unneeded`.
    """
    log = list(listed(log_folder(table)))
    oldest = min([*versions, _newest_at(log, since)])
    begins = max((int(m[1]) for m in map(_CHECKPOINT.fullmatch, _names(log)) if m and int(m[1]) <= oldest), default=0)
    for file in log:
        number = _NUMBERED.fullmatch(file.name)
        if number and int(number[1]) < begins and file.modified_at < since:
            yield f"{LOG}/{file.name}", file.size


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files of a folder that `unneeded`, `unneeded_log` or `leftovers` listed."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _names(log: list[Listed]) -> Iterator[str]:
    return (file.name for file in log)


def _newest_at(log: list[Listed], instant: datetime) -> int:
    """The version that was the newest at an instant; the oldest in the log if all are younger."""
    commits = {int(f.name[:20]): f.modified_at for f in log if re.fullmatch(r"\d{20}\.json", f.name)}
    return max((v for v, at in commits.items() if at < instant), default=min(commits, default=0))


def _removed_since(table: str, since: datetime) -> set[str]:
    """Files removed by a commit after that instant: whoever began to read before it may still be reading them."""
    removed: set[str] = set()
    folder = log_folder(table)
    for file in listed(folder):
        if not file.name.endswith(".json") or file.modified_at < since:
            continue
        actions = map(json.loads, (folder / file.name).read_text(encoding="utf-8").splitlines())
        removed |= {unquote(action["remove"]["path"]) for action in actions if "remove" in action}
    return removed
