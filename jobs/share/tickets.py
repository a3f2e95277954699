"""Signs what the server hands out and gets back: tickets for files, and page tokens."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import itsdangerous
from itsdangerous import BadData, URLSafeSerializer, want_bytes

from jobs.durable import create_durably
from jobs.errors import ExchangeError
from jobs.settings import settings

KEY_BYTES = 32

# How long a client may take from the query to the last file it opens. A ticket is not a permission: every request for
# bytes checks the grant again, so no ticket outlives a revocation.
TICKET_SECONDS = 3600


@dataclass(frozen=True)
class Ticket:
    """One file of one release, with two grants: that of the token, and the one that covers the product."""

    token_grant: int
    product_grant: int
    release: int
    file: str
    expires: int


class _ExactSigner(itsdangerous.Signer):
    """Compares signatures as text: several texts decode to the same bytes, and only the one we wrote is accepted."""

    def verify_signature(self, value: str | bytes, sig: str | bytes) -> bool:
        """Whether this is exactly the value's signature; takes constant time."""
        return hmac.compare_digest(self.get_signature(value), want_bytes(sig))


class Signer:
    """Signs small JSON values with this server's secret (HMAC-SHA256), each for one purpose only."""

    def __init__(self, key: bytes) -> None:
        self._serializer = URLSafeSerializer(
            key, signer=_ExactSigner, signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
        )

    def sign(self, purpose: str, value: list[Any]) -> str:
        """Return the value with its signature, as text that needs no quoting in an address."""
        return self._serializer.dumps(value, salt=purpose)

    def verify(self, purpose: str, text: str) -> list[Any] | None:
        """Return the value signed for this purpose; None if a single character differs."""
        try:
            value = self._serializer.loads(text.encode("ascii"), salt=purpose)
        except (BadData, ValueError):
            return None
        return value if isinstance(value, list) else None

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
    """Return the signer with this exchange's key, which is created at first use and readable by its owner only.

    Raises:
        ExchangeError: the key is shorter than it was made, so that tickets could be forged.
    """
    return Signer(_key(settings().keys / "share.key"))


@lru_cache(maxsize=8)
def _key(path: Path) -> bytes:
    if not path.exists():
        _make_key(path)
    key = path.read_bytes()
    if len(key) < KEY_BYTES:
        raise ExchangeError(
            f"the key of the sharing server has {len(key)} bytes, so its tickets could be forged",
            where=str(path),
            expected=f"{KEY_BYTES} bytes",
            next_step="restore it from a backup, or remove it: a new one is made, and buyers query their tables again",
        )
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_durably(path, secrets.token_bytes(KEY_BYTES))
