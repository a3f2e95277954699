"""Downloads from the sharing server: ranges, tickets, metering, and grants revoked on the way."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sqlite3
import stat
import string
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import delta_sharing
import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.cli.program import run
from jobs.errors import ExchangeError
from jobs.exchange import usage
from jobs.exchange.grants import create_grant, revoke
from jobs.operate.processes import free_port, is_listening
from jobs.registry import transaction
from jobs.registry.models import Release, Usage
from jobs.release.recall import events, replay
from jobs.release.step import find
from jobs.settings import settings
from jobs.share import sound, tickets
from jobs.share.ranges import Span, Unsatisfiable, requested
from jobs.share.tickets import Signer, Ticket, signer
from tests.exchange.wares import Door, build, days, recall, release, set_grant
from tests.waiting import wait_until

TABLE = "/shares/exchange/schemas/products/tables/rates"


@pytest.fixture
def token(door: Door) -> str:
    """A token for a product with one release of one file."""
    build("rates", days(500))
    release("rates", "1.0.0")
    return door.grant("rates")[1]


def _file(door: Door, token: str, version: int | None = None) -> dict[str, Any]:
    with door.client(token) as client:
        answer = client.post(f"{TABLE}/query", json={} if version is None else {"version": version})
        assert answer.status_code == 200, answer.text
        return dict(json.loads(answer.text.splitlines()[2])["file"])


def _content(product: str = "rates") -> bytes:
    return next((settings().lake / "gold" / product).glob("*.parquet")).read_bytes()


def _settled(request: int = 0) -> Usage:
    """The newest meter entry of a file, once its bytes have stopped growing."""
    seen = -1
    for _ in range(100):
        entry = [entry for entry in usage.usage() if entry.operation == "file"][request]
        if entry.bytes == seen and (entry.reason or entry.bytes):
            return entry
        seen = entry.bytes
        time.sleep(0.1)
    return entry


def test_a_file_is_served_whole_and_in_ranges(door: Door, token: str) -> None:
    file, content = _file(door, token), _content()
    size = len(content)
    assert file["size"] == size
    with httpx.Client(trust_env=False) as client:
        whole = client.get(file["url"])
        assert (whole.status_code, whole.content) == (200, content)
        assert whole.headers["content-length"] == str(size)
        assert whole.headers["accept-ranges"] == "bytes"
        assert whole.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
        head = client.head(file["url"])
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))
        for header, first, last in (
            ("bytes=0-0", 0, 0),
            ("bytes=0-", 0, size - 1),
            ("bytes=10-19", 10, 19),
            (f"bytes={size - 1}-", size - 1, size - 1),
            (f"bytes=5-{size + 100}", 5, size - 1),
            ("bytes=-8", size - 8, size - 1),
            (f"bytes=-{size + 8}", 0, size - 1),
            ("BYTES= 1-2", 1, 2),
        ):
            part = client.get(file["url"], headers={"Range": header})
            assert (part.status_code, part.content) == (206, content[first : last + 1])
            assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
            assert part.headers["content-length"] == str(last - first + 1)
        for header in (f"bytes={size}-", "bytes=-0", f"bytes={size}-{size + 1}", "bytes=" + "9" * 5000 + "-"):
            none = client.get(file["url"], headers={"Range": header})
            assert (none.status_code, none.headers["content-range"]) == (416, f"bytes */{size}")
            assert none.json()["errorCode"] == "INVALID_PARAMETER_VALUE"
        for header in ("bytes=2-1", "bytes=0-1,3-4", "rows=0-1", "bytes=", "bytes=-", "bytes=a-b", "bytes=1"):
            ignored = client.get(file["url"], headers={"Range": header})
            assert (ignored.status_code, ignored.content) == (200, content)


def test_conditional_requests(door: Door, token: str) -> None:
    url = _file(door, token)["url"]
    with httpx.Client(trust_env=False) as client:
        etag = client.head(url).headers["etag"]
        for header in (etag, f'"x", W/{etag}', "*"):
            unchanged = client.get(url, headers={"If-None-Match": header})
            assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert client.get(url, headers={"If-None-Match": '"x"'}).status_code == 200
        assert client.get(url, headers={"Range": "bytes=0-1", "If-Range": etag}).status_code == 206
        assert client.get(url, headers={"Range": "bytes=0-1", "If-Range": '"x"'}).status_code == 200
    assert [entry.status for entry in usage.usage() if entry.operation == "file"] == [200, 206, 200, 304, 304, 304, 200]


def test_sent_bytes_are_metered(door: Door, token: str) -> None:
    url, size = _file(door, token)["url"], len(_content())
    with httpx.Client(trust_env=False, headers={"User-Agent": "tester/1"}) as client:
        client.get(url)
        client.get(url, headers={"Range": "bytes=10-29"})
        client.head(url)
        client.get(url, headers={"Range": f"bytes={size}-"})
    entries = [entry for entry in usage.usage() if entry.operation == "file"]
    assert [(e.status, e.files, e.bytes) for e in entries] == [(416, 1, 0), (200, 1, 0), (206, 1, 20), (200, 1, size)]
    assert {(e.buyer, e.product, e.version, e.client) for e in entries} == {("acme", "rates", 0, "tester/1")}


def test_a_ticket_is_valid_only_while_its_release_and_grant_are(door: Door, token: str) -> None:
    build("rates", days(9), mode="overwrite")
    newer = release("rates", "1.0.1")
    with httpx.Client(trust_env=False) as client:

        def status(url: str) -> int:
            return client.get(url, headers={"Range": "bytes=0-3"}).status_code

        old, new = _file(door, token, 0)["url"], _file(door, token)["url"]
        assert (status(old), status(new)) == (206, 206)
        recall(newer)
        assert (status(old), status(new)) == (206, 403)
        grant, other = door.grant("rates", "beta")
        mine = _file(door, other)["url"]
        assert status(mine) == 206
        revoke("x", grant_id=grant.id)
        assert (status(old), status(mine)) == (206, 403)
        answer = client.get(mine)
        assert answer.json()["errorCode"] == "PERMISSION_DENIED"
        assert "revoked" in answer.json()["message"]


def test_a_ticket_also_depends_on_the_token_that_requested_it(door: Door, token: str) -> None:
    build("loads", days(1))
    release("loads", "1.0.0")
    stolen, thief = door.grant("loads")
    url = _file(door, thief)["url"]
    assert httpx.get(url, trust_env=False).status_code == 200
    revoke("the profile was lost", grant_id=stolen.id)
    assert httpx.get(url, trust_env=False).status_code == 403
    assert httpx.get(_file(door, token)["url"], trust_env=False).status_code == 200


def test_a_ticket_expires(door: Door, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = _file(door, token)["url"]
    now = time.time()
    monkeypatch.setattr("jobs.share.files.time.time", lambda: now + tickets.TICKET_SECONDS - 5)
    assert httpx.head(url, trust_env=False).status_code == 200
    monkeypatch.setattr("jobs.share.files.time.time", lambda: now + tickets.TICKET_SECONDS + 5)
    assert "expired" in httpx.get(url, trust_env=False).json()["message"]


def test_forged_tickets_are_refused(door: Door, token: str) -> None:
    url = _file(door, token)["url"]
    base, ticket = url.split("?")[0].rsplit("/", 1)
    grant, release_id = 1, 1
    key = hashlib.sha256(b"../../../registry.db").hexdigest()
    soon = int(time.time()) + 60
    signs = signer()
    forged = [
        Signer(b"x" * 32).ticket(Ticket(grant, grant, release_id, key, soon)),
        signs.sign("page:shares of acme", [grant, grant, release_id, key, soon]),
        signs.ticket(Ticket(9, grant, release_id, key, soon)),
        signs.ticket(Ticket(grant, 9, release_id, key, soon)),
        signs.ticket(Ticket(grant, grant, 9, key, soon)),
        signs.ticket(Ticket(grant, grant, release_id, "../../../registry.db", soon)),
        signs.ticket(Ticket(grant, grant, release_id, key, soon)),
        ticket[:-1],
        ticket + "=",
        "x",
        "é",
        "..%2f..%2fregistry.db",
        "a" * 20_000,
    ]
    with httpx.Client(trust_env=False) as client:
        assert client.head(url).status_code == 200
        for wrong in forged:
            answer = client.get(f"{base}/{wrong}")
            assert answer.status_code in (403, 404), wrong
            assert answer.json()["errorCode"] in ("PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST")
    assert all(not e.allowed and not e.bytes for e in usage.usage() if e.operation == "file" and e.status != 200)


def test_a_file_of_another_size_is_not_sent(door: Door, token: str) -> None:
    url = _file(door, token)["url"]
    path = next((settings().lake / "gold" / "rates").glob("*.parquet"))
    path.write_bytes(path.read_bytes() + b"x")
    answer = httpx.get(url, trust_env=False)
    assert (answer.status_code, answer.json()["errorCode"]) == (500, "INTERNAL_ERROR")


@pytest.fixture
def large(door: Door) -> str:
    """A token for a file of about 48 MB, more than all buffers between server and client hold."""
    noise = np.random.default_rng(1).random(6_000_000)
    build("rates", pa.table({"value": noise}))
    release("rates", "1.0.0")
    return door.grant("rates")[1]


def test_revoking_a_grant_stops_a_running_download(door: Door, large: str) -> None:
    file = _file(door, large)
    received = 0
    with (
        httpx.Client(trust_env=False) as client,
        pytest.raises(httpx.RemoteProtocolError),
        client.stream("GET", file["url"]) as answer,
    ):
        assert answer.status_code == 200
        for piece in answer.iter_raw():
            if not received:
                # Metered before the first byte, so even a killed server leaves a trace.
                assert usage.usage()[0].operation == "file"
                revoke("stop", product="rates", buyer="acme")
                time.sleep(1.2)
            received += len(piece)
    entry = _settled()
    assert received < file["size"]
    assert not entry.allowed
    assert "stopped while sending" in str(entry.reason)
    assert received <= entry.bytes < file["size"]
    assert httpx.get(file["url"], trust_env=False).status_code == 403


def test_a_client_that_disconnects_is_metered_for_what_it_received(door: Door, large: str) -> None:
    file = _file(door, large)
    with httpx.Client(trust_env=False) as client, client.stream("GET", file["url"]) as answer:
        for received, _ in enumerate(answer.iter_raw(chunk_size=65536)):
            if received == 40:
                break
    entry = _settled()
    assert 40 * 65536 <= entry.bytes < file["size"]
    assert entry.reason == "the client disconnected"
    assert entry.allowed


def test_many_clients_are_served_concurrently(door: Door, token: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    content = _content()

    def load(_number: int) -> bool:
        return httpx.get(_file(door, token)["url"], trust_env=False, timeout=120).content == content

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(load, range(48)))
    assert sum(entry.bytes for entry in usage.usage()) == 48 * len(content)
    assert len({entry.request_id for entry in usage.usage()}) == 96


def test_a_changed_byte_is_not_sent_whatever_the_file_says_of_itself(door: Door, token: str) -> None:
    url = _file(door, token)["url"]
    [path] = (settings().lake / "gold" / "rates").glob("*.parquet")
    times = path.stat()
    sent = httpx.get(url, trust_env=False).content
    data = bytearray(sent)
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    for headers in ({}, {"Range": "bytes=0-3"}):
        answer = httpx.get(url, headers=headers, trust_env=False)
        assert (answer.status_code, answer.json()["errorCode"]) == (500, "INTERNAL_ERROR")
    path.write_bytes(sent)
    assert httpx.get(url, trust_env=False).content == sent


def test_a_sound_file_is_read_once(door: Door, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url, read = _file(door, token)["url"], []
    digest = sound.sha256_of
    monkeypatch.setattr(sound, "sha256_of", lambda path: read.append(path) or digest(path))
    assert {httpx.get(url, trust_env=False).status_code for _ in range(3)} == {200}
    assert len(read) == 1


@pytest.mark.parametrize("length", [0, 31])
def test_a_key_that_is_too_short_is_refused(home_with_registry: Path, length: int) -> None:
    key = home_with_registry / "keys" / "share.key"
    key.parent.mkdir()
    key.write_bytes(bytes(length))
    with pytest.raises(ExchangeError, match=rf"has {length} bytes.*Next: restore it"):
        signer()


def test_a_recall_and_its_end_are_obeyed_at_once(door: Door, token: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = _file(door, token)["url"]
    assert run(("recall", "rates@1.0.0", "--reason", "wrong unit", "--by", "ann")) == 0
    assert httpx.get(url, trust_env=False).status_code == 403
    assert run(("recall", "rates@1.0.0", "--reason", "twice")) == 2
    assert run(("recall", "rates", "--reason", "which?")) == 2
    assert run(("recall", "rates@1.0.0", "--reason", " ", "--lift")) == 2
    capsys.readouterr()
    assert run(("releases", "--json")) == 0
    [listed] = json.loads(capsys.readouterr().out)
    assert (listed["status"], listed["recall"]["by"], listed["recall"]["reason"]) == ("recalled", "ann", "wrong unit")
    # A copy of the registry from before the recall does not serve the release again.
    with transaction() as session:
        session.get_one(Release, 1).status = "published"
    assert replay(find("rates", "1.0.0")) and find("rates", "1.0.0").status == "recalled"
    assert run(("recall", "rates@1.0.0", "--lift", "--reason", "checked again")) == 0
    assert httpx.get(url, trust_env=False).status_code == 200
    assert [(e.recalled, e.reason) for e in events("rates", "1.0.0")] == [
        (True, "wrong unit"),
        (False, "checked again"),
    ]


@pytest.mark.usefixtures("door")
def test_the_signing_key_is_private_to_its_owner() -> None:
    key = settings().keys / "share.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) == 32
    assert [path.name for path in settings().keys.iterdir()] == ["share.key"]


def test_no_secret_in_any_log_or_table(home_with_registry: Path, tmp_path: Path) -> None:
    build("rates", days(5))
    release("rates", "1.0.0")
    port = free_port(0)
    program = (
        "import logging; logging.basicConfig(level=logging.DEBUG)\n"
        f"from jobs.share.server import serve; serve(port={port})"
    )
    log = tmp_path / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen([sys.executable, "-c", program], stdout=out, stderr=out)
    try:
        door = Door(f"http://127.0.0.1:{port}", tmp_path)
        grant, token = door.grant("rates")
        wait_until(lambda: is_listening(port), 120, lambda: "the server did not start")
        secrets = [token, "the-wrong-token"]
        assert len(delta_sharing.load_as_pandas(door.url(token, "rates"))) == 5
        url = _file(door, token)["url"]
        secrets.append(url.split("?")[0].rsplit("/", 1)[1])
        with door.client("the-wrong-token") as client:
            client.get("/shares")
        next((settings().lake / "gold" / "rates").glob("*.parquet")).unlink()
        assert httpx.get(url, trust_env=False).status_code == 500
        set_grant(grant, expires_at=grant.not_before.replace(year=2030))
        revoke("x", grant_id=grant.id)
        httpx.get(url, trust_env=False)
        with door.client(token) as client:
            assert "revoked" in client.get("/shares").text
    finally:
        server.terminate()
        assert server.wait(20) in (0, -15)
    written = log.read_text()
    assert "file 200" in written
    assert re.search(r"file failed", written)
    for place in [log, *home_with_registry.rglob("*")]:
        if place.is_file() and place.name != "share.key":
            content = place.read_bytes()
            for secret in secrets:
                assert secret.encode() not in content, f"{place} holds a secret"
    dump = "\n".join(sqlite3.connect(home_with_registry / "registry.db").iterdump())
    assert hashlib.sha256(token.encode()).hexdigest() in dump
    assert not any(secret in dump for secret in secrets)


def test_a_port_in_use_is_explained(home: Path) -> None:
    from jobs.errors import ExchangeError
    from jobs.share.server import serve

    assert not home.exists()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ExchangeError, match="could not start"):
            serve(port=taken.getsockname()[1])


def test_the_profile_points_to_the_server(door: Door, token: str) -> None:
    grant, profile = create_grant("rates", "other", 1, f"{door.address}/delta-sharing/")
    assert grant.buyer.name == "other"
    path = door.folder / "other.share"
    path.write_text(json.dumps(profile))
    assert delta_sharing.SharingClient(str(path)).list_all_tables()[0].name == "rates"
    assert token not in path.read_text()


def _by_hand(header: str, size: int) -> Span | None:
    """Parse a range the slow way, by testing every byte."""
    first, last = header.removeprefix("bytes=").split("-")
    if not first:
        expected = set(range(size)[-int(last) :]) if int(last) else set()
    else:
        end = int(last) if last else max(size, int(first))
        if end < int(first):
            return None
        expected = {byte for byte in range(size) if int(first) <= byte <= end}
    if not expected:
        raise Unsatisfiable
    return Span(min(expected), max(expected))


_BOUND = st.one_of(st.just(""), st.integers(0, 40).map(str))


@given(first=_BOUND, last=_BOUND, size=st.integers(0, 30))
@example(first="", last="0", size=5)
@example(first="0", last="", size=0)
def test_ranges_are_parsed_as_the_standard_says(first: str, last: str, size: int) -> None:
    if not first and not last:
        assert requested("bytes=-", size) is None
        return
    header = f"bytes={first}-{last}"
    try:
        expected = _by_hand(header, size)
    except Unsatisfiable:
        with pytest.raises(Unsatisfiable):
            requested(header, size)
        return
    assert requested(header, size) == expected


@given(st.text(max_size=60), st.integers(0, 10**12))
def test_any_range_header_is_handled(header: str, size: int) -> None:
    try:
        span = requested(header, size)
    except Unsatisfiable:
        return
    assert span is None or 0 <= span.first <= span.last < size


_SIGNER = Signer(bytes(range(32)))
_TICKETS = st.builds(
    Ticket,
    st.integers(1, 2**40),
    st.integers(1, 2**40),
    st.integers(1, 2**40),
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.integers(0, 2**40),
)


@given(_TICKETS)
def test_a_ticket_is_read_back_as_written(ticket: Ticket) -> None:
    text = _SIGNER.ticket(ticket)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", text)
    assert _SIGNER.read_ticket(text) == ticket
    assert Signer(b"another key" * 3).read_ticket(text) is None
    assert _SIGNER.verify("page", text) is None


@given(_TICKETS, st.data())
def test_a_tampered_ticket_is_refused(ticket: Ticket, data: st.DataObject) -> None:
    text = _SIGNER.ticket(ticket)
    start, end = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
    inserted = data.draw(st.one_of(st.text("Ab0-_.= \n+/é", max_size=3), st.text(max_size=3), st.just(text)))
    tampered = text[:start] + inserted + text[end:]
    assert tampered == text or _SIGNER.read_ticket(tampered) is None


@given(_TICKETS, _TICKETS)
def test_a_signature_is_not_valid_for_another_ticket(one: Ticket, other: Ticket) -> None:
    payload, signature = (_SIGNER.ticket(ticket).rsplit(".", 1)[part] for part, ticket in enumerate((one, other)))
    assert one == other or _SIGNER.read_ticket(f"{payload}.{signature}") is None


@given(_TICKETS)
def test_a_signature_has_one_valid_spelling(ticket: Ticket) -> None:
    """The last character of 43 carries two bits that decoding drops: four spellings of the same 32 bytes."""
    text = _SIGNER.ticket(ticket)
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    spare = alphabet.index(text[-1])
    twins = [text[:-1] + alphabet[spare - spare % 4 + n] for n in range(4)]
    assert text in twins
    assert [twin for twin in twins if _SIGNER.read_ticket(twin) is not None] == [text]
    assert _SIGNER.read_ticket(text + "=") is None
