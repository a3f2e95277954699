"""Bounds what a client can take before it has shown a token: connections, memory and time.

uvicorn has limits for none of these, and answers in plain text what never reaches the application.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import logging
import os
import sys
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import h11
from anyio.to_thread import run_sync
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from jobs.settings import Settings
from jobs.share.errors import ShareError, busy, malformed, respond, slow, too_long

# The longest headers of a request; those of the official clients have about one kilobyte.
HEADER_BYTES = 32 * 1024

# A limit may be passed, up to twice its number, as long as nobody has waited for this long.
_FRESH_SECONDS = 1.0

# Whoever sends malformed requests must not fill the log.
_quiet = logging.getLogger("exchange.share.http")
_quiet.setLevel(logging.ERROR)


@dataclass(frozen=True)
class Limits:
    """How many connections there may be, and how long one may wait for its client."""

    connections: int
    per_address: int
    header_seconds: float
    stall_seconds: float
    proxies: str

    @staticmethod
    def of(here: Settings) -> Limits:
        """Read them from the settings."""
        return Limits(
            here.share_connections, here.share_connections_per_address, here.share_header_seconds,
            here.share_stall_seconds, here.share_proxies,
        )  # fmt: skip


def address_of(client: tuple[str, int] | None) -> str:
    """Return the address that limits count by: an IPv4 address, or the network of 64 bits that one IPv6 user has."""
    host = client[0] if client else ""
    try:
        address = ipaddress.ip_address(host.split("%", 1)[0])
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache(maxsize=1024)
def _is_proxy(host: str, proxies: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(network) for network in proxies.split(",") if network)


@dataclass
class Crowd:
    """The open connections of a server, the one that has waited longest first."""

    limits: Limits
    all: dict[Connection, None] = field(default_factory=dict)
    by_address: dict[str, dict[Connection, None]] = field(default_factory=dict)

    def enter(self, connection: Connection) -> bool:
        """Take a new connection in, at the expense of one that waits for its client if there are too many.

        Returns:
            False if there are too many and all of them are being served.
        """
        peers = self.by_address.setdefault(connection.address, {})
        fits = True
        if not connection.is_proxied and len(peers) >= self.limits.per_address:
            fits = self._make_room(peers, self.limits.per_address)
        elif len(self.all) >= self.limits.connections:
            fits = self._make_room(self.all, self.limits.connections)
        connection.waits_since = time.monotonic()
        self.all[connection] = peers[connection] = None
        return fits

    def leave(self, connection: Connection) -> None:
        """Forget a connection."""
        self.all.pop(connection, None)
        peers = self.by_address.get(connection.address, {})
        peers.pop(connection, None)
        if not peers:
            self.by_address.pop(connection.address, None)

    def to_back(self, connection: Connection) -> None:
        """Note that a connection begins to wait for its client now."""
        connection.waits_since = time.monotonic()
        if connection in self.all:
            for queue in (self.all, self.by_address[connection.address]):
                del queue[connection]
                queue[connection] = None

    def _make_room(self, connections: dict[Connection, None], most: int) -> bool:
        waiting = [connection for connection in connections if connection.is_waiting]
        if len(connections) < 2 * most:
            # When many come at once, the requests of the newest are still on their way.
            before = time.monotonic() - _FRESH_SECONDS
            waiting = [connection for connection in waiting if connection.waits_since < before]
            if not waiting:
                return True
        if not waiting:
            return False
        # Those that never had a valid token go first, then those that have waited longest.
        oldest = min(waiting, key=lambda connection: connection.is_known)
        self.leave(oldest)
        oldest.transport.abort()
        return True


class Connection(H11Protocol):
    """One connection, whose client must send its headers in time and read what it asked for."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        crowd: Crowd,
    ) -> None:
        # The application finds its connection in the state of the request.
        super().__init__(config, server_state, {**app_state, "connection": self}, _loop)
        self.logger = _quiet
        self.crowd = crowd
        self.address = ""
        self.is_proxied = False
        self.is_known = False
        self.waits_since = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the next move is the client's: a request, or the rest of one."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn does
        """Begin, unless there are too many connections."""
        super().connection_made(transport)
        self.address = address_of(self.client)
        self.is_proxied = self.client is not None and _is_proxy(self.client[0], self.crowd.limits.proxies)
        if not self.crowd.enter(self):
            self.app = _turn_away
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        self.crowd.leave(self)
        self._headers_came()
        self._stop_watching()

    def data_received(self, data: bytes) -> None:
        """Take bytes in; a deadline runs from the first byte of a request to the end of its headers."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            # Also while the body of a request is read that was answered without it.
            self._await_headers()
        else:
            self._headers_came()
            self._stop_watching()

    def pause_writing(self) -> None:
        """Stop writing until the client has read; it must, also if it only ever sends requests."""
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        """Write again."""
        super().resume_writing()
        self._stop_watching()

    def on_response_complete(self) -> None:
        """Wait for the client to read the response, and for its next request."""
        super().on_response_complete()
        self.crowd.to_back(self)
        self._watch_reading()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own text says less
        """Answer a request that is not HTTP, in the protocol's JSON."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        if status == 431:
            self._answer(too_long(HEADER_BYTES))
        else:
            self._answer(malformed("the request is not valid HTTP/1.1", status))

    async def send_file(self, file: io.BufferedReader, offset: int, count: int) -> int:
        """Send bytes of a file as part of a response's body, without copying them into this process.

        Args:
            file: a file of this machine.
            offset: of the first byte.
            count: how many bytes.

        Returns:
            How many bytes were sent: fewer if the file is shorter.

        Raises:
            ConnectionError: the client disconnected.
        """
        await self.flow.drain()
        if self.transport.is_closing():
            raise ConnectionResetError
        # h11 counts the bytes, so that it can tell a complete body from an incomplete one.
        self.conn.send_with_data_passthrough(h11.Data(data=_Length(count)))  # type: ignore[arg-type] # as its manual says
        try:
            return await self.loop.sendfile(self.transport, file, offset, count, fallback=False)
        except asyncio.SendfileNotAvailableError:
            # Raised for any failure of the first byte: where the file system cannot, and where the client has left.
            piece = await run_sync(os.pread, file.fileno(), count, offset)
            self.transport.write(piece)
            await self.flow.drain()
            if self.transport.is_closing():
                raise ConnectionResetError from None
            return len(piece)

    def _await_headers(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.crowd.limits.header_seconds, self._overdue)

    def _headers_came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _overdue(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            seconds = self.crowd.limits.header_seconds
            self._answer(slow(f"the request's headers took more than {seconds:g} seconds"))
        elif self.transport.get_write_buffer_size() == 0:
            self.transport.close()

    def _watch_reading(self) -> None:
        self._stop_watching()
        if left := self.transport.get_write_buffer_size():
            self._stalled = self.loop.call_later(self.crowd.limits.stall_seconds, self._require_reading, left)

    def _stop_watching(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _require_reading(self, before: int) -> None:
        if self.transport.get_write_buffer_size() >= before:
            self.transport.abort()
        else:
            self._watch_reading()

    def _answer(self, error: ShareError) -> None:
        """Answer what never reaches the application, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        response = respond(error)
        response.headers["Connection"] = "close"
        head = h11.Response(status_code=error.status, headers=response.raw_headers)
        for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Length:
    """Stands for bytes that are sent elsewhere."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length


async def _turn_away(scope: Scope, receive: Receive, send: Send) -> None:
    error = busy("the server has as many connections as it can serve")
    error.headers["Connection"] = "close"
    await respond(error)(scope, receive, send)
