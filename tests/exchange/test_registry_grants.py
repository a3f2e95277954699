"""Grants, participants and metering, as recorded in the registry."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from jobs.errors import ExchangeError, NotFound
from jobs.exchange import usage
from jobs.exchange.grants import Standing, create_grant, grants, revoke, standing
from jobs.exchange.participants import enrol, participants
from jobs.registry import reading
from jobs.registry.models import Grant
from jobs.share.access import authenticate, tables_of
from jobs.share.errors import ShareError
from tests.exchange.wares import build, days, recall, release, set_grant

pytestmark = pytest.mark.usefixtures("home_with_registry")


@pytest.fixture
def rates() -> str:
    build("rates", days(3))
    release("rates", "1.0.0")
    return "rates"


def test_a_grant_gives_a_profile_and_keeps_only_a_hash(rates: str, home: Path) -> None:
    grant, profile = create_grant(rates, "acme", 30, "http://share.example/delta-sharing/")
    token = profile["bearerToken"]
    assert profile == {
        "shareCredentialsVersion": 1,
        "endpoint": "http://share.example/delta-sharing",
        "bearerToken": token,
        "expirationTime": grant.expires_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    assert len(token) >= 43
    assert grant.token_sha256 == hashlib.sha256(token.encode()).hexdigest()
    assert grant.expires_at - grant.not_before == timedelta(days=30)
    assert [(p.name, p.role) for p in participants()] == [("acme", "buyer")]
    for file in home.rglob("*"):
        assert not file.is_file() or token.encode() not in file.read_bytes()


def test_the_default_endpoint_is_this_machine_s_server(rates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCHANGE_SHARE_HOST", "::1")
    monkeypatch.setenv("EXCHANGE_SHARE_PORT", "9000")
    assert create_grant(rates, "acme", 1)[1]["endpoint"] == "http://[::1]:9000/delta-sharing"


@pytest.mark.parametrize("wrong", [0, -1, 3651])
def test_a_grant_lasts_between_a_day_and_ten_years(rates: str, wrong: int) -> None:
    with pytest.raises(ExchangeError, match="1 to 3650 days"):
        create_grant(rates, "acme", wrong)
    create_grant(rates, "acme", 3650)


def test_an_unreleased_product_cannot_be_granted() -> None:
    build("rates", days(3))
    release("rates", "1.0.0")
    with pytest.raises(NotFound, match=r"no published release.*rates.*exchange release loads"):
        create_grant("loads", "acme", 1)
    build("loads", days(1))
    recall(release("loads", "1.0.0"))
    with pytest.raises(NotFound, match="no published release"):
        create_grant("loads", "acme", 1)
    assert participants() == []


def test_only_buyers_can_be_granted_a_product(rates: str) -> None:
    enrol("tide", "provider")
    with pytest.raises(ExchangeError, match="takes part as provider"):
        create_grant(rates, "tide", 1)
    enrol("acme", "buyer")
    create_grant(rates, "acme", 1)
    assert enrol("acme", "buyer").id == grants()[0].buyer_id


@pytest.mark.parametrize("name", ["", " ", "a ", "a\nb", "x" * 256])
def test_an_unreadable_name_is_refused(name: str) -> None:
    with pytest.raises(ExchangeError, match="is not a valid name for a participant"):
        enrol(name, "buyer")


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ExchangeError, match="no role 'owner'"):
        enrol("acme", "owner")


def shown_to(token: str) -> set[int]:
    """The ids of the grants that the holder of a token may use now."""
    with reading() as session:
        visitor = authenticate(session, f"Bearer {token}", usage.Request("list"))
        return set(tables_of(session, visitor).values())


def test_a_token_shows_all_its_buyer_s_products_while_its_own_grant_is_live(rates: str) -> None:
    build("loads", days(3))
    release("loads", "1.0.0")
    first, profile = create_grant(rates, "acme", 30)
    second, other = create_grant("loads", "acme", 30)
    create_grant("loads", "beta", 30)
    token, other_token = profile["bearerToken"], other["bearerToken"]
    assert shown_to(token) == {first.id, second.id}
    revoke("contract ended", grant_id=first.id)
    with pytest.raises(ShareError, match="the grant of rates was revoked"):
        shown_to(token)
    assert shown_to(other_token) == {second.id}
    set_grant(second, expires_at=datetime.now(UTC) + timedelta(seconds=-1), not_before=datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(ShareError, match="the grant of loads expired"):
        shown_to(other_token)
    for unknown in ("invented", "\udcff"):
        with pytest.raises(ShareError, match="unknown token"):
            shown_to(unknown)


def test_revoking_by_number_and_by_product_and_buyer(rates: str) -> None:
    for buyer in ("acme", "acme", "beta"):
        create_grant(rates, buyer, 30)
    assert [grant.id for grant in revoke("  late payment ", product=rates, buyer="acme")] == [1, 2]
    assert grants(buyer="acme")[0].revoked_reason == "late payment"
    with pytest.raises(NotFound, match="grant 2 of rates to acme is revoked already"):
        revoke("again", product=rates, buyer="acme")
    assert [grant.id for grant in revoke("x", grant_id=3)] == [3]
    with pytest.raises(NotFound, match="no such grant"):
        revoke("x", grant_id=4)
    with pytest.raises(NotFound, match="no such grant"):
        revoke("x", product=rates, buyer="nobody")
    with pytest.raises(ExchangeError, match="needs a reason"):
        revoke("  ", grant_id=1)
    with pytest.raises(ExchangeError, match="ambiguous"):
        revoke("x", product=rates)


@given(
    begin=st.datetimes(timezones=st.just(UTC)),
    length=st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=3650)),
    at=st.datetimes(timezones=st.just(UTC)),
    revoked=st.booleans(),
)
def test_a_grant_is_live_between_its_dates_unless_revoked(
    begin: datetime, length: timedelta, at: datetime, revoked: bool
) -> None:
    try:
        end = begin + length
    except OverflowError:
        return
    worth = standing(Grant(not_before=begin, expires_at=end, revoked_at=begin if revoked else None), at)
    assert (worth is Standing.LIVE) == (not revoked and begin <= at < end)


def test_the_meter_counts_a_request_once() -> None:
    request = usage.Request("query", product="rates", buyer="acme", files=2)
    usage.record(request)
    with pytest.raises(IntegrityError):
        usage.record(request)
    assert len(usage.usage()) == 1


def test_the_meter_sums_per_buyer_and_product() -> None:
    usage.record(usage.Request("query", product="rates", buyer="acme", files=2))
    usage.record(usage.Request("file", product="rates", buyer="acme", files=1, bytes=100))
    sent = usage.Request("file", product="rates", buyer="acme", files=1)
    usage.record(sent)
    sent.bytes = 50
    usage.progress(sent)
    usage.record(usage.Request("file", product="loads", buyer="acme", status=403, allowed=False, reason="revoked"))
    usage.record(usage.Request("list", status=401, allowed=False))
    totals = {(t.buyer, t.product): (t.requests, t.denied, t.files, t.bytes) for t in usage.summary()}
    assert totals == {
        ("acme", "rates"): (3, 0, 2, 150),
        ("acme", "loads"): (1, 1, 0, 0),
        (None, None): (1, 1, 0, 0),
    }
    assert [t.product for t in usage.summary(buyer="acme", product="loads")] == ["loads"]
    assert [u.operation for u in usage.usage(product="rates", limit=2)] == ["file", "file"]


def test_text_from_strangers_cannot_break_a_report() -> None:
    usage.record(usage.Request("query", product="a\nb\x00" + "x" * 999, client="curl\x1b[2J" + "y" * 9999))
    entry = usage.usage()[0]
    assert entry.product is not None and entry.client is not None
    assert len(entry.product) == 255 and entry.product.isprintable()
    assert len(entry.client) == 512 and entry.client.isprintable()
    json.dumps(entry.client)
