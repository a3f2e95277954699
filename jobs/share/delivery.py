"""Sends a file or a span of it in pieces, metered, and only while the grant is live."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from io import BufferedIOBase, BufferedReader
from pathlib import Path

from anyio.to_thread import run_sync
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from jobs.exchange import usage
from jobs.lake.objects import is_object, reader
from jobs.share.connection import Connection, address_of
from jobs.share.errors import ShareError
from jobs.share.meter import Meter, Sending
from jobs.share.ranges import Span
from jobs.share.tickets import Ticket

# The first piece is recorded before it is sent, so nothing leaves unmetered even if this process is killed.
PIECE_BYTES = 256 * 1024

# Pieces grow while the client takes them quickly. What is being sent is metered piece by piece, so that a slow client's
# must stay small.
_QUICK_SECONDS, _SLOW_SECONDS = 0.05, 0.25
_LARGEST_PIECE = 4 * 1024 * 1024


class FileDelivery(Response):
    """A response that streams one span of a file.

    The meter entry is on disk before the first byte leaves. It is updated while bytes are sent and when sending ends,
    however it ends.

    Args:
        path: the file.
        span: the bytes of it to send.
        entry: the meter entry; its ``bytes`` grow as they are sent.
        ticket: says what is sent to whom; sending stops once it may not.
        meter: writes the entry.
        stall_seconds: how long one piece may take a client.
        status: 200 or 206.
        headers: response headers, including Content-Length.
        with_body: False for a HEAD request.
    """

    meters_itself = True

    def __init__(
        self,
        path: Path,
        span: Span,
        *,
        entry: usage.Request,
        ticket: Ticket,
        meter: Meter,
        stall_seconds: float,
        status: int,
        headers: dict[str, str],
        with_body: bool,
    ) -> None:
        self.path = path
        self.span = span
        self.entry = entry
        self.ticket = ticket
        self.meter = meter
        self.stall_seconds = stall_seconds
        self.status_code = status
        self.with_body = with_body
        self.background = None
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        # Opened before the response starts, so that a file that cannot be read still gets an error response.
        with await self._open() as file:
            self.entry.bytes = min(self.span.length, PIECE_BYTES) if self.with_body else 0
            await self._record(scope)
            async with self.meter.sending(self.entry, self.ticket) as sending:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                if not self.with_body:
                    await send({"type": "http.response.body", "body": b""})
                    return
                connection = scope.get("state", {}).get("connection")
                try:
                    if isinstance(connection, Connection) and isinstance(file, BufferedReader):
                        await self._send(sending, _Direct(connection, file), send)
                    else:
                        async with _watch(receive) as disconnected:
                            await self._send(sending, _Copied(file, self.span.first, send, disconnected), send)
                except ConnectionError:
                    self.entry.reason = "the client disconnected"
                    await _abort(connection)
                except TimeoutError:
                    self.entry.reason = f"the client read nothing for {self.stall_seconds:g} seconds"
                    await _abort(connection)

    async def _record(self, scope: Scope) -> None:
        try:
            await self.meter.record(self.entry)
        except ShareError as error:
            self.meter.refusals.count(address_of(scope.get("client")), self.entry.operation, error)
            raise

    async def _open(self) -> BufferedIOBase:
        # A thread costs more than to open a file of this machine.
        if is_object(self.path):
            return await run_sync(reader, self.path, self.span.last + 1)
        return reader(self.path)

    async def _send(self, sending: Sending, way: _Direct | _Copied, send: Send) -> None:
        offset, left, size = self.span.first, self.span.length, PIECE_BYTES
        while left:
            if not await self.meter.catch_up(self.stall_seconds):
                sending.stopped = "the exchange's records are locked"
            if sending.stopped:
                self.entry.allowed = False
                self.entry.reason = f"stopped while sending: {sending.stopped}"
                # Stopping short of Content-Length makes the server close the connection, so that the client knows the
                # file is incomplete.
                return
            began, sending.under_way = time.monotonic(), min(size, left)
            async with asyncio.timeout(self.stall_seconds):
                sent = await way.send(offset, sending.under_way)
            sending.under_way = 0
            if not sent:
                self.entry.reason = "the file is shorter than the manifest says"
                return
            offset, left = offset + sent, left - sent
            self.entry.bytes += sent
            seconds = time.monotonic() - began
            if seconds < _QUICK_SECONDS:
                size = min(size * 2, _LARGEST_PIECE)
            elif seconds > _SLOW_SECONDS:
                size = max(size // 2, PIECE_BYTES)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _abort(connection: Connection | None) -> None:
    """Close a connection that has nobody to read the rest, so that uvicorn does not report a missing end."""
    if connection is not None:
        connection.transport.abort()
        await asyncio.sleep(0)


class _Direct:
    """Sends a file of this machine from the kernel's cache to the socket."""

    def __init__(self, connection: Connection, file: BufferedReader) -> None:
        self._connection = connection
        self._file = file

    async def send(self, offset: int, count: int) -> int:
        """Send some bytes; returns how many."""
        return await self._connection.send_file(self._file, offset, count)


class _Copied:
    """Sends a file of an object store, read in pieces that it keeps in memory one at a time."""

    def __init__(self, file: BufferedIOBase, offset: int, send: Send, disconnected: asyncio.Event) -> None:
        file.seek(offset)
        self._file = file
        self._send = send
        self._disconnected = disconnected

    async def send(self, _offset: int, count: int) -> int:
        """Send the next bytes; returns how many.

        Raises:
            ConnectionError: the client disconnected.
        """
        piece = await run_sync(self._file.read, min(count, 2 * PIECE_BYTES))
        if piece:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        if self._disconnected.is_set():
            raise ConnectionResetError
        return len(piece)


@contextlib.asynccontextmanager
async def _watch(receive: Receive) -> AsyncIterator[asyncio.Event]:
    # The server swallows what is sent to a disconnected client; only receive() reports it.
    disconnected = asyncio.Event()

    async def wait() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        disconnected.set()

    task = asyncio.create_task(wait())
    try:
        yield disconnected
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
