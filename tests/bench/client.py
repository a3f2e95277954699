"""Compares the official sharing client, reading a release from our server, with pyarrow reading the same files."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import psutil
from rich.console import Console
from rich.table import Table

from jobs.operate.processes import free_port
from jobs.settings import CHECKOUT
from tests.bench.catalogue import PRODUCT

_START_SECONDS = 60
_READ_SECONDS = 1800
_ROWS_A_FILE = 1_000_000

# Each read runs in a separate process and is timed after its imports.
_DIRECT = """
import sys, time
import pandas, pyarrow.dataset, pyarrow.parquet
started = time.perf_counter()
frame = pyarrow.parquet.read_table(sys.argv[1:]).to_pandas()
print(time.perf_counter() - started, len(frame), int(frame["value"].sum()))
"""
_CLIENT = """
import sys, time
import delta_sharing
started = time.perf_counter()
frame = delta_sharing.load_as_pandas(sys.argv[1])
print(time.perf_counter() - started, len(frame), int(frame["value"].sum()))
"""
SERVER = """
import sys
from jobs.share.server import serve
serve("127.0.0.1", int(sys.argv[1]))
"""


def bench(console: Console, scratch: Path, rows: int, rounds: int) -> dict[str, Any]:
    """Release a table with this many rows, serve it, and read it both ways in turn.

    Raises:
        RuntimeError: the server does not start, a read fails, or the two read different rows.
    """
    os.environ["EXCHANGE_HOME"] = str(scratch / "home")
    files = release(rows)
    port = free_port(0)
    env = dict(os.environ) | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], env=env, cwd=CHECKOUT)
    try:
        wait_for(server, port)
        process = psutil.Process(server.pid)
        before = sum(process.cpu_times()[:2])
        url = _profile(scratch / "buyer.share", port)
        direct, client = [], []
        for _ in range(rounds):
            direct.append(_read(_DIRECT, [str(file) for file in files], env))
            client.append(_read(_CLIENT, [url], env))
        server_cpu = (sum(process.cpu_times()[:2]) - before) / rounds
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(10)
        server.kill()
    if len({read[1:] for read in (*direct, *client)}) != 1:
        raise RuntimeError(f"the two read different rows: {direct[0][1:]} and {client[0][1:]}")
    return _report(console, rows, files, [read[0] for read in direct], [read[0] for read in client], server_cpu)


def _report(
    console: Console, rows: int, files: list[Path], direct: list[float], client: list[float], server_cpu: float
) -> dict[str, Any]:
    size = sum(file.stat().st_size for file in files)
    figures = {
        "rows": rows,
        "files": len(files),
        "bytes": size,
        "direct": statistics.median(direct),
        "client": statistics.median(client),
        "server_cpu": server_cpu,
    }
    figures["speed"] = figures["direct"] / figures["client"]
    title = f"{rows:,} rows, {len(files)} files, {size / 1e6:,.0f} MB into pandas"
    table = Table(title=f"{title}, medians of {len(direct)} rounds")
    for heading in ("", "seconds", "rows/s"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("pyarrow, the files themselves", f"{figures['direct']:.2f}", f"{rows / figures['direct']:,.0f}")
    table.add_row("delta_sharing, from our server", f"{figures['client']:.2f}", f"{rows / figures['client']:,.0f}")
    console.print(table)
    console.print(f"the client reaches {figures['speed']:.2f} of the direct read's speed (aim: at least 0.8)")
    console.print(f"the server took {server_cpu:.2f} processor seconds a read")
    return figures


def release(rows: int) -> list[Path]:
    """Write a gold table and register a release of it, as the release step would; returns its files."""
    import numpy as np
    import pyarrow as pa
    from deltalake import DeltaTable, write_deltalake

    from jobs.registry import engine, transaction
    from jobs.registry.models import Release
    from jobs.settings import settings

    # Before the table: an empty registry beside tables is refused.
    engine()
    folder = settings().lake / "gold" / PRODUCT
    rng = np.random.default_rng(11)
    codes = pa.array([f"M{n:05d}" for n in range(5_000)])
    for start in range(0, rows, _ROWS_A_FILE):
        numbers = np.arange(start, min(start + _ROWS_A_FILE, rows))
        hours = np.datetime64("2020-01-01T00:00:00", "us") + (numbers // 5_000).astype("timedelta64[h]")
        part = pa.table(
            {
                "meter_code": codes.take(pa.array(numbers % 5_000)),
                "read_at": pa.array(hours, pa.timestamp("us", "UTC")),
                "value": pa.array(rng.integers(0, 1_000_000, len(numbers))),
                "energy_kwh": pa.array(rng.random(len(numbers))),
            }
        )
        write_deltalake(str(folder), part, mode="append")
    log = DeltaTable(str(folder))
    counts = dict(zip(*(pa.table(log.get_add_actions())[c].to_pylist() for c in ("path", "num_records")), strict=True))
    listed = [
        {"path": path, "sha256": _sha256(folder / path), "size": (folder / path).stat().st_size, "rows": count}
        for path, count in sorted(counts.items())
    ]
    manifest = {"product": PRODUCT, "release": "1.0.0", "files": listed}
    release = Release(
        product=PRODUCT,
        major=1,
        minor=0,
        patch=0,
        delta_version=log.version(),
        manifest=manifest,
        manifest_sha256=hashlib.sha256(json.dumps(manifest).encode()).hexdigest(),
        credential="",
        rows=rows,
        bytes=sum(int(file["size"]) for file in listed),
        grade="A",
        licence="CC0-1.0",
        released_at=datetime.now(UTC),
    )
    with transaction() as session:
        session.add(release)
    return [folder / str(file["path"]) for file in listed]


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    from urllib.error import HTTPError

    opener = build_opener(ProxyHandler({}))
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            opener.open(f"http://127.0.0.1:{port}/delta-sharing/shares", timeout=5)
        except HTTPError:
            # An error status also shows that it is up.
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the sharing server did not start")


def _profile(file: Path, port: int) -> str:
    from jobs.exchange.grants import create_grant

    _, profile = create_grant(PRODUCT, "bench", 1, f"http://127.0.0.1:{port}/delta-sharing")
    file.write_text(json.dumps(profile))
    return f"{file}#exchange.products.{PRODUCT}"


def _read(script: str, arguments: list[str], env: dict[str, str]) -> tuple[float, int, int]:
    command = [sys.executable, "-c", script, *arguments]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_READ_SECONDS, check=False)
    if ended.returncode:
        raise RuntimeError(f"a read failed:\n{ended.stderr[-2000:]}")
    seconds, count, total = ended.stdout.split()
    return float(seconds), int(count), int(total)
