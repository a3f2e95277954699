"""The exchange's identity as a did:web document, and the keys in one that somebody was given.

What a did:web document is: https://w3c-ccg.github.io/did-method-web/; of the key, https://www.w3.org/TR/vc-jose-cose/.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from jobs.errors import ExchangeError, NotFound
from jobs.release import credential
from jobs.settings import settings

WELL_KNOWN = "/.well-known/did.json"
_CONTEXT = ("https://www.w3.org/ns/did/v1", "https://w3id.org/security/jwk/v1")
_METHOD = "did:web:"
# A document with one key has one kilobyte.
_LONGEST = 1 << 20
_PUBLIC = ("kty", "crv", "x", "kid", "alg", "use")


@dataclass(frozen=True)
class Keys:
    """Public keys of an issuer, as JWKs; `issuer` is None where the file names none."""

    issuer: str | None
    keys: tuple[dict[str, Any], ...]

    def named(self, kid: object) -> dict[str, Any]:
        """The key of this thumbprint, or else the first, with which a signature by another does not verify."""
        return next((key for key in self.keys if _thumbprint(key) == kid), self.keys[0])


def document() -> dict[str, Any]:
    """The exchange's DID document, with its public key.

    Raises:
        NotFound: no key has been generated yet.
        Tampered: the key's file does not hold one.
    """
    issuer = settings().issuer
    key = credential.public_key()
    name = f"{issuer}#{_thumbprint(key)}"
    method = {
        "id": name,
        "type": "JsonWebKey",
        "controller": issuer,
        "publicKeyJwk": {part: key[part] for part in _PUBLIC if part in key},
    }
    return {
        "@context": list(_CONTEXT), "id": issuer, "verificationMethod": [method], "assertionMethod": [name],
    }  # fmt: skip


def path() -> str:
    """Where the server of the issuer's name has the document: of ``did:web:host:a`` at ``/a/did.json``."""
    _, *folders = settings().issuer.removeprefix(_METHOD).split(":")
    if not settings().issuer.startswith(_METHOD) or not folders:
        return WELL_KNOWN
    return "/" + "/".join(map(unquote, folders)) + "/did.json"


def read_keys(file: Path) -> Keys:
    """The keys in a DID document, a JWK or a set of JWKs.

    Raises:
        NotFound: there is no such file.
        ExchangeError: it holds no Ed25519 public key.
    """
    expected = "the exchange's did.json, or its public key as a JWK (Ed25519)"
    try:
        with file.open("rb") as opened:
            data = opened.read(_LONGEST + 1)
        found = json.loads(data) if len(data) <= _LONGEST else None
    except FileNotFoundError:
        raise NotFound("the key's file is missing", where=str(file), expected=expected) from None
    except OSError as error:
        raise ExchangeError(f"cannot be read ({error.strerror})", where=str(file), expected=expected) from None
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and "d" in found:
        raise ExchangeError(
            "this is a private key", where=str(file), expected=expected,
            next_step="never hand it out; whoever has it can sign as the exchange",
        )  # fmt: skip
    keys = tuple(key for key in _listed(found) if _thumbprint(key))
    if not keys:
        raise ExchangeError("no public key of an exchange", where=str(file), expected=expected)
    issuer = found.get("id") if isinstance(found, dict) and "verificationMethod" in found else None
    return Keys(str(issuer) if issuer else None, keys)


def _listed(found: Any) -> list[dict[str, Any]]:
    """The JWKs of a document, of a DID document only those that may sign statements."""
    if not isinstance(found, dict):
        return []
    if "verificationMethod" not in found:
        keys = found.get("keys", [found])
        return [key for key in keys if isinstance(key, dict)] if isinstance(keys, list) else []
    own, may_sign = str(found.get("id")), found.get("assertionMethod")
    named, whole = _parts(may_sign)
    _, listed = _parts(found["verificationMethod"])
    signing = [m for m in listed if m.get("id") in named or str(m.get("id")).removeprefix(own) in named]
    return [m["publicKeyJwk"] for m in (*signing, *whole) if isinstance(m.get("publicKeyJwk"), dict)]


def _parts(methods: Any) -> tuple[set[str], list[dict[str, Any]]]:
    """Of a list of verification methods, those that are named and those that are written out."""
    listed = methods if isinstance(methods, list) else []
    return {m for m in listed if isinstance(m, str)}, [m for m in listed if isinstance(m, dict)]


def _thumbprint(key: dict[str, Any]) -> str | None:
    """The thumbprint (RFC 7638) of an Ed25519 public key; None if it is none."""
    try:
        public = OKPKey.import_key({part: key[part] for part in ("kty", "crv", "x")})
    except (JoseError, KeyError, ValueError, TypeError):
        return None
    return public.thumbprint() if public.curve_name == "Ed25519" else None
