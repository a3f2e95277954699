"""A proxy in front of the object store that a test can close, slow down or make refuse requests."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

_PIECE = 1 << 16
_BUSY = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please slow down</Message></Error>'


@dataclass
class FaultyStore:
    """The proxy: passes requests to the store unchanged, signed for the proxy's own address.

    Attributes:
        refuse_each: answer every nth request with 503; 0 for none.
        delay: seconds to hold each request.
        before: called with method and path of each request; if it returns True, the store never sees the request.
        after: called with method and path once the store has answered.
    """

    port: int
    store_port: int
    refuse_each: int = 0
    delay: float = 0.0
    refused: int = 0
    served: int = 0
    before: Callable[[str, str], bool] | None = None
    after: Callable[[str, str], bool] | None = None
    _server: ThreadingHTTPServer | None = None
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> FaultyStore:
        """Accept requests."""
        door = self

        class Handler(_Handler):
            store = door

        class Server(ThreadingHTTPServer):
            allow_reuse_address = True
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """Ignore clients that break a connection off."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def close(self) -> None:
        """Refuse new connections and break off existing ones."""
        server, self._server = self._server, None
        if server:
            server.shutdown()
            server.server_close()

    @property
    def is_open(self) -> bool:
        return self._server is not None

    def count_and_refuse(self) -> bool:
        """Count a request; returns whether to refuse it."""
        with self._guard:
            self.served += 1
            refuse = bool(self.refuse_each) and self.served % self.refuse_each == 0
            self.refused += refuse
            return refuse


class _Handler(BaseHTTPRequestHandler):
    store: ClassVar[FaultyStore]
    protocol_version = "HTTP/1.1"
    # Head and body of a response are two writes; Nagle's algorithm would delay the second by 40 ms.
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.onward = http.client.HTTPConnection("127.0.0.1", self.store.store_port, timeout=120)

    def finish(self) -> None:
        self.onward.close()
        with suppress(OSError):
            super().finish()

    def handle_one_request(self) -> None:
        if not self.store.is_open:
            self.close_connection = True
            return
        super().handle_one_request()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_lost = self.store.before is not None and self.store.before(self.command, self.path)
        time.sleep(self.store.delay)
        if is_lost or not self.store.is_open:
            self.close_connection = True
            return
        if self.store.count_and_refuse():
            self.send_response_only(503)
            self._answer([("Content-Type", "application/xml")], _BUSY)
            return
        answer = self._ask(body)
        if self.store.after:
            self.store.after(self.command, self.path)
        self.send_response_only(answer.status, answer.reason)
        headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")]
        if self.command == "HEAD" or any(k.lower() == "content-length" for k, _ in headers):
            self._head(headers)
            while self.command != "HEAD" and (piece := answer.read(_PIECE)):
                self.wfile.write(piece)
            answer.read()
        else:
            self._answer(headers, answer.read())

    def _ask(self, body: bytes) -> http.client.HTTPResponse:
        # The signature covers the Host header that the client sent.
        self.onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                self.onward.putheader(name, value)
        self.onward.endheaders(body or None)
        return self.onward.getresponse()

    def _head(self, headers: list[tuple[str, str]]) -> None:
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, headers: list[tuple[str, str]], body: bytes) -> None:
        self._head([*headers, ("Content-Length", str(len(body)))] if body or self.command != "HEAD" else headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on
