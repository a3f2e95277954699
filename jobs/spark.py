"""The one place that opens the engine: embedded Sail, or any Spark Connect server, behind the same session."""

from __future__ import annotations

import atexit
import logging
import os
import re
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jobs.errors import ExchangeError
from jobs.settings import settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Of Spark Connect, where the address names none.
_PORT = 15002
_PATIENCE_SECONDS = 5.0
_OPTIONS = {"spark.sql.session.timeZone": "UTC"}

_open: dict[tuple[str, int], tuple[SparkSession, Any]] = {}


def connect() -> SparkSession:
    """The process's session, opened at first use; tables are reached by path or through `jobs.lake`.

    Raises:
        ExchangeError: EXCHANGE_SPARK names no engine, or none answers there.
    """
    address = settings().spark
    key = (address, os.getpid())
    if key not in _open:
        _open[key] = _embedded() if address == "embedded" else (_remote(address), None)
    found = _open[key][0]
    _make_active(found)
    return found


def _make_active(found: SparkSession) -> None:
    """Let pyspark know which session is the active one, as Great Expectations asks for it by that name.

    pyspark sets it once and then keeps to it, also when its connection has been closed, and offers no public way to
    name another over Spark Connect.
    """
    kind: Any = type(found)
    if kind.getActiveSession() is not found:
        kind._default_session = found
        kind._active_session.session = found


def session() -> SparkSession:
    """A session with every checked table as ``silver.x`` and ``gold.x``, every release as ``release.<product>``
    (the newest) and ``release.<product>_v1_2_0``, and the counts of all runs as ``ops.runs``.

    Raises:
        ExchangeError: as `connect`.
    """
    from jobs.views import register

    spark = connect()
    register(spark)
    return spark


def described() -> str:
    """The engine's kind, version and address, without its token."""
    address = settings().spark
    if address == "embedded":
        from importlib.metadata import version

        return f"embedded Sail {version('pysail')}, Spark {connect().version}"
    return f"Apache Spark {connect().version} at {address.split(';')[0].rstrip('/')}"


def writer() -> str:
    """By what name the engine writes: all clients of one Connect server write through its one driver."""
    if settings().spark == "embedded":
        return "the embedded engine"
    return f"the Connect server {connect().conf.get('spark.app.id')}"


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
    if (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "").startswith("http://"):
        # Whoever gave that address meant it.
        os.environ.setdefault("AWS_ALLOW_HTTP", "true")
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    atexit.register(close)
    host, port = server.listening_address or ("127.0.0.1", 0)
    return _remote(f"sc://{host}:{port}"), server


def _see_somebody(address: str) -> None:
    """Find out at once whether anybody is there: the client would go on asking for minutes."""
    place = urlsplit(address.replace(";", "?", 1))
    try:
        with socket.create_connection((place.hostname or "", place.port or _PORT), timeout=_PATIENCE_SECONDS):
            return
    except (OSError, ValueError) as error:
        raise ExchangeError(
            f"no engine answers at {address.split(';')[0].rstrip('/')} ({error})",
            where="EXCHANGE_SPARK",
            expected="a Spark Connect server",
            next_step="start it (`exchange cluster status` tells of one on this machine), or correct the address",
        ) from error


def _remote(address: str) -> SparkSession:
    if not re.match(r"^sc://[^/\s]+", address):
        raise ExchangeError(
            f"the engine '{address}' is unknown",
            where="EXCHANGE_SPARK",
            expected="embedded, or sc://host:port",
            next_step="correct the variable, or unset it for the embedded engine",
        )
    _see_somebody(address)
    from pyspark.sql import SparkSession

    # The client logs every refusal as an error before it raises it; who catches it says what it means.
    logging.getLogger("pyspark.sql.connect.logging").setLevel(logging.CRITICAL)
    builder = SparkSession.builder.remote(address)
    for name, value in _OPTIONS.items():
        builder = builder.config(name, value)
    _let_processes_end()
    opened: SparkSession = builder.create()
    return opened


def _let_processes_end() -> None:
    """Let a process end when it is done, whatever became of its server.

    pyspark asks the server at exit to forget models, of which there are none here, and goes on asking one that is gone
    for ten minutes; it also does so for a session that was refused or closed, and has no switch for it.
    """
    from pyspark.sql.connect.client import SparkConnectClient

    client: Any = SparkConnectClient
    client._cleanup_ml_cache = lambda _: None
