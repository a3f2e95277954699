"""How a file's bytes leave: whole or in part, in pieces, metered, and only while the grant lives."""

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
from jobs.share.meter import tell
from jobs.share.ranges import Span
from jobs.share.refusal import Refusal

PIECE_BYTES = 512 * 1024

# While a file is being sent, the grant is looked up again and the meter brought up to date at least this often.
CHECK_BYTES = 16 * 1024 * 1024
CHECK_SECONDS = 1.0


class FileDelivery(Response):
    """A response that streams one span of a file.

    Its meter entry is written before the first byte, so that nothing leaves unmetered even if this process is killed,
    and brought up to date while it goes and when it ends, however it ends.

    Args:
        path: the file.
        span: the bytes of it to send.
        entry: the meter entry; its ``bytes`` grow as they are sent.
        still_allowed: raises Refusal as soon as the rest may not be sent any more.
        status: 200 or 206.
        headers: response headers, the content's length included.
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
        # Opened first: a file that cannot be read is still answered with an error.
        with await run_sync(reader, self.path, self.span.last + 1) as file:
            # A span that leaves in one piece is entered as sent at once, which halves the writes for small ones.
            entered = self.span.length if self.with_body and self.span.length <= PIECE_BYTES else 0
            self.entry.bytes = entered
            await run_sync(usage.record, self.entry)
            self.entry.bytes = 0
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if not self.with_body:
                tell(self.entry)
                await send({"type": "http.response.body", "body": b""})
                return
            try:
                async with _watch(receive) as gone:
                    await self._send_pieces(file, send, gone)
            finally:
                if self.entry.bytes != entered or self.entry.reason:
                    # Shielded: the meter is right even where the server is being stopped.
                    with anyio.CancelScope(shield=True):
                        await run_sync(usage.progress, self.entry)
                tell(self.entry)

    async def _send_pieces(self, file: BufferedIOBase, send: Send, gone: asyncio.Event) -> None:
        file.seek(self.span.first)
        left = self.span.length
        checked_at, checked_bytes = time.monotonic(), 0
        while left:
            piece = await run_sync(file.read, min(PIECE_BYTES, left))
            if not piece:
                self.entry.reason = "the file is shorter than its release says"
                return
            left -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
            if gone.is_set() and left:
                self.entry.reason = "the client went away"
                return
            self.entry.bytes += len(piece)
            due = time.monotonic() - checked_at >= CHECK_SECONDS or self.entry.bytes - checked_bytes >= CHECK_BYTES
            if due and left:
                if not await self._still_goes_on():
                    # Ending here, with bytes owing, makes the server close the connection: the client knows that the
                    # file is incomplete.
                    return
                checked_at, checked_bytes = time.monotonic(), self.entry.bytes

    async def _still_goes_on(self) -> bool:
        try:
            await run_sync(self.still_allowed)
        except Refusal as refusal:
            self.entry.allowed = False
            self.entry.reason = f"stopped on the way: {refusal.message}"
            return False
        await run_sync(usage.progress, self.entry)
        return True


@contextlib.asynccontextmanager
async def _watch(receive: Receive) -> AsyncIterator[asyncio.Event]:
    # The server swallows what is sent to a client that has gone; only receive() tells.
    gone = asyncio.Event()

    async def wait() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    task = asyncio.create_task(wait())
    try:
        yield gone
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
