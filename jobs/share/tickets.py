"""Signed notes that the server gives out and gets back: tickets for files, and page tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jobs.settings import settings

KEY_BYTES = 32
MAC_BYTES = 32

# How long a client may take from the listing to the last file it opens. A ticket is no permission: the grant is looked
# up again for every request for bytes, so a longer life does not outlive a revocation.
TICKET_SECONDS = 3600


@dataclass(frozen=True)
class Ticket:
    """One file of one release, for the holder of two grants: whose token asked, and which one covers the product."""

    token_grant: int
    product_grant: int
    release: int
    file: str
    expires: int


class Signer:
    """Signs small JSON values with a secret of this server, each for one purpose only."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, purpose: str, value: list[Any]) -> str:
        """Return the value with its signature, as text that may stand in an address."""
        body = json.dumps(value, separators=(",", ":")).encode()
        return _to_text(self._mac(purpose, body) + body)

    def verify(self, purpose: str, text: str) -> list[Any] | None:
        """Return the value that was signed for this purpose; None if a single character differs."""
        try:
            raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        except ValueError:
            return None
        # Several texts decode to the same bytes (spare bits, ignored characters); only the one we wrote is accepted.
        if len(raw) <= MAC_BYTES or _to_text(raw) != text:
            return None
        mac, body = raw[:MAC_BYTES], raw[MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(purpose, body)):
            return None
        value = json.loads(body)
        return value if isinstance(value, list) else None

    def _mac(self, purpose: str, body: bytes) -> bytes:
        return hmac.new(self._key, purpose.encode() + b"\0" + body, hashlib.sha256).digest()

    def ticket(self, ticket: Ticket) -> str:
        """Write a ticket."""
        return self.sign(
            "file", [ticket.token_grant, ticket.product_grant, ticket.release, ticket.file, ticket.expires]
        )

    def read_ticket(self, text: str) -> Ticket | None:
        """Read a ticket that this server wrote, expired or not; None for anything else."""
        value = self.verify("file", text)
        return Ticket(*value) if value is not None else None


def signer() -> Signer:
    """Return the signer with this exchange's key, which is made at first use and readable by its owner only."""
    return Signer(_key(settings().keys / "share.key"))


@lru_cache(maxsize=8)
def _key(path: Path) -> bytes:
    if not path.exists():
        _make_key(path)
    return path.read_bytes()


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    # A link fails where a rename would replace: of two servers that start together, both use the first one's key.
    with suppress(FileExistsError):
        path.hardlink_to(draft)
    draft.unlink()


def _to_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
