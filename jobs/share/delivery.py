"""Sends a file or a span of it in pieces, metered, and only while the grant is live."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from io import BufferedIOBase
from pathlib import Path

import anyio
from anyio.to_thread import run_sync
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from jobs.exchange import usage
from jobs.lake.objects import reader
from jobs.share.errors import ShareError
from jobs.share.meter import log_entry
from jobs.share.ranges import Span

PIECE_BYTES = 512 * 1024

# While a file is being sent, the grant is checked again and the meter updated at least this often.
CHECK_BYTES = 16 * 1024 * 1024
CHECK_SECONDS = 1.0


class FileDelivery(Response):
    """A response that streams one span of a file.

    The meter entry is written before the first byte, so nothing leaves unmetered even if this process is killed. It is
    updated while bytes are sent and when sending ends, however it ends.

    Args:
        path: the file.
        span: the bytes of it to send.
        entry: the meter entry; its ``bytes`` grow as they are sent.
        still_allowed: raises ShareError once the rest may no longer be sent.
        status: 200 or 206.
        headers: response headers, including Content-Length.
        with_body: False for a HEAD request.
    """

    def __init__(
        self,
        path: Path,
        span: Span,
        *,
        entry: usage.Request,
        still_allowed: Callable[[], None],
        status: int,
        headers: dict[str, str],
        with_body: bool,
    ) -> None:
        self.path = path
        self.span = span
        self.entry = entry
        self.still_allowed = still_allowed
        self.status_code = status
        self.with_body = with_body
        self.background = None
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the protocol of ASGI
        """Send the response."""
        # Opened before the response starts, so that a file that cannot be read still gets an error response.
        with await run_sync(reader, self.path, self.span.last + 1) as file:
            # A span of one piece is recorded as sent beforehand, which halves the writes for small files.
            recorded = self.span.length if self.with_body and self.span.length <= PIECE_BYTES else 0
            self.entry.bytes = recorded
            await run_sync(usage.record, self.entry)
            self.entry.bytes = 0
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if not self.with_body:
                log_entry(self.entry)
                await send({"type": "http.response.body", "body": b""})
                return
            try:
                async with _watch(receive) as disconnected:
                    await self._send_pieces(file, send, disconnected)
            finally:
                if self.entry.bytes != recorded or self.entry.reason:
                    # Shielded, so that the meter is right even while the server is shutting down.
                    with anyio.CancelScope(shield=True):
                        await run_sync(usage.progress, self.entry)
                log_entry(self.entry)

    async def _send_pieces(self, file: BufferedIOBase, send: Send, disconnected: asyncio.Event) -> None:
        file.seek(self.span.first)
        left = self.span.length
        checked_at, checked_bytes = time.monotonic(), 0
        while left:
            piece = await run_sync(file.read, min(PIECE_BYTES, left))
            if not piece:
                self.entry.reason = "the file is shorter than the manifest says"
                return
            left -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
            if disconnected.is_set() and left:
                self.entry.reason = "the client disconnected"
                return
            self.entry.bytes += len(piece)
            due = time.monotonic() - checked_at >= CHECK_SECONDS or self.entry.bytes - checked_bytes >= CHECK_BYTES
            if due and left:
                if not await self._may_continue():
                    # Stopping short of Content-Length makes the server close the connection, so that the client knows
                    # the file is incomplete.
                    return
                checked_at, checked_bytes = time.monotonic(), self.entry.bytes

    async def _may_continue(self) -> bool:
        try:
            await run_sync(self.still_allowed)
        except ShareError as error:
            self.entry.allowed = False
            self.entry.reason = f"stopped while sending: {error.message}"
            return False
        await run_sync(usage.progress, self.entry)
        return True


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
