"""The sharing server behind a proxy that ends TLS: addresses, clients and downloads are those that buyers see."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from textwrap import dedent

import httpx
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from jobs.errors import ExchangeError
from jobs.exchange import usage
from jobs.exchange.grants import create_grant
from jobs.operate.processes import free_port, is_listening
from jobs.settings import CHECKOUT, settings
from tests.exchange.wares import Door, build, open_door, release
from tests.waiting import wait_until

CLIENT = "192.0.2.9"


class _Forward(BaseHTTPRequestHandler):
    """Passes a request on to the server's ``upstream`` port, with the client's address."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        upstream.request(self.command, self.path, body or None, headers | {"X-Forwarded-For": CLIENT})
        answer = upstream.getresponse()
        content = answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        upstream.close()

    do_POST = do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@contextmanager
def own_proxy(port: int, upstream: int, authority: Path) -> Iterator[None]:
    """Run a proxy of this test's own."""
    proxy = ThreadingHTTPServer(("127.0.0.1", port), _Forward)
    proxy.upstream = upstream
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority)
    proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield
    proxy.shutdown()
    proxy.server_close()


def _documented(program: str) -> str:
    """The configuration that infra/README.md gives for a program."""
    text = (CHECKOUT / "infra/README.md").read_text()
    found = re.search(rf"^  {program}\b.*?:\n\n((?:(?:      .*)?\n)+)", text, re.MULTILINE | re.DOTALL)
    assert found, f"infra/README.md has no configuration for {program}"
    return dedent(found[1])


@contextmanager
def documented_proxy(program: str, port: int, upstream: int, authority: Path) -> Iterator[None]:
    """Run a proxy as documented, with this test's ports and certificate."""
    folder = authority.parent
    text = _documented(program).replace("127.0.0.1:8765", f"127.0.0.1:{upstream}")
    text = re.sub(r"/etc/ssl/share\.(pem|key)", str(authority), text)
    if program == "Caddy":
        site = f"https://localhost:{port} {{\n    tls {authority} {authority}\n"
        text = "{\n    auto_https off\n    admin off\n}\n" + text.replace("share.example.com {\n", site)
        command = ["caddy", "run", "--adapter", "caddyfile", "--config"]
    elif program == "nginx":
        text = f"pid {folder}/nginx.pid;\nevents {{}}\nhttp {{\n{text.replace('listen 443', f'listen {port}')}}}\n"
        command = ["nginx", "-e", str(folder / "nginx.log"), "-p", str(folder), "-g", "daemon off;", "-c"]
    else:
        timeouts = "defaults\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n"
        text = timeouts + text.replace("bind :443", f"bind 127.0.0.1:{port}")
        command = ["haproxy", "-db", "-f"]
    (folder / "configuration").write_text(text)
    process = subprocess.Popen([*command, str(folder / "configuration")])
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def certificate(folder: Path) -> Path:
    """Make a certificate for this machine that vouches for itself; returns the file that has it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "share.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(made.public_bytes(Encoding.PEM) + private)
    return file


@pytest.mark.usefixtures("home_with_registry")
@pytest.mark.parametrize("program", ["own", "Caddy", "nginx", "HAProxy"])
def test_buyers_read_through_a_proxy_that_ends_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    if program != "own":
        assert "127.0.0.1:8765" in _documented(program)
        if shutil.which(program.lower()) is None:
            pytest.skip(f"{program} is not installed")
    build("rates", pa.table({"value": list(range(300_000))}))
    release("rates", "1.0.0")
    authority, port = certificate(tmp_path), free_port(0)
    monkeypatch.setenv("EXCHANGE_SHARE_URL", f"https://localhost:{port}/delta-sharing")
    monkeypatch.setenv("EXCHANGE_SHARE_PROXIES", "127.0.0.1")
    run = own_proxy if program == "own" else lambda *given: documented_proxy(program, *given)
    with open_door(tmp_path) as door, run(port, int(door.address.rsplit(":", 1)[1]), authority):
        wait_until(lambda: is_listening(port), 30, lambda: "the proxy did not start")
        _, profile = create_grant("rates", "acme", 1)
        assert profile["endpoint"] == f"https://localhost:{port}/delta-sharing"
        _read(door, profile, authority)
    (refused,) = usage.refusals()
    assert refused.address == (CLIENT if program == "own" else "127.0.0.1")
    content = next((settings().lake / "gold" / "rates").glob("*.parquet")).stat().st_size
    assert [(entry.operation, entry.bytes) for entry in usage.usage()] == [("file", content), ("query", 0)]


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("::", True), ("127.0.0.2", False), ("::1", False)])
def test_listening_to_others_warns_that_tokens_travel_in_clear(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str, warned: bool
) -> None:
    from jobs.cli.buyers import serve

    monkeypatch.setattr("jobs.share.server.serve", lambda *_: None)
    serve(host, 1)
    assert ("travel in clear" in capsys.readouterr().err) is warned
    assert not home.exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("URL", "share.example.com", "not an address like https"),
        ("URL", "https://u:p@share.example.com", "not an address like https"),
        ("URL", "https://share.example.com/?x=1", "not an address like https"),
        ("PROXIES", "10.0.0.1,proxy", "'proxy' does not appear to be"),
        ("PROXIES", "10.0.0.1/8", "has host bits set"),
    ],
)
def test_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(f"EXCHANGE_SHARE_{name}", value)
    with pytest.raises(ExchangeError, match=f"EXCHANGE_SHARE_{name}: .*{message}"):
        settings()


def _read(door: Door, profile: dict[str, str], authority: Path) -> None:
    verified = ssl.create_default_context(cafile=str(authority))
    with httpx.Client(base_url=profile["endpoint"], verify=verified, trust_env=False, timeout=60) as client:
        assert client.get("/shares").status_code == 401
        answer = client.post(
            "/shares/exchange/schemas/products/tables/rates/query", json={},
            headers={"Authorization": f"Bearer {profile['bearerToken']}"},
        )  # fmt: skip
        file = json.loads(answer.text.splitlines()[2])["file"]
        assert file["url"].startswith(f"{profile['endpoint']}/files/")
        assert len(client.get(file["url"]).content) == file["size"]
    assert door.address.startswith("http://")
