"""What one client can do to the sharing server without a token, and what its buyers notice of it: nothing for long."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from jobs.errors import Locked
from jobs.exchange import usage
from jobs.operate.processes import free_port, is_listening
from jobs.settings import settings
from jobs.share.delivery import PIECE_BYTES, FileDelivery
from jobs.share.meter import Meter
from jobs.share.ranges import Span
from jobs.share.tickets import Ticket
from tests.exchange.wares import Door, build, days, open_door, release
from tests.waiting import wait_until

TABLE = "/delta-sharing/shares/exchange/schemas/products/tables/rates"


@pytest.fixture
def token(home_with_registry: Path) -> str:
    """A token for a product with one release of one file."""
    build("rates", days(500))
    release("rates", "1.0.0")
    return Door("http://127.0.0.1", home_with_registry.parent).grant("rates")[1]


@contextmanager
def guarded(monkeypatch: pytest.MonkeyPatch, folder: Path, **limits: object) -> Iterator[Door]:
    """Run the server with limits of its own."""
    for name, value in limits.items():
        monkeypatch.setenv(f"EXCHANGE_SHARE_{name.upper()}", str(value))
    with open_door(folder) as door:
        yield door


def connect(door: Door) -> socket.socket:
    """Open a connection to the server."""
    host, port = door.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def raw(door: Door, data: bytes) -> tuple[int, dict[str, str], Any]:
    """Send bytes, read all that comes back, and return status, headers and JSON."""
    with connect(door) as client:
        client.sendall(data)
        return answer_on(client)


def answer_on(client: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Read a response up to the end of the connection."""
    received = b""
    while piece := client.recv(65536):
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    return int(first.split()[1]), headers, json.loads(body)


def request(token: str | None, target: str = "/delta-sharing/shares", method: str = "GET", more: str = "") -> bytes:
    """Write a request's headers."""
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\n{authorization}{more}\r\n".encode()


def is_served(door: Door, token: str) -> bool:
    """Whether a buyer gets an answer."""
    return httpx.get(
        f"{door.address}{TABLE}/version", headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=10
    ).status_code == 200  # fmt: skip


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /delta-sharing/shares HTTP/1.1\r\nHost: x\r\n",
        request(None, f"{TABLE}/query", "POST", "Content-Length: 9\r\n"),
    ],
    ids=["idle", "half a header", "half a body"],
)
def test_connections_that_wait_give_way_to_buyers(
    home_with_registry: Path, token: str, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    limits = {"connections": 20, "connections_per_address": 12}
    with guarded(monkeypatch, home_with_registry, **limits) as door, ExitStack() as held:
        for _ in range(30):
            client = held.enter_context(connect(door))
            client.sendall(sent)
        assert all(is_served(door, token) for _ in range(3))


def test_headers_and_bodies_have_a_deadline(
    home_with_registry: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with guarded(monkeypatch, home_with_registry, header_seconds=0.3, body_seconds=0.3, idle_seconds=1) as door:
        with connect(door) as idle:
            assert idle.recv(1) == b"", "a connection without a request is closed"
        for sent in (b"GET / HT", request(token, f"{TABLE}/query", "POST", "Content-Length: 9\r\n") + b"{"):
            status, headers, body = raw(door, sent)
            assert (status, body["errorCode"], headers["connection"]) == (408, "REQUEST_TIMEOUT", "close")
        # A byte at a time wins nothing: neither as headers, nor as a body behind an answer that did not wait for it.
        long_body = request(None, more="Content-Length: 999999\r\n")
        for sent in (b"GET / HTTP/1.1\r\nX: ", long_body):
            with connect(door) as client:
                client.sendall(sent)
                wait_until(lambda client=client: _is_closed_while_sending(client), 20, lambda: "still open")
        kept = request(token)
        with connect(door) as client:
            client.sendall(kept)
            wait_until(lambda: _is_closed(client), 20, lambda: "an unused connection stays open")
        assert is_served(door, token)
    reasons = {entry.reason for entry in usage.usage() if entry.status == 408}
    assert reasons == {"the request's body took more than 0.3 seconds"}


def _is_closed_while_sending(client: socket.socket) -> bool:
    try:
        client.sendall(b"a")
    except OSError:
        return True
    return False


def _is_closed(client: socket.socket) -> bool:
    client.settimeout(0.05)
    try:
        return client.recv(65536) == b""
    except TimeoutError:
        return False


def test_what_is_not_http_is_answered_in_json_without_keeping_it(
    home_with_registry: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with guarded(monkeypatch, home_with_registry) as door:
        for sent, expected in (
            (b"GET /" + b"a" * 100_000, 431),
            (b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: %s\r\n" % (n, b"y" * 900) for n in range(120)), 431),
            (request(None, more=f"X: {'y' * 100_000}\r\n"), 431),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
            (request(token, f"{TABLE}/query", "POST", "Transfer-Encoding: chunked\r\n") + b"zz\r\n", 400),
        ):
            status, headers, body = raw(door, sent)
            assert (status, sorted(body)) == (expected, ["errorCode", "message"])
            assert body["errorCode"] == "MALFORMED_REQUEST"
            assert headers["content-type"] == "application/json; charset=utf-8"
        assert is_served(door, token)


def test_a_slash_at_the_end_is_not_redirected(
    home_with_registry: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Host": "evil.example", "Authorization": f"Bearer {token}"}
    monkeypatch.setenv("EXCHANGE_SHARE_URL", "https://share.example.com")
    with guarded(monkeypatch, home_with_registry) as door, httpx.Client(headers=headers, trust_env=False) as client:
        answer = client.get(f"{door.address}/delta-sharing/shares/")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
        lines = client.post(f"{door.address}{TABLE}/query/", json={})
        assert lines.status_code == 200
        url = json.loads(lines.text.splitlines()[2])["file"]["url"]
        assert url.startswith("https://share.example.com/delta-sharing/files/"), "the Host header decides nothing"
        for wrong in ("//evil.example/", "/delta-sharing/nosuch/"):
            answer = client.get(f"{door.address}{wrong}")
            assert answer.status_code == 404 and "evil" not in str(answer.headers) + answer.text


def test_refused_requests_cost_neither_a_row_nor_a_buyer_s_patience(
    home_with_registry: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with guarded(monkeypatch, home_with_registry, refusals_per_minute=50) as door:
        with httpx.Client(base_url=door.address, trust_env=False) as client:
            answers = [client.get("/delta-sharing/shares") for _ in range(40)]
            answers += [client.get(f"/delta-sharing/files/x{n}") for n in range(40)]
            for n in range(40):
                answers.append(client.get("/delta-sharing/shares", headers={"Authorization": f"Bearer {n}"}))
            answers += [client.get(f"/{n}") for n in range(40)]
        codes = [answer.status_code for answer in answers]
        assert codes[:50] == [401] * 40 + [403] * 10
        # The minute may end once meanwhile, and the count begins anew.
        assert codes.count(429) >= 60
        limited = next(answer for answer in answers if answer.status_code == 429)
        assert limited.json()["errorCode"] == "RESOURCE_EXHAUSTED" and 1 <= int(limited.headers["retry-after"]) <= 60
        assert is_served(door, token), "a valid token is served also from there"
        assert [entry.operation for entry in usage.usage()] == ["version"]
    sums = usage.refusals()
    assert sum(row.requests for row in sums) == 160 and len(sums) <= 40
    assert {row.address for row in sums} <= {"127.0.0.1", "other addresses"}
    (strangers,) = [total for total in usage.summary() if total.buyer is None]
    assert (strangers.requests, strangers.denied) == (160, 160)


def test_a_refused_buyer_has_rows_but_not_endlessly(
    home_with_registry: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.share.refusals.ROWS_PER_GRANT", 3)
    with guarded(monkeypatch, home_with_registry) as door, door.client(token) as client:
        for _ in range(9):
            assert client.get("/shares/exchange/schemas/products/tables/nosuch/version").status_code == 404
    rows = [entry for entry in usage.usage() if entry.status == 404]
    # As above, the minute may end once.
    assert 3 <= len(rows) <= 6 and {entry.buyer for entry in rows} == {"acme"}
    assert len(rows) + sum(row.requests for row in usage.refusals()) == 9


def test_a_locked_registry_is_answered_at_once(
    home_with_registry: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with guarded(monkeypatch, home_with_registry) as door:
        assert is_served(door, token)
        address = _file_address(door, token)
        with sqlite3.connect(home_with_registry / "registry.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            with ThreadPoolExecutor(20) as pool:
                url, header = f"{door.address}{TABLE}/version", {"Authorization": f"Bearer {token}"}
                answers = list(
                    pool.map(lambda _: httpx.get(url, headers=header, trust_env=False, timeout=25), range(20))
                )
            answers.append(httpx.get(address, trust_env=False))
            other.execute("ROLLBACK")
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.json()["errorCode"] for answer in answers} == {"TEMPORARILY_UNAVAILABLE"}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
        assert is_served(door, token) and httpx.get(address, trust_env=False).status_code == 200
    assert sum(row.requests for row in usage.refusals() if row.status == 503) == 21


def test_a_client_that_leaves_is_metered_without_a_traceback(
    home_with_registry: Path, token: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with guarded(monkeypatch, home_with_registry) as door:
        for who in (token, None):
            with connect(door) as client:
                client.sendall(request(who, f"{TABLE}/query", "POST", "Content-Length: 9\r\n") + b"{")
                # Until the server waits for the rest.
                time.sleep(0.2)
        wait_until(lambda: bool(usage.usage()), 20, lambda: "not metered")
        assert is_served(door, token)
    (left,) = [entry for entry in usage.usage() if entry.operation == "query"]
    assert (left.status, left.buyer, left.product) == (499, "acme", "rates")
    assert "disconnected before its request was complete" in str(left.reason)
    assert [(row.operation, row.status) for row in usage.refusals()] == [("query", 401)]
    assert not [record for record in caplog.records if record.exc_info]


def test_forty_buyers_read_at_once_beside_one_that_reads_nothing(
    home_with_registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build("rates", pa.table({"value": list(range(2_000_000))}))
    release("rates", "1.0.0")
    with guarded(monkeypatch, home_with_registry, stall_seconds=1) as door, ExitStack() as held:
        tokens = [door.grant("rates", f"buyer {n}")[1] for n in range(40)]
        content = next((settings().lake / "gold" / "rates").glob("*.parquet")).read_bytes()
        stalled = held.enter_context(connect(door))
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        address = _file_address(door, tokens[0])
        stalled.sendall(request(None, address.removeprefix(door.address)))

        def read(token: str) -> bool:
            return httpx.get(_file_address(door, token), trust_env=False, timeout=60).content == content

        with ThreadPoolExecutor(40) as pool:
            assert all(pool.map(read, tokens))
        wait_until(lambda: any(entry.reason for entry in usage.usage()), 30, lambda: "the stalled one is still served")
    files = [entry for entry in usage.usage(limit=200) if entry.operation == "file"]
    (cut,) = [entry for entry in files if entry.reason]
    assert cut.reason == "the client read nothing for 1 seconds" and cut.bytes < len(content)
    assert sorted(entry.bytes for entry in files)[1:] == [len(content)] * 40


def test_a_client_that_only_asks_is_cut_off(home_with_registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("wide", pa.table({f"a_column_with_a_long_name_{n}": [1] for n in range(400)}))
    release("wide", "1.0.0")
    with guarded(monkeypatch, home_with_registry, stall_seconds=0.5) as door, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(door.address.rsplit(":", 1)[1])))
        client.settimeout(0.1)
        target = "/delta-sharing/shares/exchange/schemas/products/tables/wide/metadata"
        asking = request(door.grant("wide")[1], target) * 50

        def is_cut_off() -> bool:
            try:
                client.sendall(asking)
            except TimeoutError:
                return False
            except OSError:
                return True
            return False

        wait_until(is_cut_off, 60, lambda: "a client that never reads is still served")


def test_nothing_is_sent_while_the_meter_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 20 * PIECE_BYTES)
    written: list[int] = []
    sent: list[int] = []
    failing = [False]

    def record_all(new: list[usage.Request], changed: list[usage.Request], *_: object, **__: object) -> None:
        if failing[0]:
            raise Locked("locked")
        written.extend(entry.bytes for entry in (*new, *changed))

    async def send(message: Any) -> None:
        sent.append(len(message.get("body", b"")))
        await asyncio.sleep(0.01)

    async def receive() -> dict[str, str]:
        await asyncio.Event().wait()
        return {}

    async def serve() -> tuple[int, int]:
        meter = Meter(1)
        delivery = FileDelivery(
            file, Span(0, file.stat().st_size - 1), entry=usage.Request("file"), ticket=Ticket(1, 1, 1, "", 1),
            meter=meter, stall_seconds=30, status=200, headers={}, with_body=True,
        )  # fmt: skip
        async with meter.running():
            task = asyncio.create_task(delivery({"type": "http"}, receive, send))
            await asyncio.sleep(0.03)
            failing[0] = True
            await asyncio.sleep(0.06)
            held = sum(sent)
            await asyncio.sleep(0.1)
            held_later = sum(sent)
            failing[0] = False
            await task
        return held, held_later

    monkeypatch.setattr("jobs.share.meter.usage.record_all", record_all)
    monkeypatch.setattr("jobs.share.meter.LOOK_SECONDS", 0.005)
    held, held_later = asyncio.run(serve())
    assert 0 < held == held_later < file.stat().st_size, "sending waits"
    assert sum(sent) == written[-1] == file.stat().st_size


@pytest.mark.parametrize("leaves", [False, True])
def test_a_file_is_copied_where_the_kernel_cannot_send_it(
    home_with_registry: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, leaves: bool
) -> None:
    async def sendfile(_loop: object, transport: Any, *_: object, **__: object) -> int:
        if leaves:
            transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        raise asyncio.SendfileNotAvailableError

    build("rates", pa.table({"value": np.random.default_rng(1).random(200_000)}))
    release("rates", "1.0.0")
    content = next((settings().lake / "gold" / "rates").glob("*.parquet")).read_bytes()
    with guarded(monkeypatch, home_with_registry) as door:
        address = _file_address(door, door.grant("rates")[1])
        monkeypatch.setattr(asyncio.BaseEventLoop, "sendfile", sendfile)
        if leaves:
            with pytest.raises(httpx.TransportError):
                httpx.get(address, trust_env=False)
        else:
            assert httpx.get(address, trust_env=False).content == content
        wait_until(lambda: bool(usage.usage()) and usage.usage()[0].operation == "file", 20, lambda: "not metered")
    entry = usage.usage()[0]
    assert (entry.reason, entry.bytes) == (("the client disconnected", 0) if leaves else (None, len(content)))
    assert not [record for record in caplog.records if record.exc_info]


def _file_address(door: Door, token: str) -> str:
    answer = httpx.post(
        f"{door.address}{TABLE}/query", json={}, headers={"Authorization": f"Bearer {token}"}, trust_env=False,
        timeout=60,
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    return str(json.loads(answer.text.splitlines()[2])["file"]["url"])


@pytest.mark.usefixtures("home_with_registry")
def test_a_killed_server_has_metered_what_it_sent(tmp_path: Path) -> None:
    build("large", pa.table({"value": np.random.default_rng(1).random(4_000_000)}))
    release("large", "1.0.0")
    port = free_port(0)
    program = f"from jobs.share.server import serve; serve(port={port})"
    server = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until(lambda: is_listening(port), 120, lambda: "the server did not start")
        door = Door(f"http://127.0.0.1:{port}", tmp_path)
        _, buyer = door.grant("large")
        with door.client(buyer) as client:
            lines = client.post("/shares/exchange/schemas/products/tables/large/query", json={}).text.splitlines()
        file = json.loads(lines[2])["file"]
        received = 0
        with connect(door) as reader:
            reader.sendall(request(None, file["url"].removeprefix(door.address)))
            while received < 8 * 1024 * 1024:
                received += len(reader.recv(65536))
            time.sleep(0.9)
            server.send_signal(signal.SIGKILL)
            server.wait(20)
    finally:
        server.kill()
    (entry,) = [entry for entry in usage.usage() if entry.operation == "file"]
    assert received - 1024 <= entry.bytes <= file["size"], "but for the headers, which were received, too"


def test_limits_count_by_the_client_that_a_trusted_proxy_names(
    home_with_registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(door: Door, client_address: str) -> int:
        headers = {"X-Forwarded-For": client_address, "X-Forwarded-Proto": "https"}
        return httpx.get(f"{door.address}/delta-sharing/shares", headers=headers, trust_env=False).status_code

    for proxies, expected in (("127.0.0.0/8", [401, 401, 429, 401]), ("", [401, 401, 429, 429])):
        with guarded(monkeypatch, home_with_registry, refusals_per_minute=2, proxies=proxies) as door:
            monkeypatch.setattr("jobs.share.refusals.time.time", lambda: 1_800_000_000.0)
            assert [refused(door, client) for client in ("192.0.2.7",) * 3 + ("192.0.2.8",)] == expected
        monkeypatch.undo()
        monkeypatch.setenv("EXCHANGE_HOME", str(home_with_registry))
    addresses = {row.address for row in usage.refusals()}
    assert addresses == {"192.0.2.7", "192.0.2.8", "127.0.0.1"}
