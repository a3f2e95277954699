"""The Delta Sharing server: the read side of the open protocol, over released tables, for holders of a grant."""

from __future__ import annotations

import logging

import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from jobs.errors import ExchangeError
from jobs.exchange.grants import PREFIX
from jobs.registry import engine
from jobs.settings import settings
from jobs.share import browse, files, tables
from jobs.share.errors import ShareError, internal, missing, unsupported
from jobs.share.tickets import signer

log = logging.getLogger("exchange.share")


def create_app() -> FastAPI:
    """Build the server's application, ready to answer under ``/delta-sharing``.

    Raises:
        ExchangeError: the registry cannot be reached.
    """
    # Now, not at the first request: a server that starts can then also respond.
    engine()
    signer()
    # No API documentation pages: they load scripts from other hosts.
    app = FastAPI(title="Data exchange: Delta Sharing", docs_url=None, redoc_url=None, openapi_url=None)
    protocol = APIRouter(prefix=PREFIX)
    for part in (browse, tables, files):
        protocol.include_router(part.router)
    app.include_router(protocol)
    app.add_exception_handler(ShareError, _respond)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(Exception, _failed)
    return app


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
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        # Access log lines hold whole addresses, including tickets. The meter and our own log record each request.
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=5,
        limit_concurrency=512,
    )


async def _respond(_http: Request, error: Exception) -> Response:
    if not isinstance(error, ShareError):
        raise error
    return JSONResponse(
        {"errorCode": error.code, "message": error.message}, status_code=error.status, headers=error.headers
    )


async def _not_served(http: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        return await _respond(http, unsupported(f"{http.method} is not supported here", status=405))
    if status == 404:
        return await _respond(http, missing(f"nothing is served here; the protocol's addresses begin with {PREFIX}"))
    return await _respond(http, ShareError(status, "MALFORMED_REQUEST", "the request is malformed"))


async def _failed(http: Request, error: Exception) -> Response:
    log.error("a request failed outside its meter entry: %s", type(error).__name__)
    return await _respond(http, internal())
