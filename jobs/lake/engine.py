"""The one place that opens the engine: embedded Sail or any Spark Connect server, behind the same session."""

from __future__ import annotations

import atexit
import logging
import os
import re
import socket
import threading
import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from jobs.errors import ExchangeError, Unavailable
from jobs.settings import s3_endpoint, settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Spark Connect's, if the address names none.
_PORT = 15002
_PATIENCE_SECONDS = 5.0
# The setting that holds the name of a Connect server that we start ourselves.
SERVER = "spark.exchange.server"
_OPTIONS = {
    "spark.sql.session.timeZone": "UTC",
    # Otherwise Delta on Spark reads no version older than a week, because its files might be gone; but upkeep keeps
    # those in use. A longer retention set on the table would keep removed files in every checkpoint for good.
    "spark.databricks.delta.vacuum.enforceTimeTravelWithinDeletedFileRetentionDuration": "false",
}
# A server that ended took its sessions with it: asking again for ten minutes, as the client would, brings none back.
# These are some six seconds, for a network that lost a packet; where nothing listens there is no retry at all.
_RETRIES: dict[str, Any] = {"max_retries": 6, "initial_backoff": 100, "max_backoff": 4_000, "backoff_multiplier": 2.0}
# A server whose machine is gone does not answer at all. Its library does not allow pings more often than every five
# minutes.
_KEPT_ALIVE = [("grpc.keepalive_time_ms", 310_000), ("grpc.keepalive_timeout_ms", 20_000)]

_open: dict[tuple[str, int], tuple[SparkSession, Any]] = {}
_opening = threading.Lock()


def delta_release() -> str:
    """Version of delta-spark that the extra `cluster` of this project pins, whether that extra is installed or not.

    Raises:
        ExchangeError: the metadata of this installation name no delta-spark.
    """
    with suppress(PackageNotFoundError):
        for line in requires("data-exchange-lake") or ():
            requirement = Requirement(line)
            if requirement.name == "delta-spark":
                return next(iter(requirement.specifier)).version
    raise ExchangeError(
        "this installation does not say which delta-spark it works with",
        expected="delta-spark==… among the requirements of the extra 'cluster'",
        next_step="install this project again",
    )


def delta_coordinates() -> str:
    """What Maven calls that release, built for the Spark and the Scala that pyspark carries."""
    return f"io.delta:delta-spark_4.1_2.13:{delta_release()}"


def _after_fork_in_child() -> None:
    # Another thread of the parent may have held it at the fork; in the child, no thread would release it.
    global _opening
    _opening = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def connect() -> SparkSession:
    """The session of all threads of the process, opened at first use; tables are reached through `jobs.lake`.

    Raises:
        ExchangeError: EXCHANGE_SPARK names no engine, or nothing answers there.
    """
    address = settings().spark
    key = (address, os.getpid())
    if key not in _open:
        with _opening:
            # Of two threads that begin together, one opens it and the other reuses it.
            if key not in _open:
                _open[key] = _embedded() if address == "embedded" else (_remote(address), None)
    session = _open[key][0]
    _make_active(session)
    return session


def refresh() -> None:
    """Drop a session whose server has ended or was restarted, so that the next use opens a new one.

    A step calls this before its work, because whatever it named in a session is gone with the session.

    Raises:
        ExchangeError: no server answers.
    """
    address = settings().spark
    opened = _open.get((address, os.getpid()))
    if opened is None or address == "embedded":
        return
    from pyspark.errors import PySparkException

    try:
        _require_listener(address)
        ping()
    except (PySparkException, ExchangeError) as error:
        # To close it would be to ask the server that is not there.
        _open.pop((address, os.getpid()), None)
        if isinstance(error, ExchangeError):
            raise


def ping() -> None:
    """Ask the session's server whether the session is still there, with all that was named in it.

    Raises:
        PySparkException: it is not, or the server is gone.
    """
    connect().conf.get("spark.sql.session.timeZone")


def _make_active(session: SparkSession) -> None:
    """Tell pyspark which session is the active one, because Great Expectations asks pyspark for it.

    pyspark sets it once and keeps it even after its connection was closed, and has no public way to set another over
    Spark Connect.
    """
    kind: Any = type(session)
    if kind.getActiveSession() is not session:
        kind._default_session = session
        kind._active_session.session = session


def describe_engine() -> str:
    """The engine's kind, version and address, without its token."""
    address = settings().spark
    if address == "embedded":
        from importlib.metadata import version

        return f"embedded Sail {version('pysail')}, Spark {connect().version}"
    return f"Apache Spark {connect().version} at {without_token(address)}"


def without_token(address: str) -> str:
    """The part of an engine's address that may be shown."""
    return address.split(";")[0].rstrip("/")


def engine_message(error: Exception) -> str:
    """The engine's message in one line, without the codes, plans and traces that Spark adds."""
    text = str(error).partition("JVM stacktrace:")[0]
    of_connection = re.search(r'^\s*details = "(.*)"$', text, re.MULTILINE)
    if of_connection:
        return of_connection[1]
    return " ".join(re.split(r"\s*SQLSTATE: ", text)[0].split())


def writer() -> str:
    """The engine's name as a writer: all clients of one Connect server write through its one driver.

    A server of ours that is restarted keeps its name: it can listen on that port only once its predecessor is dead, so
    there is no unfinished work of a killed one to wait for.
    """
    if settings().spark == "embedded":
        return "the embedded engine"
    conf = connect().conf
    return f"the Connect server {conf.get(SERVER, None) or conf.get('spark.app.id')}"


def close() -> None:
    """End this process's sessions and the engines that it started."""
    for key in [k for k in _open if k[1] == os.getpid()]:
        spark, server = _open.pop(key)
        spark.stop()
        if server is not None:
            server.stop()


def _embedded() -> tuple[SparkSession, Any]:
    # Sail logs to stderr from Rust, and its notices about normal work would drown the user's output.
    os.environ.setdefault("RUST_LOG", "off")
    if s3_endpoint().startswith("http://"):
        # Whoever set that address meant it.
        os.environ.setdefault("AWS_ALLOW_HTTP", "true")
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    atexit.register(close)
    host, port = server.listening_address or ("127.0.0.1", 0)
    return _remote(f"sc://{host}:{port}"), server


def _require_listener(address: str) -> None:
    """Find out immediately whether anything listens there: the client would retry for minutes."""
    place = urlsplit(address.replace(";", "?", 1))
    try:
        with socket.create_connection((place.hostname or "", place.port or _PORT), timeout=_PATIENCE_SECONDS):
            return
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"no engine answers at {without_token(address)} ({error})",
            where="EXCHANGE_SPARK",
            expected="a Spark Connect server",
            next_step="start it (`exchange cluster status` shows one on this machine), or correct the address",
        ) from error


def _remote(address: str) -> SparkSession:
    if not re.match(r"^sc://[^/\s]+", address):
        raise ExchangeError(
            f"the engine '{address}' is unknown",
            where="EXCHANGE_SPARK",
            expected="embedded, or sc://host:port",
            next_step="correct the variable, or unset it for the embedded engine",
        )
    _require_listener(address)
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession
    from pyspark.sql.connect.client import ChannelBuilder

    _report_errors_once()
    _let_processes_end()
    builder: Any = ChannelBuilder
    builder.GRPC_DEFAULT_OPTIONS = [*(o for o in builder.GRPC_DEFAULT_OPTIONS if o not in _KEPT_ALIVE), *_KEPT_ALIVE]
    try:
        opened: Any = SparkSession.builder.remote(address).create()
        opened.client.set_retry_policies([_retries()])
        for name, value in _OPTIONS.items():
            opened.conf.set(name, value)
    except PySparkException as error:
        raise _refused(error, address) from error
    return cast("SparkSession", opened)


def _retries() -> Any:
    from pyspark.sql.connect.client.retries import DefaultPolicy

    class UnlessConnectionRefused(DefaultPolicy):
        def can_retry(self, exception: BaseException) -> bool:
            return "Connection refused" not in str(exception) and bool(super().can_retry(exception))

    return UnlessConnectionRefused(**_RETRIES)


def _refused(error: Exception, address: str) -> ExchangeError:
    where = f"the engine at {without_token(address)}"
    if "UNAUTHENTICATED" in str(error):
        return ExchangeError(
            f"{where} rejected the token",
            where="EXCHANGE_SPARK",
            expected="sc://host:port/;token=…, with the token that the server was started with",
            next_step="correct the token; the file `env` of a cluster on this machine has it",
        )
    return ExchangeError(
        f"{where} refused the session: {(engine_message(error) or type(error).__name__)[:300]}",
        where="EXCHANGE_SPARK",
        expected="a Spark Connect server of Spark 4.1",
        next_step="read its log, or correct the address",
    )


def _report_errors_once() -> None:
    """Keep the client from logging every error, with plan and trace, before raising it: who catches it reports it."""
    from pyspark.logger import PySparkLogger

    warnings.filterwarnings("ignore", message=r"\[RETRIES_EXCEEDED\]")
    logging.getLogger("pyspark.sql.connect.logging").setLevel(logging.CRITICAL)
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(name).setLevel(logging.CRITICAL)


def _let_processes_end() -> None:
    """Let a process end when it is done, whatever became of its server.

    At exit pyspark asks the server to drop machine-learning models, of which there are none here, and goes on asking
    one that is gone for ten minutes. It does so even for a session that was refused or closed, and no setting stops it.
    """
    from pyspark.sql.connect.client import SparkConnectClient

    client: Any = SparkConnectClient
    client._cleanup_ml_cache = lambda _: None
