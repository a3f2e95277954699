"""Turns what the engine says when it stops into one line that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import ExchangeError
from jobs.settings import settings

_FULL = (
    "No space left on device",
    "os error 28",
    "StorageFull",
    "Disk quota exceeded",
    "os error 122",
    "File too large",
)
_VALUES = ("by zero", "Cannot cast", "CAST_INVALID_INPUT", "CANNOT_PARSE", "invalid parsed", "verflow", "OutOfBounds")


@contextmanager
def explained(where: Path | str) -> Iterator[None]:
    """Explain whatever stops the engine, or the writing of a table, within the block.

    Args:
        where: the declaration that the work follows.

    Raises:
        ExchangeError: instead of what the engine, the table format or the system raised.
    """
    from deltalake.exceptions import DeltaError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, DeltaError) as error:
        raise _explanation(error, str(where)) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise _disk_full() from error


def _explanation(error: Exception, where: str) -> ExchangeError:
    text = str(error).strip()
    if any(sign in text for sign in _FULL):
        return _disk_full()
    first = next(iter(text.splitlines()), type(error).__name__)[:300]
    if any(sign in text for sign in _VALUES):
        return ExchangeError(
            f"the engine stopped at a value: {first}",
            where=where,
            expected="SQL that yields null where a value cannot be converted",
            next_step="use the function's try_ form, such as try_cast, try_to_timestamp or try_divide",
        )
    return ExchangeError(
        f"the engine stopped: {first}",
        where=where,
        next_step="if it names a column or function, correct the SQL there; otherwise run the step again",
    )


def _disk_full() -> ExchangeError:
    return ExchangeError(
        "the disk is full",
        where=str(settings().lake),
        next_step="free some space (no table was changed), then run the step again",
    )
