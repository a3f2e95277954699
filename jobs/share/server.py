"""The Delta Sharing server: the read side of the open protocol, over released tables, for holders of a grant."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain
from typing import cast

import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from jobs.errors import ExchangeError
from jobs.exchange.grants import PREFIX
from jobs.registry import engine
from jobs.release import did
from jobs.settings import settings
from jobs.share import browse, files, proof, tables
from jobs.share.connection import HEADER_BYTES, Connection, Crowd, Limits, address_of
from jobs.share.errors import ShareError, internal, missing, respond, too_long, too_many, unsupported
from jobs.share.meter import Meter
from jobs.share.questions import Questions
from jobs.share.tickets import signer

log = logging.getLogger("exchange.share")

_FILES = 16_384


def create_app() -> FastAPI:
    """Build the server's application, ready to answer under ``/delta-sharing``.

    Raises:
        ExchangeError: the registry cannot be reached.
    """
    # Now, not at the first request: a server that starts can then also respond.
    engine()
    signer()
    here = settings()
    # No API documentation pages: they load scripts from other hosts. No redirects: they repeat the Host header.
    app = FastAPI(
        title="Data exchange: Delta Sharing", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False,
        lifespan=_lifespan,
    )  # fmt: skip
    app.state.meter = Meter(here.share_refusals_per_minute)
    app.state.questions = Questions()
    protocol = APIRouter(prefix=PREFIX)
    for router in (browse.router, tables.router, files.router, proof.router, proof.public):
        protocol.include_router(router)
    app.include_router(protocol)
    # Where the issuer's own name leads, and where anyone looks first.
    for address in dict.fromkeys((did.WELL_KNOWN, did.path())):
        app.add_api_route(address, proof.get_identity)
    app.add_exception_handler(ShareError, _respond)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(Admission, limit=here.share_connections_per_address)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    meter: Meter = app.state.meter
    async with meter.running():
        yield


class Admission:
    """Lets requests in: so many of one address at a time, and those with a slash at the end as if without."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._active: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        # The parser only limits what it has to keep until the rest arrives.
        if len(scope["raw_path"]) + len(scope["query_string"]) + sum(map(len, chain(*scope["headers"]))) > HEADER_BYTES:
            await respond(too_long(HEADER_BYTES))(scope, receive, send)
            return
        address = address_of(scope.get("client"))
        # Behind a proxy, the connections are the proxy's and only requests can be counted.
        is_proxied = getattr(scope.get("state", {}).get("connection"), "is_proxied", False)
        if is_proxied and self._active[address] >= self._limit:
            answer = respond(too_many(f"more than {self._limit} requests of one address at a time", seconds=1))
            await answer(scope, receive, send)
            return
        self._active[address] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._active[address] -= 1
            if not self._active[address]:
                del self._active[address]


def serve(host: str | None = None, port: int | None = None) -> None:
    """Serve until interrupted.

    Args:
        host: address to listen on; by default the one in the settings, which is loopback unless set.
        port: port to listen on; by default the one in the settings.

    Raises:
        ExchangeError: the registry cannot be reached, or the address is in use.
    """
    here = settings()
    host, port = host or here.share_host, here.share_port if port is None else port
    _raise_file_limit()
    server = uvicorn.Server(configuration(create_app(), host, port))
    try:
        server.run()
    except SystemExit as error:
        # uvicorn exits if it cannot listen.
        raise ExchangeError(
            "the sharing server could not start",
            where=f"{host}:{port}",
            next_step="see the line above; if the address is in use, free it or choose another with --port",
        ) from error


def configuration(app: FastAPI, host: str, port: int) -> uvicorn.Config:
    """Configure the HTTP server for the application."""
    here = settings()
    # uvicorn makes the protocol of each connection by calling this.
    protocol = cast("type[asyncio.Protocol]", partial(Connection, crowd=Crowd(Limits.of(here))))
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        h11_max_incomplete_event_size=HEADER_BYTES,
        # uvloop cannot send a file from the kernel's cache.
        loop="asyncio",
        ws="none",
        backlog=here.share_connections,
        timeout_keep_alive=here.share_idle_seconds,
        proxy_headers=bool(here.share_proxies),
        forwarded_allow_ips=here.share_proxies,
        # Access log lines hold whole addresses, including tickets. The meter and our own log record each request.
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=5,
    )


def _raise_file_limit() -> None:
    """Let this process have as many open files as it may: connections, the files they read, the registry's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


async def _respond(_http: Request, error: Exception) -> Response:
    if not isinstance(error, ShareError):
        raise error
    return respond(error)


async def _not_served(http: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        refusal = unsupported(f"{http.method[:32]} is not supported here", status=405)
    elif status == 404:
        refusal = missing(f"nothing is served here; the protocol's addresses begin with {PREFIX}")
    else:
        refusal = ShareError(status, "MALFORMED_REQUEST", "the request is malformed")
    meter: Meter = http.app.state.meter
    return respond(meter.refusals.count(address_of(http.scope.get("client")), "other", refusal) or refusal)


async def _failed(_http: Request, error: Exception) -> Response:
    log.error("a request failed outside its meter entry: %s", type(error).__name__)
    return respond(internal())
