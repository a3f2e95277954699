"""Releases of a small exchange and buyers' access to them, for tests of the sharing server."""

from __future__ import annotations

import json
import threading
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

from jobs import lake
from jobs.exchange.grants import create_grant
from jobs.lake.objects import sha256_of
from jobs.registry import transaction
from jobs.registry.models import Grant, Release
from jobs.registry.releases import newest_release, record_release
from jobs.release import credential
from jobs.release.credential import instant
from jobs.release.difference import Fingerprint
from jobs.release.manifest import (
    CONTRACT_FILE,
    EVIDENCE_FILE,
    Changes,
    ColumnType,
    Content,
    ContractCopy,
    Expectations,
    Manifest,
    ReleasedFile,
    TableVersion,
    Terms,
    content_digest,
    digest,
)
from jobs.release.snapshot import snapshot
from jobs.settings import settings
from tests.waiting import wait_until

FIRST_RELEASE = datetime(2026, 1, 1, tzinfo=UTC)


def build(product: str, rows: pa.Table, mode: str = "append", **options: Any) -> int:
    """Commit a version of a product's table, without releasing it; returns its number."""
    folder = settings().lake / "gold" / product
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_deltalake(str(folder), rows, mode=mode, **options)
    return DeltaTable(str(folder)).version()


def release(
    product: str, number: str, *, version: int | None = None, at: datetime | None = None, without: tuple[str, ...] = ()
) -> Release:
    """Release a version of a product's table, by default the latest, with a manifest as the release step writes it.

    Needs neither declarations nor an engine: the manifest names no source, its fingerprint is that of an empty table,
    and its difference only compares row counts. `without` names fields to leave out, as older manifests lack them.
    """
    table = f"gold.{product}"
    state = snapshot(table, lake.delta(table).version() if version is None else version)
    released_at = at or FIRST_RELEASE + timedelta(days=state.version)
    previous = newest_release(product)
    added = state.rows - (previous.rows if previous else 0)
    fingerprint = Fingerprint()
    manifest = Manifest(
        product=product,
        release=number,
        title=product.capitalize(),
        cautions=(),
        released_at=instant(released_at),
        run_id="r",
        licence=Terms(id="CC-BY-4.0", url="https://creativecommons.org/licenses/by/4.0/"),
        sources=(),
        table=TableVersion(
            name=table,
            path=lake.relative(table),
            id=state.id,
            delta_version=state.version,
            rows=state.rows,
            bytes=state.bytes,
            columns=tuple(ColumnType(name=name, type=kind, nullable=True) for name, kind in state.columns.items()),
            key=(),
            partitions=state.partitions,
        ),
        files=tuple(
            ReleasedFile(path=path, sha256=sha256_of(lake.location(table) / path), size=file.size, rows=file.rows)
            for path, file in sorted(state.files.items())
        ),
        content=Content(
            algorithm="xxhash64-sum-2",
            fingerprint=str(fingerprint),
            sha256=content_digest(state.business_columns, state.rows, str(fingerprint)),
        ),
        contract=ContractCopy(path=CONTRACT_FILE, sha256=digest(b""), digest=digest(b""), version="1.0.0"),
        expectations=Expectations(
            path=EVIDENCE_FILE, result_sha256=digest(b"{}"), suite_digest="", grade="A", score=100.0, dimensions={}
        ),
        inputs=(),
        landed=(),
        diff=Changes(
            against=previous.number if previous else None, added=max(added, 0), removed=max(-added, 0), changed=0
        ),
    )
    major, minor, patch = (int(part) for part in number.split("."))
    row = Release(
        product=product,
        major=major,
        minor=minor,
        patch=patch,
        delta_version=state.version,
        manifest_sha256=digest(manifest.encode()),
        manifest={name: part for name, part in manifest.document().items() if name not in without},
        credential=credential.issue(credential.RELEASE, manifest.statement(), valid_from=released_at),
        rows=state.rows,
        bytes=state.bytes,
        grade="A",
        licence="CC-BY-4.0",
        status="published",
        released_at=released_at,
    )
    assert record_release(row)
    return row


def recall(release: Release) -> None:
    """Recall a release."""
    with transaction() as session:
        session.get_one(Release, release.id).status = "recalled"


def set_grant(grant: Grant, **columns: Any) -> None:
    """Change columns of a grant's row."""
    with transaction() as session:
        row = session.get_one(Grant, grant.id)
        for name, value in columns.items():
            setattr(row, name, value)


@dataclass
class Door:
    """A running sharing server and its buyers' profiles."""

    address: str
    folder: Path
    profiles: dict[str, Path] = field(default_factory=dict)

    def grant(self, product: str, buyer: str = "acme", days: int = 30) -> tuple[Grant, str]:
        """Grant a product and write the profile to a file; returns the grant and its token."""
        grant, profile = create_grant(product, buyer, days, f"{self.address}/delta-sharing")
        self.profiles[profile["bearerToken"]] = self.folder / f"{grant.id}.share"
        self.profiles[profile["bearerToken"]].write_text(json.dumps(profile))
        return grant, profile["bearerToken"]

    def url(self, token: str, product: str) -> str:
        """The URL by which the official client names a table."""
        return f"{self.profiles[token]}#exchange.products.{product}"

    def client(self, token: str | None, **headers: str) -> httpx.Client:
        """A plain HTTP client, with the token unless it is None."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return httpx.Client(base_url=f"{self.address}/delta-sharing", headers=headers, timeout=120, trust_env=False)


@contextmanager
def open_door(folder: Path) -> Iterator[Door]:
    """Run a real server in this process, on a local port; buyers' profiles are written to the folder."""
    from jobs.share.server import configuration, create_app

    server = uvicorn.Server(configuration(create_app(), "127.0.0.1", 0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive(), 120, lambda: "the server did not start")
    assert thread.is_alive(), "the server ended"
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Door(f"http://127.0.0.1:{port}", folder)
    server.should_exit = True
    thread.join(timeout=120)
    assert not thread.is_alive()


def days(count: int, first: int = 0) -> pa.Table:
    """Rows of the example product, one per day."""
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
