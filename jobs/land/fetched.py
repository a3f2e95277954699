"""What a connector yields: one file as it arrived, not yet landed, or one that it does not take."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Fetched:
    """One file as it arrived, not yet landed.

    Attributes:
        path: where its bytes are now; landing copies them.
        file_name: its name at the publisher, without folders.
        url: its address at the publisher, without secrets and without the address of an index or a machine.
        etag: the publisher's own version mark.
        published_at: when the publisher made it (UTC), if known.
        facts: other facts from the connector, for example package and version.
        opened: the open file, where others can write: what `path` names may be another file by now. The connector
            closes it.
    """

    path: Path
    file_name: str
    url: str
    etag: str | None = None
    published_at: datetime | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    opened: BinaryIO | None = None

    @contextmanager
    def content(self) -> Iterator[BinaryIO]:
        """Its bytes, from the beginning."""
        if self.opened is not None:
            self.opened.seek(0)
            yield self.opened
            return
        with self.path.open("rb") as file:
            yield file


@dataclass(frozen=True, slots=True)
class NotTaken:
    """A file that a connector found and does not take; the others land.

    Attributes:
        name: the file's name, printable.
        reason: why it is not taken; files with the same reason are reported together.
        next_step: what to do about it.
        is_refused: whether it is never taken as it is. Otherwise it is only passed over, or taken by a later run.
    """

    name: str
    reason: str
    next_step: str
    is_refused: bool = True


class StillWritten(Exception):
    """A file changed while it was copied, so that the copy may be neither what it was nor what it is."""


def still_written(name: str) -> NotTaken:
    """A file that is left for the next run, because someone is writing it."""
    return NotTaken(name, "still being written", "the next run takes it once it is complete", is_refused=False)


def version_of(status: os.stat_result) -> tuple[int, int]:
    """Size and time of modification (nanoseconds) of a file, which a writer changes."""
    return status.st_size, status.st_mtime_ns
