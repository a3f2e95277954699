"""Signs and verifies the exchange's W3C Verifiable Credentials 2.0 (EdDSA JWS), which need only the public key."""

from __future__ import annotations

import base64
import binascii
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from joserfc import jws
from joserfc.errors import BadSignatureError, JoseError, SecurityWarning
from joserfc.jwk import OKPKey

from jobs.durable import create_durably
from jobs.errors import ExchangeError, NotFound, Tampered
from jobs.release.manifest import canonical
from jobs.settings import settings

PRIVATE_FILE = "issuer.private.jwk.json"
PUBLIC_FILE = "issuer.jwk.json"
MEDIA_TYPE = "vc+jwt"
# The type of a release's certificate.
RELEASE = "DataReleaseCredential"
# The first context is the standard's; the second defines the exchange's own terms, as JSON-LD requires.
CONTEXT: tuple[Any, ...] = ("https://www.w3.org/ns/credentials/v2", {"@vocab": "urn:data-exchange-lake:terms:"})
_ALGORITHM = "EdDSA"
_COMPACT = re.compile(r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$")


def issue(kind: str, subject: dict[str, Any], *, valid_from: datetime) -> str:
    """Sign a statement as the exchange; the same statement gives the same token, byte for byte.

    Args:
        kind: the credential's own type, for example ``DataReleaseCredential``.
        subject: the statement, in JSON values; its ``id`` is the URN of the thing described.
        valid_from: the instant from which the statement is valid.

    Returns:
        The credential as a compact JWS.

    Raises:
        ExchangeError: the signing key cannot be used.
        Tampered: the published public key does not belong to the signing key.
    """
    key = _signing_key()
    document = {
        "@context": list(CONTEXT),
        "type": ["VerifiableCredential", kind],
        "issuer": settings().issuer,
        "validFrom": instant(valid_from),
        "credentialSubject": subject,
    }
    header = {"alg": _ALGORITHM, "typ": MEDIA_TYPE, "kid": key.thumbprint()}
    with _eddsa_by_its_usual_name():
        return jws.serialize_compact(header, canonical(document), key, algorithms=[_ALGORITHM])


def check(token: str, key: dict[str, Any], *, kind: str | None = None) -> dict[str, Any]:
    """Verify a credential offline, and return its document.

    Args:
        token: the compact JWS.
        key: the issuer's public JWK.
        kind: the type that the credential must have; None for any.

    Raises:
        Tampered: it is not exactly what the holder of the key signed, or not such a credential.
    """
    header = _header(token)
    public = _public_key(key)
    if header.get("typ") != MEDIA_TYPE or header.get("alg") not in (_ALGORITHM, "Ed25519"):
        actual = f"{header.get('typ')} and {header.get('alg')}"
        raise _mismatch("the header's typ and alg", f"{MEDIA_TYPE} and {_ALGORITHM}", actual)
    if header.get("kid") != public.thumbprint():
        raise _mismatch("it names another signing key", public.thumbprint(), header.get("kid"))
    try:
        with _eddsa_by_its_usual_name():
            payload = jws.deserialize_compact(token, public, algorithms=[str(header["alg"])]).payload
    except BadSignatureError:
        raise Tampered("the signature does not match the contents", expected="a token as it was signed") from None
    except (JoseError, ValueError) as error:
        raise Tampered(f"not a signed credential: {error}", expected="a compact JWS") from None
    return _document(payload, kind)


def key_id(token: str) -> str | None:
    """The thumbprint of the key that a token says it was signed with; None if it says none. Verifies nothing.

    Raises:
        Tampered: it is no token.
    """
    kid = _header(token).get("kid")
    return kid if isinstance(kid, str) else None


def public_key() -> dict[str, Any]:
    """The exchange's published public JWK.

    Raises:
        NotFound: no key has been generated yet, or it is not on this machine.
        Tampered: the file does not hold an Ed25519 key.
    """
    file = settings().keys / PUBLIC_FILE
    try:
        key = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise NotFound(
            "the exchange's public key is missing", where=str(file), expected="the issuer's JWK",
            next_step="fetch it from the exchange, which generates it with the first release",
        ) from None  # fmt: skip
    except ValueError:
        raise Tampered("not JSON", where=str(file), expected="the issuer's public JWK") from None
    _public_key(key, str(file))
    return dict(key)


def instant(at: datetime) -> str:
    """An instant as XML Schema dateTimeStamp in UTC, with microseconds if there are any."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _signing_key() -> OKPKey:
    folder = settings().keys
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / PRIVATE_FILE
    if not file.exists():
        generated = OKPKey.generate_key("Ed25519", private=True)
        create_durably(file, canonical(generated.as_dict(private=True)), 0o600)
    if file.stat().st_mode & 0o077:
        raise ExchangeError(
            "other users of this machine can read the signing key", where=str(file), expected="mode 0600",
            next_step=f"chmod 600 {file}, and consider the key compromised",
        )  # fmt: skip
    try:
        key = OKPKey.import_key(json.loads(file.read_bytes()))
    except (JoseError, ValueError):
        # The error's text may quote the key, so it is left out.
        raise ExchangeError(
            "the signing key cannot be read", where=str(file), expected="an Ed25519 private JWK",
            next_step="restore it from its backup",
        ) from None  # fmt: skip
    _publish(key, folder / PUBLIC_FILE)
    return key


def _publish(key: OKPKey, file: Path) -> None:
    public = key.as_dict(private=False) | {"kid": key.thumbprint(), "alg": _ALGORITHM, "use": "sig"}
    if not file.exists():
        create_durably(file, canonical(public), 0o644)
    if public_key()["x"] != public["x"]:
        raise Tampered(
            "the published public key does not belong to the signing key", where=str(file),
            expected=f"thumbprint {key.thumbprint()}",
            next_step="find out which of the two was replaced; remove the public key to publish it again",
        )  # fmt: skip


def _public_key(key: dict[str, Any], where: str | None = None) -> OKPKey:
    try:
        public = OKPKey.import_key({name: key[name] for name in ("kty", "crv", "x")})
    except (JoseError, KeyError, ValueError, TypeError):
        raise Tampered("not a public key", where=where, expected="a JWK with kty OKP, crv Ed25519 and x") from None
    if public.curve_name != "Ed25519":
        raise Tampered("not an Ed25519 key", where=where, expected="crv Ed25519")
    return public


def _header(token: str) -> dict[str, Any]:
    if not _COMPACT.match(token):
        raise Tampered("not a signed credential", expected="three parts of base64url, joined by dots")
    parts = token.split(".")
    try:
        decoded = [base64.urlsafe_b64decode(p + "=" * (-len(p) % 4)) for p in parts]
        header = json.loads(decoded[0])
    except (binascii.Error, ValueError, RecursionError):
        raise Tampered("the header cannot be decoded", expected="base64url of a JSON object") from None
    # The last character of base64 has spare bits, so one signature has several spellings: only one may pass.
    for name, part, data in zip(("header", "payload", "signature"), parts, decoded, strict=True):
        if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
            raise Tampered(f"the {name} is not spelled as it was signed", expected="canonical base64url")
    if not isinstance(header, dict):
        raise Tampered("the header cannot be decoded", expected="base64url of a JSON object")
    return header


def _document(payload: bytes, kind: str | None) -> dict[str, Any]:
    try:
        document = json.loads(payload)
    except ValueError:
        raise Tampered("the payload is not JSON", expected="a credential document") from None
    if not isinstance(document, dict) or document.get("@context", [None])[0] != CONTEXT[0]:
        raise _mismatch("its @context", str(CONTEXT[0]), str(document)[:80])
    types = document.get("type") or []
    if "VerifiableCredential" not in types or (kind and kind not in types):
        raise _mismatch("its type", f"VerifiableCredential, {kind}", ", ".join(map(str, types)))
    if not isinstance(document.get("credentialSubject"), dict):
        raise _mismatch("its credentialSubject", "an object", str(document.get("credentialSubject"))[:80])
    return document


def _mismatch(what: str, expected: str, actual: object) -> Tampered:
    return Tampered(f"not the expected credential: {what}", expected=f"{expected}, found {actual}")


@contextmanager
def _eddsa_by_its_usual_name() -> Iterator[None]:
    """Silence the warning against the name EdDSA, which verifiers expect; its newer name is Ed25519."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=SecurityWarning, message="EdDSA is deprecated")
        yield
