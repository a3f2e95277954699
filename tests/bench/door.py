"""Measures the sharing server under load: many buyers read at once, one stalls, a stranger asks without a token.

The buyers are one small client over plain sockets, so that nearly all that is measured is the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from jobs.operate.processes import free_port
from jobs.settings import CHECKOUT
from tests.bench import client
from tests.bench.catalogue import PRODUCT

_TABLE = f"/delta-sharing/shares/exchange/schemas/products/tables/{PRODUCT}"
_DELTA = "delta-sharing-capabilities: responseformat=delta\r\n"
_LIMIT_SECONDS = 600


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes


class _Connection:
    """One kept connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @staticmethod
    async def open(port: int) -> _Connection:
        """Connect."""
        return _Connection(*await asyncio.open_connection("127.0.0.1", port, limit=2**20))

    async def ask(self, method: str, path: str, token: str | None = None, body: bytes = b"") -> _Answer:
        """Send a request, and read its response."""
        bearer = f"Authorization: Bearer {token}\r\n" if token else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\n{bearer}{_DELTA}Content-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        lengths = [int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")]
        return _Answer(int(first.split()[1]), await self._reader.readexactly(lengths[0]) if lengths else b"")


def bench(console: Console, scratch: Path, buyers: int, rows: int) -> dict[str, Any]:
    """Let this many buyers each read a release of this many rows at once: metadata, query, every file.

    Raises:
        RuntimeError: the server does not start, or a read fails.
    """
    os.environ["EXCHANGE_HOME"] = str(scratch / "home")
    files = client.release(rows)
    port = free_port(0)
    tokens = _tokens(buyers)
    with (scratch / "server.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-c", client.SERVER, str(port)], cwd=CHECKOUT, stderr=log)
        try:
            client.wait_for(server, port)
            process = psutil.Process(server.pid)
            before = sum(process.cpu_times()[:2])
            seconds, refused = asyncio.run(asyncio.wait_for(_read_at_once(port, tokens), _LIMIT_SECONDS))
            cpu, memory = sum(process.cpu_times()[:2]) - before, process.memory_info().rss
        finally:
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(10)
            server.kill()
    return _report(console, files, seconds, {"refused": refused, "server_cpu": cpu, "server_rss": memory})


def _tokens(buyers: int) -> list[str]:
    from jobs.exchange.grants import create_grant

    return [create_grant(PRODUCT, f"bench {n}", 1)[1]["bearerToken"] for n in range(buyers)]


async def _read_at_once(port: int, tokens: list[str]) -> tuple[list[float], int]:
    stalled = asyncio.create_task(_stall(port, tokens[0]))
    stranger = asyncio.create_task(_ask_without_token(port))
    ended = await asyncio.gather(*(_read(port, token) for token in tokens), return_exceptions=True)
    stranger.cancel()
    stalled.cancel()
    failed = [repr(error) for error in ended if isinstance(error, BaseException)]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(ended)} reads failed: {failed[0]}")
    with suppress(asyncio.CancelledError):
        await stranger
    return [seconds for seconds in ended if isinstance(seconds, float)], _refused[0]


_refused = [0]


async def _read(port: int, token: str) -> float:
    began = time.perf_counter()
    connection = await _Connection.open(port)
    for address in await _addresses(connection, token):
        _require(await connection.ask("GET", address))
    connection.writer.close()
    return time.perf_counter() - began


async def _addresses(connection: _Connection, token: str) -> list[str]:
    _require(await connection.ask("GET", f"{_TABLE}/metadata", token))
    lines = _require(await connection.ask("POST", f"{_TABLE}/query", token, b"{}")).splitlines()[2:]
    urls = [json.loads(line)["file"]["deltaSingleAction"]["add"]["path"] for line in lines]
    return ["/delta-sharing" + url.split("/delta-sharing", 1)[1] for url in urls]


def _require(answer: _Answer) -> bytes:
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}: {answer.body[:200]!r}")
    return answer.body


async def _stall(port: int, token: str) -> None:
    """Ask for a file, and read nothing of it."""
    connection = await _Connection.open(port)
    address = (await _addresses(connection, token))[0]
    connection.writer.write(f"GET {address} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    await asyncio.Event().wait()


async def _ask_without_token(port: int) -> None:
    while True:
        with suppress(OSError, asyncio.IncompleteReadError):
            connection = await _Connection.open(port)
            while True:
                await connection.ask("GET", "/delta-sharing/shares")
                _refused[0] += 1


def _report(console: Console, files: list[Path], seconds: list[float], server: dict[str, float]) -> dict[str, Any]:
    size = sum(file.stat().st_size for file in files)
    figures: dict[str, Any] = {
        "buyers": len(seconds), "files": len(files), "bytes": size, "p50": statistics.median(seconds),
        "p95": statistics.quantiles(seconds, n=20)[-1], "longest": max(seconds), **server,
    }  # fmt: skip
    table = Table(title=f"{len(seconds)} buyers at once, each {len(files)} files, {size / 1e6:,.1f} MB")
    for heading in ("p50", "p95", "longest", "server's processor", "server's memory", "refused meanwhile"):
        table.add_column(heading, justify="right")
    table.add_row(
        *(f"{figures[name]:.1f} s" for name in ("p50", "p95", "longest", "server_cpu")),
        f"{figures['server_rss'] / 1e6:,.0f} MB", f"{figures['refused']:,}",
    )  # fmt: skip
    console.print(table)
    console.print("aim: 300 buyers, no error, p50 of at most 10 s on two cores")
    return figures
