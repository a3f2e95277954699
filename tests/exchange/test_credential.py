"""A credential is exactly what the exchange signed, or is refused with the reason."""

from __future__ import annotations

import base64
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import OctKey, OKPKey

from jobs.errors import ExchangeError, NotFound, Tampered
from jobs.release import credential
from jobs.settings import settings

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SUBJECT = {"id": "urn:x:release:p:1.0.0", "product": "p", "rows": 3, "title": "負荷"}


def issue() -> str:
    return credential.issue("DataReleaseCredential", SUBJECT, valid_from=AT)


def unpack(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def pack(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.usefixtures("home")
def test_any_ed25519_library_verifies_the_credential() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        token = issue()
        document = credential.check(token, credential.public_key(), kind="DataReleaseCredential")
    header, payload, signature = token.split(".")
    key = credential.public_key()
    Ed25519PublicKey.from_public_bytes(unpack(key["x"])).verify(unpack(signature), f"{header}.{payload}".encode())
    assert json.loads(unpack(header)) == {"alg": "EdDSA", "typ": "vc+jwt", "kid": key["kid"]}
    assert json.loads(unpack(payload)) == document
    assert document["@context"][0] == "https://www.w3.org/ns/credentials/v2"
    assert document["type"] == ["VerifiableCredential", "DataReleaseCredential"]
    assert document["issuer"] == settings().issuer
    assert document["validFrom"] == "2026-03-01T12:00:00Z"
    assert document["credentialSubject"] == SUBJECT
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(unpack(key["x"])).verify(unpack(signature), b"other")


@pytest.mark.usefixtures("home")
def test_the_same_statement_gives_the_same_token() -> None:
    assert issue() == issue()


def test_the_key_is_private_and_its_public_half_is_published(home: Path) -> None:
    with pytest.raises(NotFound, match="public key is missing"):
        credential.public_key()
    issue()
    keys = home / "keys"
    assert keys.stat().st_mode & 0o777 == 0o700
    assert {p.name: p.stat().st_mode & 0o777 for p in keys.iterdir()} == {
        "issuer.private.jwk.json": 0o600,
        "issuer.jwk.json": 0o644,
    }
    published = json.loads((keys / "issuer.jwk.json").read_text())
    assert "d" not in published
    assert published["kid"] == OKPKey.import_key(published).thumbprint()


def test_concurrent_first_uses_make_one_key(home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: issue(), range(16)))) == 1
    assert len(list((home / "keys").iterdir())) == 2


def test_a_lost_public_key_is_published_again_and_a_replaced_one_detected(home: Path) -> None:
    token = issue()
    file = home / "keys" / "issuer.jwk.json"
    published = file.read_bytes()
    file.unlink()
    assert issue() == token and file.read_bytes() == published
    other = OKPKey.generate_key("Ed25519")
    file.write_text(json.dumps(other.as_dict(private=False)))
    with pytest.raises(Tampered, match="does not belong to the signing key"):
        issue()
    with pytest.raises(Tampered, match="another signing key"):
        credential.check(token, credential.public_key())


def test_a_signing_key_readable_by_others_is_refused(home: Path) -> None:
    issue()
    file = home / "keys" / "issuer.private.jwk.json"
    file.chmod(0o644)
    with pytest.raises(ExchangeError, match="0600"):
        issue()
    file.chmod(0o600)
    secret = json.loads(file.read_text())["d"]
    file.write_text(file.read_text()[:-5])
    with pytest.raises(ExchangeError) as caught:
        issue()
    assert secret[:10] not in str(caught.value)


@given(data=st.data())
@examples(max_examples=60)
def test_no_single_character_can_change(token_and_key: tuple[str, dict[str, Any]], data: st.DataObject) -> None:
    token, key = token_and_key
    place = data.draw(st.integers(0, len(token) - 1))
    flipped = chr(ord(token[place]) ^ (1 << data.draw(st.integers(0, 6))))
    with pytest.raises(Tampered):
        credential.check(token[:place] + flipped + token[place + 1 :], key)


@pytest.fixture(scope="module")
def token_and_key(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXCHANGE_HOME", str(tmp_path_factory.mktemp("home")))
        return issue(), credential.public_key()


def test_the_spare_bits_of_the_signature_cannot_change(token_and_key: tuple[str, dict[str, Any]]) -> None:
    token, key = token_and_key
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for spelling in last[last.index(token[-1]) + 1 : last.index(token[-1]) + 4]:
        assert unpack(token.split(".")[2]) == unpack((token[:-1] + spelling).split(".")[2])
        with pytest.raises(Tampered, match="signature is not spelled"):
            credential.check(token[:-1] + spelling, key)


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "....", "é.é.é", "a.b.c\n", "e30.e30.e30", "W10.e30.AAAA"])
def test_malformed_tokens_are_refused(token_and_key: tuple[str, dict[str, Any]], token: str) -> None:
    with pytest.raises(Tampered):
        credential.check(token, token_and_key[1])


@pytest.mark.parametrize(
    "key", [{}, {"kty": "OKP"}, {"kty": "OKP", "crv": "Ed25519", "x": "AA"}, {"kty": "oct", "k": "AA"}]
)
def test_malformed_keys_are_refused(token_and_key: tuple[str, dict[str, Any]], key: dict[str, Any]) -> None:
    with pytest.raises(Tampered, match="key"):
        credential.check(token_and_key[0], key)


def test_other_algorithms_and_keys_are_refused(token_and_key: tuple[str, dict[str, Any]]) -> None:
    token, key = token_and_key
    header, payload, _ = token.split(".")
    unsigned = pack(json.dumps({"alg": "none", "typ": "vc+jwt", "kid": key["kid"]}).encode())
    with pytest.raises(Tampered, match="typ and alg"):
        credential.check(f"{unsigned}.{payload}.AAAA", key)
    # Signed with the public key as a shared secret, a well-known attack on tokens.
    shared = jws.serialize_compact(
        {"alg": "HS256", "typ": "vc+jwt", "kid": key["kid"]}, unpack(payload), OctKey.import_key(unpack(key["x"]))
    )
    with pytest.raises(Tampered, match="typ and alg"):
        credential.check(shared, key)
    stranger = OKPKey.generate_key("Ed25519", private=True)
    for kid, reason in ((stranger.thumbprint(), "another signing key"), (key["kid"], "signature does not match")):
        forged = jws.serialize_compact(
            {"alg": "Ed25519", "typ": "vc+jwt", "kid": kid}, unpack(payload), stranger, algorithms=["Ed25519"]
        )
        with pytest.raises(Tampered, match=reason):
            credential.check(forged, key)
    assert header


@pytest.mark.usefixtures("home")
def test_a_credential_of_another_kind_is_refused() -> None:
    token = credential.issue("TradingCredential", SUBJECT, valid_from=AT)
    assert credential.check(token, credential.public_key())["type"][1] == "TradingCredential"
    with pytest.raises(Tampered, match="its type"):
        credential.check(token, credential.public_key(), kind="DataReleaseCredential")
