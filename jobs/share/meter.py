"""Meters requests: a row for each that has a buyer, sums for those that have none, written for all who wait at once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.to_thread import run_sync
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from jobs.errors import Locked
from jobs.exchange import usage
from jobs.share.access import PATIENCE_SECONDS, SharedTable, authenticate, bearer, ended, shared_table
from jobs.share.connection import address_of
from jobs.share.errors import ShareError, busy, internal
from jobs.share.questions import Questions
from jobs.share.refusals import Refusals
from jobs.share.tickets import Ticket

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

T = TypeVar("T")

log = logging.getLogger("exchange.share")

# A killed server loses the record of what it sent since the last look, and no more.
LOOK_SECONDS = 0.25
CHECK_SECONDS = 1.0

# nginx's status for a client that did not wait for its response; nobody receives it.
_CLIENT_LEFT = 499


@dataclass
class Sending:
    """A file on its way to a buyer.

    Attributes:
        entry: the meter entry.
        ticket: what is sent to whom.
        written: the bytes that the meter's row has.
        under_way: bytes that are being sent, of which the client may have all or none.
        stopped: why the rest may no longer be sent.
    """

    entry: usage.Request
    ticket: Ticket
    written: int
    under_way: int = 0
    stopped: str | None = None


class Meter:
    """Writes entries in batches, one transaction for all requests that wait, from one task of the server's loop."""

    def __init__(self, refusals_per_minute: int) -> None:
        self.refusals = Refusals(refusals_per_minute)
        self._new: list[tuple[usage.Request, asyncio.Future[None]]] = []
        self._changed: dict[str, usage.Request] = {}
        self._refused: list[usage.Refusal] = []
        self._sending: dict[str, Sending] = {}
        self._writing: asyncio.Task[None] | None = None
        self._caught_up = asyncio.Event()
        self._caught_up.set()
        # Its own thread, or rows would wait behind the requests that wait for them.
        self._thread = anyio.CapacityLimiter(1)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the meter up to date while files are being sent; at the end, write what is left."""
        looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
            self._refused += self.refusals.take()
            await self._write()

    async def record(self, entry: usage.Request) -> None:
        """Add an entry; returns once it is on disk.

        Raises:
            ShareError: the registry is locked; nothing was recorded.
        """
        written = asyncio.get_running_loop().create_future()
        self._new.append((replace(entry), written))
        self._start_writing()
        try:
            await written
        except Locked:
            raise registry_busy() from None

    async def catch_up(self, seconds: float) -> bool:
        """Wait until what was sent is on disk, if it could not be written; returns whether it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._caught_up.wait()
        return self._caught_up.is_set()

    @asynccontextmanager
    async def sending(self, entry: usage.Request, ticket: Ticket) -> AsyncIterator[Sending]:
        """Follow a recorded entry while its bytes are sent, and write how it ended."""
        sending = self._sending[entry.request_id] = Sending(entry, ticket, entry.bytes)
        entry.bytes = 0
        try:
            yield sending
        finally:
            del self._sending[entry.request_id]
            if entry.bytes != sending.written or entry.reason:
                self._changed[entry.request_id] = replace(entry)
                # Shielded, so that the meter is right even while the server is shutting down.
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([self._start_writing()])
            log_entry(entry)

    async def _look(self) -> None:
        checked = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for sending in self._sending.values():
                entry = sending.entry
                # What is under way counts as sent until it is known, so that a killed server never says too little.
                if (sent := entry.bytes + sending.under_way) > sending.written:
                    sending.written = sent
                    self._changed[entry.request_id] = replace(entry, bytes=sent)
            self._refused += self.refusals.take_ended()
            if self._changed or self._refused:
                self._start_writing()
            if self._sending and time.monotonic() - checked >= CHECK_SECONDS:
                checked = time.monotonic()
                await self._check()

    async def _check(self) -> None:
        """Stop what grants or releases no longer cover, with one question for all that is being sent."""
        active = list(self._sending.values())
        try:
            reasons = await run_sync(ended, {sending.ticket for sending in active})
        except Exception as error:
            log.exception("the grants of files on their way could not be checked")
            reasons = dict.fromkeys((sending.ticket for sending in active), f"not checked: {type(error).__name__}")
        for sending in active:
            sending.stopped = reasons.get(sending.ticket)

    def _start_writing(self) -> asyncio.Task[None]:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return self._writing

    async def _write(self) -> None:
        while self._new or self._changed or self._refused:
            new, self._new = self._new, []
            changed, self._changed = self._changed, {}
            refused, self._refused = self._refused, []
            batch = [entry for entry, _ in new], list(changed.values()), refused
            try:
                await run_sync(partial(usage.record_all, *batch, patience=PATIENCE_SECONDS), limiter=self._thread)
            except Exception as error:
                if not isinstance(error, Locked):
                    log.exception("the meter could not be written")
                # What was sent or refused is still true when the registry can be written again.
                self._changed = changed | self._changed
                self._refused = refused + self._refused
                if self._changed:
                    self._caught_up.clear()
                # Those that came meanwhile have waited, too; whoever comes next tries again.
                late, self._new = self._new, []
                for _, written in new + late:
                    if not written.done():
                        written.set_exception(error)
                return
            else:
                self._caught_up.set()
                for _, written in new:
                    if not written.done():
                        written.set_result(None)


class MeteredRoute(APIRoute):
    """A route whose name is the operation that the meter knows its requests by."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which ends with a row or a count in the meter, however it ends."""
        handle = super().get_route_handler()
        needs_token = self.name != "file"

        async def metered(http: Request) -> Response:
            meter: Meter = http.app.state.meter
            entry = usage.Request(operation=self.name, client=http.headers.get("user-agent"))
            http.state.entry = entry
            try:
                with _note_outcome(entry):
                    if needs_token:
                        # Without one, no thread is taken and no body read.
                        bearer(http.headers.get("authorization"))
                    response = await handle(http)
                if not getattr(response, "meters_itself", False):
                    await meter.record(entry)
                    log_entry(entry)
            except ShareError as error:
                answer = await _refused(http, meter, entry, error)
                log_entry(entry)
                raise answer from error
            except ClientDisconnect:
                entry.status, entry.reason = _CLIENT_LEFT, "the client disconnected before its request was complete"
                await _refused(http, meter, entry, ShareError(_CLIENT_LEFT, "", entry.reason))
                log_entry(entry)
                return Response(status_code=_CLIENT_LEFT)
            _note_known(http, entry)
            return response

        return metered


def entry_of(http: Request) -> usage.Request:
    """Return the meter entry of a request."""
    entry: usage.Request = http.state.entry
    return entry


async def ask(http: Request, question: Callable[[Session], T]) -> T:
    """Ask the registry, together with the other requests of this moment."""
    questions: Questions = http.app.state.questions
    return await questions.ask(question)


async def granted_table(http: Request, share: str, schema: str, table: str) -> SharedTable:
    """A table that the request's buyer may read; its meter entry names the product and the grant.

    Raises:
        ShareError: the token is not valid, or there is no such table for it.
    """
    entry, authorization = entry_of(http), http.headers.get("authorization")
    entry.product = table

    def find(session: Session) -> SharedTable:
        return shared_table(session, authenticate(session, authorization, entry), share, schema, table)

    shared = await ask(http, find)
    entry.product, entry.grant_id = shared.name, shared.product_grant
    return shared


def registry_busy() -> ShareError:
    """The answer while another process keeps the registry locked."""
    return busy("the exchange's records are locked for a moment; please try again")


def log_entry(entry: usage.Request) -> None:
    """Log an entry, without the address and headers, which hold tickets and tokens."""
    log.info(
        "%s %s %s product=%s version=%s buyer=%s files=%s bytes=%s",
        entry.request_id,
        entry.operation,
        entry.status,
        entry.product,
        entry.version,
        entry.buyer,
        entry.files,
        entry.bytes,
    )


async def _refused(http: Request, meter: Meter, entry: usage.Request, error: ShareError) -> ShareError:
    """Meter a refusal and return the answer to it: a row if it has a buyer, who is answerable; else a count."""
    _note_known(http, entry)
    if entry.grant_id is not None and error.status != 503 and meter.refusals.may_have_row(entry.grant_id):
        try:
            await meter.record(entry)
        except ShareError as locked:
            return locked
        return error
    address = address_of(http.scope.get("client"))
    return meter.refusals.count(address, entry.operation, error) or error


def _note_known(http: Request, entry: usage.Request) -> None:
    connection = getattr(http.state, "connection", None)
    if connection is not None and entry.grant_id is not None and entry.allowed:
        connection.is_known = True


@contextmanager
def _note_outcome(entry: usage.Request) -> Iterator[None]:
    """Record on a meter entry how its request ended; an internal error becomes an answer that discloses nothing.

    Raises:
        ShareError: the request was refused, or failed.
        ClientDisconnect: the client did not send its whole request.
    """
    try:
        yield
    except ShareError as error:
        entry.status, entry.allowed, entry.reason = error.status, not error.denied, error.message
        raise
    except ClientDisconnect:
        raise
    except Locked as error:
        answer = registry_busy()
        entry.status, entry.reason = answer.status, answer.message
        raise answer from error
    except Exception as error:
        log.exception("%s %s failed", entry.request_id, entry.operation)
        answer = internal()
        entry.status, entry.reason = answer.status, f"failed: {type(error).__name__}"
        raise answer from error
