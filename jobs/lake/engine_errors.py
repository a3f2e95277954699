"""Translates the engine's errors into one line that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import ConcurrentWrite, ExchangeError, Unavailable
from jobs.lake import objects
from jobs.lake.engine import delta_release, engine_message, without_token
from jobs.settings import settings

_FULL = (
    "No space left on device",
    "os error 28",
    "StorageFull",
    "Disk quota exceeded",
    "os error 122",
    "File too large",
    # Hadoop looks for a folder with enough space before it writes.
    "Could not find any valid local directory",
)
_NO_DELTA = ("Failed to find the data source: delta", "DELTA_CONFIGURE_SPARK_SESSION_WITH_EXTENSION_AND_CATALOG")
_VALUES = ("by zero", "Cannot cast", "CAST_INVALID_INPUT", "CANNOT_PARSE", "invalid parsed", "verflow", "OutOfBounds")

# Delta refuses the later of two writers to one table; the earlier may be what a killed process asked for.
_CONCURRENT = ("DELTA_CONCURRENT_", "DELTA_METADATA_CHANGED", "DELTA_PROTOCOL_CHANGED")
_GONE = (
    "StatusCode.UNAVAILABLE",
    "SESSION_CHANGED",
    "SESSION_NOT_FOUND",
    "SESSION_CLOSED",
    "OPERATION_NOT_FOUND",
    "RESPONSE_ALREADY_RECEIVED",
    "SparkContext was shut down",
    "NO_ACTIVE_SESSION",
    "Cannot invoke RPC on closed channel",
)
# In the words of delta-rs, Sail and Hadoop.
_STORE_AWAY = (
    "Generic S3 error",
    "Unable to execute HTTP request",
    "Service: S3, Status Code: 5",
    "AWSStatus500Exception",
    "AWSServiceThrottledException",
    "AWSServiceIOException",
    "AWSClientIOException",
)


@contextmanager
def translate_engine_errors(where: Path | str) -> Iterator[None]:
    """Translate the errors that the engine, the table format, the object store or the system raise within the block.

    Args:
        where: the declaration that the work follows.

    Raises:
        ExchangeError: in place of the error; other errors pass through as they are.
    """
    try:
        yield
    except ExchangeError:
        raise
    except Exception as error:
        translated = _translated(error, str(where))
        if translated is None:
            raise
        raise translated from error


def _translated(error: Exception, where: str) -> ExchangeError | None:
    from deltalake.exceptions import DeltaError
    from pyspark.errors import PySparkException

    if isinstance(error, (PySparkException, DeltaError)):
        return _stopped(error, where)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _disk_full()
    if settings().is_remote:
        return objects.store_error(error, settings().store)
    return None


def no_delta(error: Exception) -> ExchangeError | None:
    """What to do about an engine without Delta Lake; None if the error is another."""
    if not any(sign in str(error) for sign in _NO_DELTA):
        return None
    return ExchangeError(
        "the engine has no Delta Lake",
        where="EXCHANGE_SPARK",
        expected=f"a Spark Connect server with delta-spark {delta_release()}, its extension and its catalogue",
        next_step="start it with the settings of `_connect_settings` in jobs/operate/cluster/engine.py",
    )


def _stopped(error: Exception, where: str) -> ExchangeError:
    text = str(error).strip()
    without_delta = no_delta(error)
    if without_delta:
        return without_delta
    if any(sign in text for sign in _FULL):
        return _disk_full(of_engine=True)
    if any(sign in text for sign in _GONE):
        return _engine_gone()
    first = (engine_message(error) or type(error).__name__)[:300]
    if any(sign in text for sign in _CONCURRENT):
        return ConcurrentWrite(
            f"another process wrote a table during this step: {first}",
            where=where,
            expected="one writer at a time",
            next_step="find out who else writes it, then run the step again",
        )
    if any(sign in text for sign in _STORE_AWAY):
        return objects.store_unavailable(settings().store, first)
    if any(sign in text for sign in _VALUES):
        return ExchangeError(
            f"the engine stopped at a value: {first}",
            where=where,
            expected="SQL that yields null where a value cannot be converted",
            next_step="use the function's try_ form: try_cast, try_to_timestamp, try_divide, …",
        )
    return ExchangeError(
        f"the engine stopped: {first}",
        where=where,
        next_step="if it names a column or function, correct the SQL there; otherwise run the step again",
    )


def _engine_gone() -> Unavailable:
    return Unavailable(
        "the engine went away during the work, and its session with it",
        where=without_token(settings().spark),
        expected="a Spark Connect server that stays up",
        next_step="make sure that it runs (`exchange cluster up` starts what is down on this machine), then run the "
        "step again; readers keep the version they had",
    )


def _disk_full(*, of_engine: bool = False) -> ExchangeError:
    remote = of_engine and settings().spark != "embedded"
    return ExchangeError(
        f"the disk is full{', on one of the machines that work for the engine' if remote else ''}",
        where=without_token(settings().spark) if remote else str(settings().lake),
        next_step="free some space (no table was changed), then run the step again",
    )
