"""Buyers read releases in the object store through the sharing server, which fetches only the bytes they request."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import delta_sharing
import httpx
import pytest
from aiobotocore.httpsession import AIOHTTPSession

from jobs import lake
from jobs.exchange import usage
from jobs.exchange.grants import revoke
from jobs.flow import run_step
from jobs.lake.objects import on_disk
from tests.cluster.running import Place
from tests.exchange.wares import Door, open_door
from tests.lake.trial import Trial, day

pytestmark = pytest.mark.timeout(1800)

# Incompressible values, more than all buffers between store and client hold. The rows are wide because a release costs
# mostly by the row.
ROWS = 500_000
VALUES = [f"value_{number}" for number in range(12)]
QUERY = f"""SELECT meter, id, {", ".join(f"xxhash64(id, {number}) AS {name}" for number, name in enumerate(VALUES))}
FROM silver.{{source}} LATERAL VIEW explode(sequence(1L, {ROWS}L)) AS id"""
COLUMNS = {"meter": "STRING", "id": "BIGINT"} | dict.fromkeys(VALUES, "BIGINT")
# The most that the server fetches in one request: a piece and its read-ahead.
MOST_PER_REQUEST = (4 << 20) + (512 << 10)


@pytest.fixture
def product(on_cluster: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A product of one large file, released on the cluster."""
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "catalogue"))
    exchange = Trial(tmp_path / "catalogue")
    on_cluster.enter()
    source = exchange.source({"meter": "STRING"}, ("meter",))
    source.take([("m1",)])
    product = exchange.product(COLUMNS, ("id",), QUERY.format(source=source.name))
    for step in ("gold", "check", "release"):
        assert run_step(step, product, day(0), "r").status == "succeeded"
    return product


@pytest.fixture
def door(product: str, tmp_path: Path) -> Iterator[Door]:
    """The sharing server on that lake."""
    assert str(lake.location(f"gold.{product}")).startswith("s3://")
    with open_door(tmp_path) as opened:
        yield opened


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """First and last byte of each range of a data file requested from the store, as sent over the wire."""
    spans: list[tuple[int, int]] = []
    real = AIOHTTPSession.send

    async def send(self: AIOHTTPSession, request: Any) -> Any:
        if request.method == "GET" and ".parquet" in request.url:
            first, last = request.headers["Range"].decode().removeprefix("bytes=").split("-")
            spans.append((int(first), int(last)))
        return await real(self, request)

    monkeypatch.setattr(AIOHTTPSession, "send", send)
    return spans


def file_of(door: Door, token: str, product: str) -> dict[str, Any]:
    with door.client(token) as client:
        answer = client.post(f"/shares/exchange/schemas/products/tables/{product}/query", json={})
        assert answer.status_code == 200, answer.text
        (line,) = [json.loads(line) for line in answer.text.splitlines()[2:]]
        return dict(line["file"])


def covers(requested: list[tuple[int, int]], first: int, last: int) -> bool:
    """Whether the ranges cover these bytes, each exactly once, and no others."""
    ends = [first - 1, *(end for _, end in requested)]
    return ends[-1] == last and all(start == end + 1 for (start, _), end in zip(requested, ends, strict=False))


# One test, because the file is expensive to make.
def test_buyers_read_what_they_are_granted_and_no_other_bytes_are_fetched(
    door: Door, requested: list[tuple[int, int]], product: str
) -> None:
    _, token = door.grant(product)
    file = file_of(door, token, product)
    with on_disk(lake.location(f"gold.{product}") / lake.files(f"gold.{product}")[0].path) as copy:
        content = copy.read_bytes()
    assert len(content) == file["size"] > 40 << 20
    with httpx.Client(trust_env=False, timeout=180) as client:
        ranges_are_passed_on(client, file, content, requested)
        requested.clear()
        assert client.get(file["url"]).content == content
    assert covers(requested, 0, file["size"] - 1)
    assert max(last - first + 1 for first, last in requested) <= MOST_PER_REQUEST
    rows_are_those_of_the_release(door.url(token, product), product)
    a_revoked_grant_stops_at_the_next_bytes(file, product)


def ranges_are_passed_on(
    client: httpx.Client, file: dict[str, Any], content: bytes, requested: list[tuple[int, int]]
) -> None:
    size, far = file["size"], MOST_PER_REQUEST + 1_500_000
    for header, first, last in (
        ("bytes=10-19", 10, 19),
        ("bytes=-8", size - 8, size - 1),
        (f"bytes=1000000-{far}", 1_000_000, far),
    ):
        requested.clear()
        part = client.get(file["url"], headers={"Range": header})
        assert (part.status_code, part.content) == (206, content[first : last + 1])
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
        assert covers(requested, first, last), requested


def rows_are_those_of_the_release(url: str, product: str) -> None:
    received = delta_sharing.load_as_pandas(url).sort_values("id", ignore_index=True)
    released = lake.read_table(f"gold.{product}").toArrow().to_pandas().sort_values("id", ignore_index=True)
    assert len(received) == ROWS
    assert received.equals(released[list(received.columns)])


def a_revoked_grant_stops_at_the_next_bytes(file: dict[str, Any], product: str) -> None:
    received = 0
    with (
        httpx.Client(trust_env=False, timeout=180) as client,
        pytest.raises(httpx.RemoteProtocolError),
        client.stream("GET", file["url"]) as answer,
    ):
        for piece in answer.iter_raw():
            if not received:
                revoke("contract ended", product=product, buyer="acme")
                time.sleep(1.2)
            received += len(piece)
    assert received < file["size"]
    after = httpx.get(file["url"], headers={"Range": "bytes=0-3"}, trust_env=False)
    assert (after.status_code, after.json()["errorCode"]) == (403, "PERMISSION_DENIED")
    assert "revoked" in after.json()["message"]
    refused, stopped = [entry for entry in usage.usage() if entry.operation == "file"][:2]
    assert (refused.allowed, refused.bytes, stopped.allowed) == (False, 0, False)
    assert received <= stopped.bytes < file["size"]
