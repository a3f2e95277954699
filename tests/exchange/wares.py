"""Releases in a small exchange, and a buyer who wants them: helpers of the tests at the buyer's door."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import uvicorn
from deltalake import DeltaTable, write_deltalake

from jobs.exchange.grants import create_grant
from jobs.registry import transaction
from jobs.registry.models import Grant, Release
from jobs.settings import settings

FIRST_RELEASE = datetime(2026, 1, 1, tzinfo=UTC)


def build(product: str, rows: pa.Table, mode: str = "append", **options: Any) -> int:
    """Commit a version of a product's table, and return its number. Nothing is released by it."""
    folder = settings().lake / "gold" / product
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_deltalake(str(folder), rows, mode=mode, **options)
    return DeltaTable(str(folder)).version()


def release(product: str, number: str, *, version: int | None = None, at: datetime | None = None) -> Release:
    """Release a version of a product's table, the latest unless told otherwise."""
    folder = settings().lake / "gold" / product
    table = DeltaTable(str(folder), version=version)
    files = []
    for uri, rows in zip(table.file_uris(), pa.table(table.get_add_actions())["num_records"].to_pylist(), strict=True):
        path = Path(uri)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        relative = str(path.relative_to(folder))
        files.append({"path": relative, "sha256": digest, "size": path.stat().st_size, "rows": rows})
    manifest = {"product": product, "release": number, "files": files}
    major, minor, patch = (int(part) for part in number.split("."))
    made = Release(
        product=product,
        major=major,
        minor=minor,
        patch=patch,
        delta_version=table.version(),
        manifest_sha256=hashlib.sha256(json.dumps(manifest).encode()).hexdigest(),
        manifest=manifest,
        credential="",
        rows=sum(file["rows"] for file in files),
        bytes=sum(file["size"] for file in files),
        grade="A",
        licence="CC-BY-4.0",
        released_at=at or FIRST_RELEASE + timedelta(days=table.version()),
    )
    with transaction() as session:
        session.add(made)
    return made


def recall(made: Release) -> None:
    """Recall a release."""
    with transaction() as session:
        session.get_one(Release, made.id).status = "recalled"


def set_grant(grant: Grant, **columns: Any) -> None:
    """Change a grant's row, as time or staff would."""
    with transaction() as session:
        row = session.get_one(Grant, grant.id)
        for name, value in columns.items():
            setattr(row, name, value)


@dataclass
class Door:
    """A running server, and how a buyer gets to it."""

    address: str
    folder: Path
    profiles: dict[str, Path] = field(default_factory=dict)

    def grant(self, product: str, buyer: str = "acme", days: int = 30) -> tuple[Grant, str]:
        """Grant a product, keep the profile as a file, and return the grant and the token."""
        grant, profile = create_grant(product, buyer, days, f"{self.address}/delta-sharing")
        self.profiles[profile["bearerToken"]] = self.folder / f"{grant.id}.share"
        self.profiles[profile["bearerToken"]].write_text(json.dumps(profile))
        return grant, profile["bearerToken"]

    def url(self, token: str, product: str) -> str:
        """Return how the official client names a table."""
        return f"{self.profiles[token]}#exchange.products.{product}"

    def client(self, token: str | None, **headers: str) -> httpx.Client:
        """Return a plain HTTP client."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return httpx.Client(base_url=f"{self.address}/delta-sharing", headers=headers, timeout=120, trust_env=False)


@contextmanager
def open_door(folder: Path) -> Iterator[Door]:
    """A real server on a port of this machine, within this process; buyers' profiles are kept in the folder."""
    from jobs.share.server import configuration, create_app

    server = uvicorn.Server(configuration(create_app(), "127.0.0.1", 0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 120
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Door(f"http://127.0.0.1:{port}", folder)
    server.should_exit = True
    thread.join(timeout=120)
    assert not thread.is_alive()


def days(count: int, first: int = 0) -> pa.Table:
    """Rows of the example product: one a day."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    numbers = range(first, first + count)
    return pa.table(
        {
            "day_on": pa.array([(start + timedelta(days=n)).date() for n in numbers]),
            "seen_at": pa.array([start + timedelta(days=n, microseconds=123456) for n in numbers]),
            "code": pa.array([f"c{n % 3}" for n in numbers]),
            "rows": pa.array(list(numbers), pa.int64()),
            "value": pa.array([n / 4 for n in numbers], pa.float64()),
        }
    )
