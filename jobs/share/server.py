"""The Delta Sharing server: the open protocol's read side, over released tables, for those who hold a grant."""

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
from jobs.share.refusal import Refusal, internal, missing, unsupported
from jobs.share.tickets import signer

log = logging.getLogger("exchange.share")


def create_app() -> FastAPI:
    """Build the server's application, ready to answer under ``/delta-sharing``.

    Raises:
        ExchangeError: the registry cannot be reached.
    """
    # Both now and not at the first request, so that a server that starts can also answer.
    engine()
    signer()
    # No pages that describe the interface: they would load scripts from elsewhere.
    app = FastAPI(title="Data exchange: Delta Sharing", docs_url=None, redoc_url=None, openapi_url=None)
    protocol = APIRouter(prefix=PREFIX)
    for part in (browse, tables, files):
        protocol.include_router(part.router)
    app.include_router(protocol)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(Exception, _failed)
    return app


def serve(host: str | None = None, port: int | None = None) -> None:
    """Serve until interrupted; on this machine only, unless told otherwise.

    Args:
        host: address to listen on; that of the settings (loopback) if absent.
        port: port to listen on; that of the settings if absent.

    Raises:
        ExchangeError: the registry cannot be reached, or the address is taken.
    """
    here = settings()
    host, port = host or here.share_host, here.share_port if port is None else port
    server = uvicorn.Server(configuration(create_app(), host, port))
    try:
        server.run()
    except SystemExit as error:
        # What uvicorn does when it cannot listen.
        raise ExchangeError(
            "the sharing server could not start",
            where=f"{host}:{port}",
            next_step="see the line above; if the address is in use, stop what uses it or choose another with --port",
        ) from error


def configuration(app: FastAPI, host: str, port: int) -> uvicorn.Config:
    """Configure the HTTP server around the application."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        # Its lines would hold whole addresses, tickets included. What happened stands in the meter and in our own log.
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=5,
        limit_concurrency=512,
    )


async def _refused(_http: Request, refusal: Exception) -> Response:
    if not isinstance(refusal, Refusal):
        raise refusal
    return JSONResponse(
        {"errorCode": refusal.code, "message": refusal.message}, status_code=refusal.status, headers=refusal.headers
    )


async def _not_served(http: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        return await _refused(http, unsupported(f"{http.method} is not something that can be done here", status=405))
    if status == 404:
        return await _refused(http, missing(f"nothing is served here; the protocol's addresses begin with {PREFIX}"))
    return await _refused(http, Refusal(status, "MALFORMED_REQUEST", "the request cannot be understood"))


async def _failed(http: Request, error: Exception) -> Response:
    log.error("a request failed outside of its meter entry: %s", type(error).__name__)
    return await _refused(http, internal())
