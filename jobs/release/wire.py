"""Asks a server that is not trusted: every reply has bounds in bytes and time, and no reply leads anywhere else."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import httpx

from jobs.errors import Unavailable

# Of a refusal, which is one sentence.
_LONGEST_MESSAGE = 8 << 10
_SILENT_SECONDS = 30
_SLOWEST_BYTES_A_SECOND = 64 << 10
_TRIES = 3
_AGAIN = (429, 503)


class Refused(Exception):
    """A reply that is not what it should be.

    Args:
        what: what is wrong.
        where: of which address.
        expected: what would be right.
        found: what came instead.
    """

    def __init__(self, what: str, where: str, expected: object, found: object) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.found = found
        super().__init__(what)


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
        path: the address's path and query.
        longest: bytes that the reply may have.
        body: sent as JSON with POST; None for GET.
        headers: beside the client's own.
    """

    path: str
    longest: int
    body: dict[str, Any] | None = None
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def seconds(self) -> float:
        """How long the whole reply may take."""
        return _SILENT_SECONDS + self.longest / _SLOWEST_BYTES_A_SECOND


class Wire:
    """Connections to one server.

    Args:
        origin: scheme, host and port, as ``https://host:port``.
    """

    def __init__(self, origin: str, client: httpx.AsyncClient) -> None:
        self.origin = origin
        self._client = client

    @staticmethod
    @asynccontextmanager
    async def open(address: str) -> AsyncIterator[Wire]:
        """Connect to the server of an address when something is first asked."""
        headers = {"User-Agent": f"exchange/{version('data-exchange-lake')}", "Accept-Encoding": "identity"}
        timeout = httpx.Timeout(_SILENT_SECONDS, connect=10)
        async with httpx.AsyncClient(follow_redirects=False, timeout=timeout, headers=headers) as client:
            yield Wire(origin_of(address), client)

    async def read(self, request: Request) -> bytes:
        """The whole reply.

        Raises:
            Refused: it is not 200, or passes a bound.
            Unavailable: the server cannot be reached.
        """
        parts: list[bytes] = []
        await self.receive(request, parts.append, parts.clear)
        return b"".join(parts)

    async def read_json(self, request: Request) -> dict[str, Any]:
        """The reply, which must be a JSON object."""
        data = await self.read(request)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Refused("not the reply of an exchange", request.path, "a JSON object", data[:80])
        return found

    async def receive(self, request: Request, take: Callable[[bytes], object], restart: Callable[[], object]) -> None:
        """Pass a reply on in pieces.

        Args:
            request: what is asked.
            take: gets each piece.
            restart: called before the reply is asked for again, from its first byte.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                async with asyncio.timeout(request.seconds):
                    await self._once(request, take)
                return
            except _Again as again:
                if attempt == _TRIES:
                    raise again.refused from None
            except (TimeoutError, httpx.TimeoutException) as error:
                most = f"at most {request.seconds:.0f} seconds, and {_SILENT_SECONDS} without a byte"
                raise Refused("the server is too slow", request.path, most, "more") from error
            except httpx.ConnectError as error:
                raise _unreachable(self.origin, error) from error
            except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
                if attempt == _TRIES:
                    found = type(error).__name__
                    raise Refused("the connection broke off", request.path, "the whole reply", found) from error
            restart()
            await asyncio.sleep(attempt)

    async def _once(self, request: Request, take: Callable[[bytes], object]) -> None:
        method = "GET" if request.body is None else "POST"
        stream = self._client.stream(
            method, self.origin + request.path, headers=dict(request.headers), json=request.body
        )
        async with stream as reply:
            if reply.status_code != 200:
                raise await _refusal(reply, request)
            encoding = reply.headers.get("content-encoding", "identity")
            if encoding != "identity":
                raise Refused("the reply is encoded", request.path, "bytes as they are", encoding)
            left = request.longest
            async for piece in reply.aiter_raw():
                left -= len(piece)
                if left < 0:
                    raise Refused("the reply is too long", request.path, f"at most {request.longest} bytes", "more")
                take(piece)


class _Again(Exception):
    """A reply that another attempt may spare."""

    def __init__(self, refused: Refused) -> None:
        self.refused = refused
        super().__init__(str(refused))


def origin_of(address: str) -> str:
    """Scheme, host and port of an address; empty if it is none of HTTP."""
    try:
        parts = urlsplit(address)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


async def _refusal(reply: httpx.Response, request: Request) -> Exception:
    status = reply.status_code
    if 300 <= status < 400:
        target = reply.headers.get("location", "")[:100]
        return Refused("the server sends elsewhere", request.path, "an answer of its own", f"{status} to {target}")
    message = b""
    async for piece in reply.aiter_raw():
        message += piece
        if len(message) > _LONGEST_MESSAGE:
            break
    with suppress(ValueError, RecursionError, KeyError, TypeError):
        message = str(json.loads(message)["message"]).encode()
    found = f"{status}: {message[:500].decode('utf-8', 'replace')}"
    refused = Refused("the exchange refuses it", request.path, "200", found)
    return _Again(refused) if status in _AGAIN else refused


def _unreachable(origin: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"the exchange cannot be reached ({str(error)[:200] or type(error).__name__})", where=origin,
        next_step="check the address and your connection, then try again; nothing was verified",
    )  # fmt: skip
