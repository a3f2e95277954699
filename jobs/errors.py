"""Every failure a user can cause or meet, as one line: what, where, what was expected, what to do next."""

from __future__ import annotations

import errno
from pathlib import Path


class ExchangeError(Exception):
    """A failure that is explained to the user instead of shown as a traceback.

    Args:
        what: what went wrong, in one sentence without a full stop.
        where: the file, line, field, table or address it happened at.
        expected: what would have been right.
        next_step: what the reader should do now.
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
    """A source.yaml, product.yaml, query.sql, silver.sql or contract that cannot be used."""

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


class PublisherError(ExchangeError):
    """The publisher or the way to it is at fault; trying again later may help."""


class RefusedFile(ExchangeError):
    """A landed file none of whose rows can be read; its bytes stay in landing."""


class ExpectationsFailed(ExchangeError):
    """A built version broke a rule of severity error; the version before stays the checked one."""


class Locked(ExchangeError):
    """Somebody else holds the lock or lease that this work needs; trying again later may help."""


class ConcurrentWrite(Locked):
    """Somebody else committed to a table during this step; the step can be done again from the beginning."""


class NotFound(ExchangeError):
    """A name that nothing carries: source, product, table, release, participant or grant."""


class Tampered(ExchangeError):
    """Something that must never change differs from its recorded digest."""


def disk_full(error: OSError, path: Path) -> ExchangeError:
    """Explain why writing failed: the disk is full, or what the system says."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ExchangeError(
            "the disk is full",
            where=str(path),
            next_step="free some space (nothing half-written was left), then run the step again",
        )
    return ExchangeError(
        f"cannot be read or written ({error.strerror or error})",
        where=str(error.filename or path),
        next_step="correct the folder's owner or rights, then run the step again",
    )
