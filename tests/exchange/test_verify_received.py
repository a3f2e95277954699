"""A buyer verifies what they received with the exchange's public key alone; whatever was changed is found and named."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import threading
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import delta_sharing
import httpx
import pytest
from joserfc.jwk import OKPKey

from jobs.cli.program import application
from jobs.errors import ExchangeError, NotFound, Unavailable
from jobs.registry.releases import newest_release, release_numbered
from jobs.release import credential, did, wire
from jobs.release.did import Keys, read_keys
from jobs.release.download import Profile, ask_status, read_profile, verify_download
from jobs.release.manifest import CREDENTIAL_FILE, MANIFEST_FILE, Manifest, parse_number
from jobs.release.recall import recall
from jobs.release.received import verify_received
from jobs.release.verify import Verification
from jobs.settings import CHECKOUT
from tests.exchange.checked import PRODUCT, desk_in, meters
from tests.exchange.wares import Door, open_door

NUMBERS = ("1.0.0", "1.1.0", "1.2.0")


@dataclass
class Exchange:
    """A running exchange with three releases of one product, and what its buyer has."""

    door: Door
    profile: Profile
    key: Path
    received: Path

    @property
    def keys(self) -> Keys:
        return read_keys(self.key)


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exchange]:
    root = tmp_path_factory.mktemp("exchange")
    with desk_in(root) as desk:
        for last in range(1, 4):
            desk.land(f"a,{last},1\n")
            desk.passes(desk.build(meters(("a", last, float(last)), ("b", last, 0.5)), mode="append"))
            assert desk.release().number == NUMBERS[last - 1]
        with open_door(root) as door:
            _, token = door.grant(PRODUCT)
            key = root / "did.json"
            key.write_bytes(httpx.get(f"{door.address}{did.WELL_KNOWN}", trust_env=False).content)
            profile = read_profile(door.profiles[token])
            yield Exchange(door, profile, key, root / "received")


@pytest.fixture
def received(exchange: Exchange, tmp_path: Path) -> Path:
    """A copy of what the buyer received of the newest release, to damage."""
    if not exchange.received.exists():
        exchange.received.mkdir()
        assert verify_download(exchange.profile, exchange.keys, exchange.received, PRODUCT, None).ok
    return Path(shutil.copytree(exchange.received, tmp_path / "received"))


def found(verification: Verification) -> set[str]:
    assert not verification.ok
    return {finding.what for finding in verification.findings}


def data_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def test_a_download_is_verified_release_by_release(exchange: Exchange, tmp_path: Path) -> None:
    for number, files in zip((*NUMBERS, None), (1, 2, 3, 3), strict=True):
        folder = tmp_path / str(number)
        folder.mkdir()
        result = verify_download(exchange.profile, exchange.keys, folder, PRODUCT, number)
        assert result.ok and result.number == (number or "1.2.0"), result.findings
        assert (result.files, result.rows) == (files, 2 * files)
        assert result.bytes == sum(file.stat().st_size for file in data_files(folder))
        stands = ask_status(exchange.profile.endpoint, result, folder)
        assert stands.ok
        newest = ask_status(exchange.profile.endpoint, result, folder, newest=True)
        assert newest.ok == (result.number == "1.2.0")
        assert verify_received(folder, exchange.keys).ok


def test_the_very_bytes_that_the_official_client_reads_are_those_verified(exchange: Exchange, received: Path) -> None:
    token = next(iter(exchange.door.profiles))
    frame = delta_sharing.load_as_pandas(exchange.door.url(token, PRODUCT))
    import pyarrow.parquet as pq

    kept = pq.read_table(data_files(received)).to_pandas()
    assert sorted(map(tuple, frame[["meter", "day", "kwh"]].values)) == sorted(map(tuple, kept.values))
    for delta in (True, False):
        metadata = delta_sharing.get_table_metadata(exchange.door.url(token, PRODUCT), use_delta_format=delta)
        stated = metadata.configuration
        manifest = json.loads((received / MANIFEST_FILE).read_bytes())
        assert (stated["exchange.release"], stated["exchange.grade"]) == ("1.2.0", "A")
        assert stated["exchange.licence"] == "CC-BY-4.0"
        assert json.loads(stated["exchange.cautions"]) == manifest["cautions"]
        assert stated["exchange.contentSha256"] == manifest["content"]["sha256"]
        row = newest_release(PRODUCT)
        assert row is not None and stated["exchange.manifestSha256"] == row.manifest_sha256


def test_the_key_is_a_did_web_document(exchange: Exchange) -> None:
    document = json.loads(exchange.key.read_bytes())
    assert document["id"] == "did:web:exchange.local"
    (method,) = document["verificationMethod"]
    assert method["controller"] == document["id"] and method["id"].startswith(f"{document['id']}#")
    assert document["assertionMethod"] == [method["id"]]
    assert method["publicKeyJwk"]["x"] == credential.public_key()["x"] and "d" not in method["publicKeyJwk"]


@pytest.mark.parametrize(
    ("issuer", "path"),
    [
        ("did:web:data.example", "/.well-known/did.json"),
        ("did:web:data.example%3A8443", "/.well-known/did.json"),
        ("did:web:data.example:lake:one", "/lake/one/did.json"),
        ("https://data.example", "/.well-known/did.json"),
    ],
)
def test_the_document_is_where_its_name_says(monkeypatch: pytest.MonkeyPatch, issuer: str, path: str) -> None:
    monkeypatch.setenv("EXCHANGE_ISSUER", issuer)
    assert did.path() == path


def test_keys_are_read_in_each_usual_form(exchange: Exchange, received: Path, tmp_path: Path) -> None:
    document = json.loads(exchange.key.read_bytes())
    jwk = document["verificationMethod"][0]["publicKeyJwk"]
    other = OKPKey.generate_key("Ed25519").as_dict(private=False)
    second = {"id": "#second", "publicKeyJwk": other}
    forms: list[Any] = [
        jwk,
        {name: jwk[name] for name in ("kty", "crv", "x")},
        {"keys": [other, jwk]},
        document | {"verificationMethod": [second, *document["verificationMethod"]]},
        document | {"verificationMethod": [], "assertionMethod": document["verificationMethod"]},
        document | {"assertionMethod": ["#" + document["assertionMethod"][0].split("#")[1]]},
    ]
    file = tmp_path / "key.json"
    for form in forms:
        file.write_text(json.dumps(form))
        assert verify_received(received, read_keys(file)).ok
    unusable: list[Any] = [
        document | {"assertionMethod": []}, document | {"verificationMethod": 1}, {"kty": "RSA"}, {"keys": 1}, [], 1,
        jwk | {"d": "secret"},
    ]  # fmt: skip
    for form in unusable:
        file.write_text(json.dumps(form))
        with pytest.raises(ExchangeError, match="key") as caught:
            read_keys(file)
        assert "secret" not in str(caught.value)
    file.write_bytes(b"[" * 100_000)
    with pytest.raises(ExchangeError, match="no public key"):
        read_keys(file)
    with pytest.raises(NotFound):
        read_keys(tmp_path / "none.json")


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _spelled_otherwise(folder: Path) -> None:
    file = folder / MANIFEST_FILE
    file.write_text(json.dumps(json.loads(file.read_bytes()), indent=1))


def _of_the_first_release(*names: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        first = release_numbered(PRODUCT, (1, 0, 0))
        assert first is not None
        documents = {
            CREDENTIAL_FILE: first.credential.encode(),
            MANIFEST_FILE: Manifest.model_validate(first.manifest).encode(),
        }
        for name in names:
            (folder / name).write_bytes(documents[name])

    return put


def _link_to_nothing(folder: Path) -> None:
    (folder / "more.parquet").symlink_to("/nowhere")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


DAMAGE: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "a byte of data": (lambda f: _flip(data_files(f)[0]), {"a data file was changed"}),
    "a truncated file": (lambda f: _truncate(data_files(f)[1]), {"a data file has another size"}),
    "a missing file": (lambda f: data_files(f)[1].unlink(), {"a data file is missing"}),
    "two files swapped": (
        lambda f: (shutil.copy(data_files(f)[0], f / "x"), data_files(f)[1].replace(data_files(f)[0]),
                   (f / "x").replace(f / "y.parquet")),
        {"a data file was changed"},
    ),
    "a file twice": (lambda f: shutil.copy(data_files(f)[0], f / "z"), {"a file that is not part of the release"}),
    "an extra file": (lambda f: (f / "a/b").mkdir(parents=True) or (f / "a/b/.c").touch(),
                      {"a file that is not part of the release"}),
    "a broken link": (_link_to_nothing, {"a file that is not part of the release"}),
    "a pipe": (_pipe, {"a file that is not part of the release"}),
    "a byte of the contract": (lambda f: _flip(f / "contract.yaml"), {"the contract was changed"}),
    "no contract": (lambda f: (f / "contract.yaml").unlink(), {"the contract is missing"}),
    "a byte of the evidence": (lambda f: _flip(f / "evidence.json"), {"the expectations' result was changed"}),
    "another spelling": (_spelled_otherwise, {"the manifest was changed"}),
    "a byte of the manifest": (lambda f: _flip(f / MANIFEST_FILE), {"the manifest was changed"}),
    "no manifest": (lambda f: (f / MANIFEST_FILE).unlink(), {"the manifest is missing"}),
    "another release's manifest": (_of_the_first_release(MANIFEST_FILE), {"the manifest belongs to another release"}),
    "an old certificate": (_of_the_first_release(CREDENTIAL_FILE), {"the manifest belongs to another release"}),
    "an old release": (
        _of_the_first_release(CREDENTIAL_FILE, MANIFEST_FILE),
        {"the expectations' result was changed", "a file that is not part of the release"},
    ),
    "a byte of the signature": (
        lambda f: (f / CREDENTIAL_FILE).write_text((f / CREDENTIAL_FILE).read_text()[:-10] + "AAAAAAAAAA"),
        {"the certificate is not valid: the signature does not match the contents",
         "the certificate is not valid: the signature is not spelled as it was signed"},
    ),
    "a certificate that is none": (
        lambda f: (f / CREDENTIAL_FILE).write_bytes(b"\xff" * 99),
        {"the certificate is not valid: not a signed credential"},
    ),
    "an endless certificate": (
        lambda f: os.truncate(f / CREDENTIAL_FILE, 1 << 40), {"the certificate is too long"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_in_a_folder_is_named(exchange: Exchange, received: Path, kind: str) -> None:
    damage, expected = DAMAGE[kind]
    damage(received)
    result = verify_received(received, exchange.keys)
    # A certificate can be damaged in several ways at once.
    named = found(result)
    assert named <= expected if "certificate" in kind or "signature" in kind else expected <= named, named
    asked = verify_received(received, exchange.keys, product=PRODUCT, number="1.2.0")
    if kind == "an old release":
        assert "the certificate belongs to another release" in found(asked)


def test_another_key_or_issuer_is_named(exchange: Exchange, received: Path) -> None:
    other = OKPKey.generate_key("Ed25519").as_dict(private=False)
    (what,) = found(verify_received(received, Keys(None, (other,))))
    assert what == "the certificate is not valid: not the expected credential: it names another signing key"
    (what,) = found(verify_received(received, replace(exchange.keys, issuer="did:web:other.example")))
    assert what == "the certificate names another issuer"


@pytest.mark.parametrize("path", ["../outside.parquet", "/etc/hostname", "a/../../b", "manifest.json", ""])
def test_a_signed_path_out_of_the_folder_is_not_followed(exchange: Exchange, received: Path, path: str) -> None:
    signed = json.loads((received / MANIFEST_FILE).read_bytes())
    signed["files"][0]["path"] = path
    manifest = Manifest.model_validate(signed)
    certificate = credential.issue(credential.RELEASE, manifest.statement(), valid_from=_now())
    (received / MANIFEST_FILE).write_bytes(manifest.encode())
    (received / CREDENTIAL_FILE).write_text(certificate)
    assert found(verify_received(received, exchange.keys)) == {"a data file's path leads elsewhere"}


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


def test_files_may_have_names_of_the_buyer(exchange: Exchange, received: Path) -> None:
    for number, file in enumerate(data_files(received)):
        (received / "data" / str(number)).mkdir(parents=True)
        file.rename(received / "data" / str(number) / "part")
    assert verify_received(received, exchange.keys).ok


class Between(ThreadingHTTPServer):
    """A server between the buyer and the exchange, which changes what passes."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.target = target
        self.client = httpx.Client(trust_env=False, verify=False)
        self.change: Callable[[BaseHTTPRequestHandler, httpx.Response], bytes | None] = lambda _, reply: reply.content
        self.tokens: list[tuple[str, str | None]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/delta-sharing"


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Between

    def do_GET(self) -> None:
        self.server.tokens.append((self.path, self.headers.get("Authorization")))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # The host stays, by which the exchange names the addresses of files.
        reply = self.server.client.request(
            self.command, self.server.target + self.path, content=body, headers=dict(self.headers.items())
        )
        content = self.server.change(self, reply)
        if content is None:
            self.close_connection = True
            return
        self.send_response(reply.status_code)
        for name in ("Delta-Table-Version", "delta-sharing-capabilities"):
            if name in reply.headers:
                self.send_header(name, reply.headers[name])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def between(exchange: Exchange) -> Iterator[Between]:
    server = Between(exchange.door.address)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def _is_file(handler: BaseHTTPRequestHandler) -> bool:
    return "/files/" in handler.path


def _raw(handler: BaseHTTPRequestHandler, head: str, body: bytes) -> None:
    handler.wfile.write(head.encode() + b"\r\n\r\n" + body)


def _changed_byte(handler: BaseHTTPRequestHandler, reply: httpx.Response) -> bytes:
    data = bytearray(reply.content)
    if _is_file(handler):
        data[100] ^= 1
    return bytes(data)


def _short(handler: BaseHTTPRequestHandler, reply: httpx.Response) -> bytes:
    return reply.content[:-1] if _is_file(handler) else reply.content


def _broken_off(handler: BaseHTTPRequestHandler, reply: httpx.Response) -> bytes | None:
    if not _is_file(handler):
        return reply.content
    _raw(handler, f"HTTP/1.1 200 OK\r\nContent-Length: {len(reply.content)}", reply.content[:50])
    return None


def _endless(handler: BaseHTTPRequestHandler, reply: httpx.Response) -> bytes | None:
    if not _is_file(handler):
        return reply.content
    _raw(handler, "HTTP/1.1 200 OK\r\nConnection: close", b"")
    try:
        while True:
            handler.wfile.write(b"\0" * 65536)
    except OSError:
        return None


def _packed(handler: BaseHTTPRequestHandler, reply: httpx.Response) -> bytes | None:
    if not _is_file(handler):
        return reply.content
    body = gzip.compress(reply.content)
    _raw(handler, f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}", body)
    return None


def _elsewhere(handler: BaseHTTPRequestHandler, reply: httpx.Response) -> bytes | None:
    if not _is_file(handler):
        return reply.content
    _raw(handler, "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0", b"")
    return None


def _silent(handler: BaseHTTPRequestHandler, reply: httpx.Response) -> bytes | None:
    if not _is_file(handler):
        return reply.content
    threading.Event().wait(4)
    return None


def _in_query(change: Callable[[list[bytes]], list[bytes]]) -> Callable[..., bytes]:
    def changed(handler: BaseHTTPRequestHandler, reply: httpx.Response) -> bytes:
        if not handler.path.endswith("/query"):
            return reply.content
        return b"\n".join(change(reply.content.splitlines())) + b"\n"

    return changed


def _renamed(lines: list[bytes]) -> list[bytes]:
    line = json.loads(lines[-1])
    line["file"]["id"] = "0" * 64
    return [*lines, json.dumps(line).encode()]


def _moved(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b"http://127.0.0.1:", b"http://127.0.0.2:") for line in lines]


def _in_document(kind: str, number: str) -> Callable[..., bytes]:
    def changed(handler: BaseHTTPRequestHandler, reply: httpx.Response) -> bytes:
        if not handler.path.endswith(f"/{kind}"):
            return reply.content
        parts = parse_number(number)
        assert parts is not None
        release = release_numbered(PRODUCT, parts)
        assert release is not None
        manifest = Manifest.model_validate(release.manifest).encode()
        return release.credential.encode() if kind == "certificate" else manifest

    return changed


HOSTILE: dict[str, tuple[Callable[..., bytes | None], str]] = {
    "a byte of data": (_changed_byte, "a data file was changed"),
    "a short file": (_short, "a data file has another size"),
    "a broken connection": (_broken_off, "the connection broke off"),
    "an endless file": (_endless, "the reply is too long"),
    "a packed file": (_packed, "the reply is encoded"),
    "a redirect": (_elsewhere, "the server sends elsewhere"),
    "silence": (_silent, "the server is too slow"),
    "a file left out": (_in_query(lambda lines: lines[:-1]), "the server does not list a file of the release"),
    "a file listed twice": (
        _in_query(lambda lines: [*lines, lines[-1]]), "the server lists a file that was not released"
    ),
    "a file of its own": (_in_query(_renamed), "the server lists a file that was not released"),
    "files of another host": (_in_query(_moved), "the server names a file at another address"),
    "no list": (_in_query(lambda _: [b"<html>"]), "not the reply of an exchange"),
    "a list without end": (
        _in_query(lambda lines: [*lines, *[b'{"file":{}}'] * 5000]), "the reply lists too many files"
    ),
    "another release's manifest": (_in_document("manifest", "1.0.0"), "the manifest belongs to another release"),
    "an old certificate": (_in_document("certificate", "1.0.0"), "the certificate belongs to another release"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_server_is_found_out(
    exchange: Exchange, between: Between, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(wire, "_SILENT_SECONDS", 2)
    monkeypatch.setattr(wire, "_TRIES", 1)
    between.change, expected = HOSTILE[kind]
    profile = replace(exchange.profile, endpoint=between.endpoint)
    result = verify_download(profile, exchange.keys, tmp_path, PRODUCT, "1.2.0")
    assert expected in found(result)
    # Data is only asked for if the documents are sound, and the token only ever goes with the protocol's requests.
    asked = [path for path, token in between.tokens if token is None]
    assert all("/files/" in path for path in asked)
    if "certificate" in kind or "manifest" in kind:
        assert not asked and not data_files(tmp_path)


def test_a_download_that_broke_off_is_asked_for_again(exchange: Exchange, between: Between, tmp_path: Path) -> None:
    broken = set()

    def once(handler: BaseHTTPRequestHandler, reply: httpx.Response) -> bytes | None:
        if not _is_file(handler) or handler.path in broken:
            return reply.content
        broken.add(handler.path)
        return _broken_off(handler, reply)

    between.change = once
    profile = replace(exchange.profile, endpoint=between.endpoint)
    assert verify_download(profile, exchange.keys, tmp_path, PRODUCT, None).ok
    assert len(broken) == 3


def test_nothing_is_verified_without_a_connection(exchange: Exchange, received: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        away = replace(exchange.profile, endpoint="http://127.0.0.1:9/delta-sharing")
        verify_download(away, exchange.keys, tmp_path / "empty", PRODUCT, None)
    result = verify_received(received, exchange.keys)
    asked = ask_status("http://127.0.0.1:9/delta-sharing", result, received)
    assert found(asked) == {"the exchange could not be asked for the status"}


def test_strangers_get_key_and_status_and_learn_of_no_product(exchange: Exchange) -> None:
    release = newest_release(PRODUCT)
    assert release is not None
    with exchange.door.client(None) as stranger:
        for kind in ("manifest", "certificate", "contract", "evidence"):
            answer = stranger.get(f"/shares/exchange/schemas/products/tables/{PRODUCT}/releases/1.2.0/{kind}")
            assert (answer.status_code, answer.json()["errorCode"]) == (401, "UNAUTHENTICATED")
        status = stranger.get(f"/status/{PRODUCT}/1.2.0/{release.manifest_sha256}").json()
        assert (status["status"], status["superseded"], status["reason"]) == ("certified", False, None)
        unknown = [
            stranger.get(f"/status/{PRODUCT}/1.2.0/{'0' * 64}"),
            stranger.get(f"/status/{PRODUCT}/9.9.9/{release.manifest_sha256}"),
            stranger.get(f"/status/nothing/1.2.0/{release.manifest_sha256}"),
            stranger.get(f"/status/{PRODUCT}/x/{release.manifest_sha256}"),
        ]
        assert {(answer.status_code, answer.text) for answer in unknown} == {(404, unknown[0].text)}


def test_documents_are_for_holders_of_a_grant(exchange: Exchange) -> None:
    table = f"/shares/exchange/schemas/products/tables/{PRODUCT}/releases"
    with exchange.door.client(exchange.profile.token) as buyer:
        for kind, media in (("manifest", "application/json"), ("certificate", "application/vc+jwt")):
            answer = buyer.get(f"{table}/latest/{kind}")
            assert answer.headers["content-type"].split(";")[0] == media
            assert answer.content == buyer.get(f"{table}/1.2.0/{kind}").content
        for path, status in (("9.9.9/manifest", 404), ("1.2.0/secrets", 404), ("newest/manifest", 400), ("1.2/x", 404)):
            assert buyer.get(f"{table}/{path}").status_code == status


def test_a_recalled_release_is_named(exchange: Exchange, received: Path, tmp_path: Path) -> None:
    release = release_numbered(PRODUCT, (1, 2, 0))
    assert release is not None
    verified = verify_received(received, exchange.keys)
    recall(release, reason="wrong days", by="staff")
    try:
        result = ask_status(exchange.profile.endpoint, verified, received)
        assert found(result) == {"the release was recalled"}
        assert "wrong days" in result.findings[0].found
        (tmp_path / "again").mkdir()
        refused = verify_download(exchange.profile, exchange.keys, tmp_path / "again", PRODUCT, "1.2.0")
        assert found(refused) == {"the exchange refuses it"} and "wrong days" in refused.findings[0].found
        (tmp_path / "newest").mkdir()
        assert verify_download(exchange.profile, exchange.keys, tmp_path / "newest", PRODUCT, None).number == "1.1.0"
    finally:
        recalled = release_numbered(PRODUCT, (1, 2, 0))
        assert recalled is not None
        recall(recalled, reason="they were right", by="staff", lift=True)


def buyers_commands(exchange: Exchange) -> list[list[str]]:
    """What README tells a buyer to type, for the product and the address of this exchange."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    typed = re.search(r"^    (pip install .*)\n((?:    exchange verify .*\n)+)", text, re.M)
    assert typed is not None
    text = typed[0].replace("reference_rates", PRODUCT)
    text = text.replace("https://share.example.com/delta-sharing", exchange.profile.endpoint)
    return [shlex.split(line) for line in text.splitlines()]


def buyers_machine(exchange: Exchange, folder: Path, program: Sequence[str]) -> Callable[..., tuple[int, str]]:
    """A folder with a buyer's profile and the exchange's key, and nothing else; returns what runs a command there."""
    (folder / "profile.share").write_text(exchange.door.profiles[exchange.profile.token].read_text())
    shutil.copy(exchange.key, folder / "did.json")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "NO_PROXY": "127.0.0.1"}

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [*program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
        )
        assert "Traceback" not in done.stderr and exchange.profile.token not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_commands_of_the_readme_need_nothing_but_the_program(exchange: Exchange, tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); from jobs.cli import main; main()"
    run = buyers_machine(exchange, tmp_path, [sys.executable, "-c", code])
    _, first, second = buyers_commands(exchange)
    status, told = run(*first[1:])
    assert status == 0 and f"{PRODUCT}@1.2.0 is exactly as it was released" in told, told
    _flip(data_files(tmp_path / "rates")[0])
    status, told = run(*second[1:])
    assert status == 1 and "a data file was changed" in told
    assert sorted(file.name for file in tmp_path.iterdir()) == ["did.json", "profile.share", "rates"]


@pytest.mark.slow
def test_the_commands_of_the_readme_run_where_the_wheel_is_installed(exchange: Exchange, tmp_path: Path) -> None:
    # What the wheel needs is taken from here: neither an index nor the checkout is asked.
    needed = tmp_path / "needed"
    needed.mkdir()
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if "data_exchange_lake" not in installed.name:
            (needed / installed.name).symlink_to(installed)
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv").glob("lib/*/site-packages")
    (site / "needed.pth").write_text(str(needed))
    source = tmp_path / "source"
    shutil.copytree(CHECKOUT / "jobs", source / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    machine = tmp_path / "machine"
    machine.mkdir()
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(machine)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    install, *verify = buyers_commands(exchange)
    python = str(tmp_path / "venv/bin/python")
    status, told = buyers_machine(exchange, machine, [python, "-m"])(*install, "--no-index")
    assert status == 0, told
    for command in verify:
        program = str(tmp_path / "venv/bin" / command[0])
        status, told = buyers_machine(exchange, machine, [program])(*command[1:])
        assert status == 0 and f"{PRODUCT}@1.2.0 is exactly as it was released" in told, told


def test_the_command_names_what_is_missing_from_it(exchange: Exchange, tmp_path: Path) -> None:
    key, profile = str(exchange.key), str(exchange.door.profiles[exchange.profile.token])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    url, elsewhere = exchange.profile.endpoint, "https://other.example/delta-sharing"
    for arguments, message in (
        ((), "which release"),
        ((PRODUCT, "--key", key), "--key goes with --from"),
        ((PRODUCT, "--from", profile), "--from needs --key"),
        ((PRODUCT, "--from", profile, "--key", "nothing"), "the key's file is missing"),
        ((PRODUCT, "--from", "nothing", "--key", key), "the profile is missing"),
        ((PRODUCT, "--from", key, "--key", key), "not a profile"),
        (("--from", profile, "--key", key), "which product"),
        ((f"{PRODUCT}@1.0", "--from", profile, "--key", key), "no release's number"),
        ((PRODUCT, "--from", url, "--key", key), "needs --profile"),
        ((PRODUCT, "--from", elsewhere, "--key", key, "--profile", profile), "another exchange"),
        ((PRODUCT, "--from", "ftp://x", "--key", key, "--profile", profile), "not an address"),
        ((PRODUCT, "--from", profile, "--key", key, "--keep", str(tmp_path / "full")), "not empty"),
        ((PRODUCT, "--from", profile, "--key", key, "--status", url), "--status goes with a folder"),
        (("--from", str(tmp_path), "--key", key), "no certificate of a release"),
    ):
        with pytest.raises(ExchangeError, match=message):
            application()(args=["verify", *arguments], standalone_mode=False)
