"""Stores the evidence of checks, each document under the sha256 of its bytes, so that certificates can refer to it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import rfc8785

from jobs.durable import create_durably
from jobs.errors import NotFound, Tampered
from jobs.settings import settings

# Not every JSON reader keeps larger integers exact, and RFC 8785 forbids them.
_LARGEST = 2**53 - 1


def keep(document: Mapping[str, Any]) -> str:
    """Store a document in canonical JSON (RFC 8785), unless it is stored already; returns its sha256.

    Raises:
        Tampered: the document is stored already, but its bytes have changed.
    """
    content = rfc8785.dumps(plain(document))
    digest = hashlib.sha256(content).hexdigest()
    file = _file(digest)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not create_durably(file, content, 0o644):
        read_evidence(digest)
    return digest


def read_evidence(digest: str) -> dict[str, Any]:
    """The stored document with this sha256.

    Raises:
        NotFound: no document has this sha256.
        Tampered: the stored bytes no longer have this sha256.
    """
    file = _file(digest)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise NotFound(
            f"no evidence with sha256 {digest}",
            where=str(file.parent),
            next_step="run the check again to recreate it",
        ) from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise Tampered(
            "the evidence was changed after it was stored",
            where=str(file),
            expected=f"sha256 {digest}, found {actual}",
            next_step="restore the file from a copy, or run the check again",
        )
    document: dict[str, Any] = json.loads(content)
    return document


def digests() -> Iterator[str]:
    """The sha256 of every stored document, oldest first."""
    files = settings().evidence.glob("[0-9a-f]*.json")
    for file in sorted(files, key=lambda f: (f.stat().st_mtime_ns, f.name)):
        yield file.stem


def digest_of(value: Any) -> str:
    """sha256 of a value in canonical JSON."""
    return hashlib.sha256(rfc8785.dumps(plain(value))).hexdigest()


def plain(value: Any) -> Any:
    """A value in types that JSON keeps exact: instants, dates, decimals, huge integers, NaN, infinities become text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= _LARGEST else str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "item"):
        return plain(value.item())
    return str(value)


def _file(digest: str) -> Path:
    return settings().evidence / f"{digest}.json"
