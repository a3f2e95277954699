"""Every failure that users can cause or meet, as one line: what, where, what was expected, what to do next."""

from __future__ import annotations

import errno
from pathlib import Path


class ExchangeError(Exception):
    """A failure that is explained to the user instead of shown as a traceback.

    Args:
        what: what went wrong, in one sentence without a full stop.
        where: the file, line, field, table or address it happened at.
        expected: what would be right.
        next_step: what the reader should do next.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        next_step: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.next_step = next_step
        super().__init__(str(self))

    def __str__(self) -> str:
        return f"{self.finding}. Next: {self.next_step}" if self.next_step else self.finding

    @property
    def finding(self) -> str:
        """Where, what, and what was expected, without the next step."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; expected {self.expected}" if self.expected else text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(kind: type[ExchangeError], state: dict[str, object]) -> ExchangeError:
    error = kind.__new__(kind)
    error.__dict__.update(state)
    Exception.__init__(error, str(error))
    return error


class DeclarationError(ExchangeError):
    """An unusable source.yaml, product.yaml, query.sql, silver.sql or contract."""

    def __init__(
        self,
        what: str,
        *,
        file: Path,
        line: int | None = None,
        field: str | None = None,
        expected: str | None = None,
        next_step: str | None = None,
    ) -> None:
        self.file = file
        self.line = line
        self.field = field
        place = f"{file}:{line}" if line else str(file)
        if field:
            place += f" ({field})"
        super().__init__(what, where=place, expected=expected, next_step=next_step)


class Transient(ExchangeError):
    """Something outside is away or busy for now; the same work may succeed later, and Airflow tries it again."""


class Unavailable(Transient):
    """The object store, the database or the engine cannot be reached."""


class PublisherError(Transient):
    """The publisher or the network is at fault; a later retry may help."""


class RefusedFile(ExchangeError):
    """A landed file without a single usable row; its bytes stay in landing."""


class ExpectationsFailed(ExchangeError):
    """A built version broke a rule of severity error; the version before stays the checked one."""


class Unfinished(ExchangeError):
    """A product that is built and checked, but not released as long as its declarations are drafts."""


class AcceptanceNeeded(ExchangeError):
    """A version that would take something from its readers; they get it once a person accepts that."""


class Locked(Transient):
    """Another process holds the lock or lease that this work needs; a later retry may help."""


class ConcurrentWrite(Locked):
    """Another process committed to a table during this step; the step can be retried from the beginning."""


class NotFound(ExchangeError):
    """A source, product, table, release, participant or grant that does not exist."""


class Tampered(ExchangeError):
    """Immutable content that no longer matches its recorded digest, or is missing."""


def disk_full(error: OSError, path: Path) -> ExchangeError:
    """Explain a failed write: the disk is full, or the system's own message."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ExchangeError(
            "the disk is full",
            where=str(path),
            next_step="free some space (no partial file was left), then run the step again",
        )
    return ExchangeError(
        f"cannot be read or written ({error.strerror or error})",
        where=str(error.filename or path),
        next_step="correct the folder's owner or permissions, then run the step again",
    )
