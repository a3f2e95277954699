"""The protocol over plain HTTP: paging, errors, headers and both response formats."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from jobs.exchange import usage
from jobs.lake import close
from jobs.registry import reading
from jobs.registry.models import Usage
from jobs.share.capabilities import read
from jobs.share.errors import ShareError
from tests.exchange.checked import PRODUCT, Desk, meters
from tests.exchange.wares import Door, build, days, release

TABLE = "/shares/exchange/schemas/products/tables/rates"


@pytest.fixture
def token(door: Door) -> str:
    """A token for a product with releases at versions 0 and 1, each of which added a file; version 2 is unreleased."""
    for number in ("1.0.0", "1.1.0"):
        build("rates", days(3, 3 * int(number[2])))
        release("rates", number)
    build("rates", days(1, 50))
    return door.grant("rates")[1]


def _lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson; charset=utf-8"
    return [json.loads(line) for line in answer.text.splitlines()]


def _refused(answer: httpx.Response, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert sorted(body) == ["errorCode", "message"]
    assert body["errorCode"] == code
    assert body["message"]
    return str(body["message"])


def description(door: Door, token: str, product: str, responseformat: str) -> str | None:
    """The description that a buyer reads of a table."""
    with door.client(token, **{"delta-sharing-capabilities": f"responseformat={responseformat}"}) as client:
        lines = _lines(client.get(f"/shares/exchange/schemas/products/tables/{product}/metadata"))
    (metadata,) = [line["metaData"] for line in lines if "metaData" in line]
    return metadata.get("deltaMetadata", metadata).get("description")


@pytest.mark.parametrize("responseformat", ["parquet", "delta"])
def test_a_table_describes_itself_with_the_cautions_of_its_release(
    door: Door, responseformat: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "catalogue"))
    desk = Desk(tmp_path / "catalogue")
    desk.declare()
    desk.land("a,1,1\n")
    desk.ship(meters(("a", 1, 1.0)))
    close()
    # Only what was declared at the time of the release counts.
    (tmp_path / "catalogue/dags/products" / PRODUCT / "product.yaml").unlink()
    token = door.grant(PRODUCT)[1]
    expected = "Load by day. Days are those of UTC. A zero is a reading."
    assert description(door, token, PRODUCT, responseformat) == expected


@pytest.mark.parametrize("responseformat", ["parquet", "delta"])
def test_a_release_without_title_and_cautions_shows_its_table_s_description(
    door: Door, responseformat: str
) -> None:
    build("plain", days(1))
    build("named", days(1), description="One row a day")
    for product in ("plain", "named"):
        release(product, "1.0.0", without=("title", "cautions"))
    token = door.grant("plain")[1]
    door.grant("named")
    assert description(door, token, "plain", responseformat) is None
    assert description(door, token, "named", responseformat) == "One row a day"


def test_pages_add_up_to_the_whole_list(door: Door, token: str) -> None:
    names = [f"p{number}" for number in range(7)]
    for name in names:
        build(name, days(1))
        release(name, "1.0.0")
        door.grant(name)
    everything = sorted([*names, "rates"])
    with door.client(token) as client:
        for address in ("/shares/exchange/all-tables", "/shares/exchange/schemas/products/tables"):
            assert [t["name"] for t in client.get(address).json()["items"]] == everything
            for size in (1, 3, 8, 1000):
                seen: list[str] = []
                page: dict[str, Any] = {"nextPageToken": None}
                while "nextPageToken" in page:
                    query = {"maxResults": size} | ({"pageToken": t} if (t := page["nextPageToken"]) else {})
                    page = client.get(address, params=query).json()
                    assert len(page["items"]) <= size
                    seen += [t["name"] for t in page["items"]]
                assert seen == everything
        nothing = client.get("/shares/exchange/all-tables", params={"maxResults": 0}).json()
        assert nothing["items"] == []
        following = client.get("/shares/exchange/all-tables", params={"pageToken": nothing["nextPageToken"]}).json()
        assert [t["name"] for t in following["items"]] == everything


def test_page_tokens_of_other_lists_and_buyers_are_refused(door: Door, token: str) -> None:
    build("loads", days(1))
    release("loads", "1.0.0")
    door.grant("loads")
    _, other = door.grant("loads", "beta")
    with door.client(token) as client, door.client(other) as stranger:
        page = client.get("/shares/exchange/all-tables", params={"maxResults": 1}).json()["nextPageToken"]
        for asking, address in (
            (client, "/shares/exchange/schemas/products/tables"),
            (client, "/shares"),
            (stranger, "/shares/exchange/all-tables"),
        ):
            _refused(asking.get(address, params={"pageToken": page}), 400, "INVALID_PARAMETER_VALUE")
        for wrong in ("x", page[:-1], page + "A", "AAAA" + page[4:], "é", "%00", "a" * 5000):
            answer = client.get("/shares/exchange/all-tables", params={"pageToken": wrong})
            _refused(answer, 400, "INVALID_PARAMETER_VALUE")
        for wrong in ("-1", "x", "1.5", "", "٣", "9" * 40):
            _refused(client.get("/shares", params={"maxResults": wrong}), 400, "INVALID_PARAMETER_VALUE")


def test_ids_are_stable_and_names_ignore_case(door: Door, token: str) -> None:
    with door.client(token) as client:
        share = client.get("/shares").json()["items"][0]
        assert client.get("/shares/EXCHANGE").json() == {"share": share}
        table = client.get("/shares/Exchange/all-tables").json()["items"][0]
        assert table == {
            "name": "rates",
            "schema": "products",
            "share": "exchange",
            "shareId": share["id"],
            "id": table["id"],
        }
        assert client.get("/shares/exchange/schemas").json() == {"items": [{"name": "products", "share": "exchange"}]}
        assert (
            client.get("/shares/EXCHANGE/schemas/Products/tables/RATES/version").headers["delta-table-version"] == "1"
        )


def test_the_version_with_get_and_head(door: Door, token: str) -> None:
    with door.client(token) as client:
        for answer in (client.get(f"{TABLE}/version"), client.head(TABLE)):
            assert (answer.status_code, answer.headers["Delta-Table-Version"], answer.content) == (200, "1", b"")

        def since(text: str) -> httpx.Response:
            return client.get(f"{TABLE}/version", params={"startingTimestamp": text})

        for text, version in (("2020-01-01T00:00:00Z", "0"), ("2026-1-1 0:00:00.000001", "1"), ("2026-01-02", "1")):
            assert since(text).headers["Delta-Table-Version"] == version
        assert "versions are 0 (release 1.0.0" in _refused(
            since("2027-01-01T00:00:00Z"), 400, "INVALID_PARAMETER_VALUE"
        )
        for wrong in ("yesterday", "", "2026-13-01 00:00:00", "12", "9" * 30):
            _refused(since(wrong), 400, "INVALID_PARAMETER_VALUE")


def test_metadata_in_both_formats(door: Door, token: str) -> None:
    with door.client(token) as client:
        answer = client.get(f"{TABLE}/metadata")
        assert answer.headers["delta-table-version"] == "1"
        assert answer.headers["delta-sharing-capabilities"] == "responseformat=parquet"
        protocol, metadata = _lines(answer)
        assert protocol == {"protocol": {"minReaderVersion": 1}}
        facts = metadata["metaData"]
        assert facts["format"] == {"provider": "parquet"}
        assert facts["partitionColumns"] == []
        assert facts["numFiles"] == 2
        answer = client.get(f"{TABLE}/metadata", headers={"delta-sharing-capabilities": "responseformat=delta"})
        assert answer.headers["delta-sharing-capabilities"] == "responseformat=delta"
        protocol, metadata = _lines(answer)
        assert protocol == {"protocol": {"deltaProtocol": {"minReaderVersion": 1, "minWriterVersion": 2}}}
        assert metadata["metaData"]["deltaMetadata"]["schemaString"] == facts["schemaString"]
        assert metadata["metaData"]["deltaMetadata"]["format"] == {"provider": "parquet", "options": {}}
        assert [_lines(client.get(f"{TABLE}/metadata?version={v}"))[1]["metaData"]["numFiles"] for v in (0, 1)] == [
            1,
            2,
        ]
        _refused(client.get(f"{TABLE}/metadata?version=2"), 400, "INVALID_PARAMETER_VALUE")
        _refused(client.get(f"{TABLE}/metadata?version=1&timestamp=2026-01-01"), 400, "INVALID_PARAMETER_VALUE")


def test_a_query_in_both_formats(door: Door, token: str) -> None:
    with door.client(token) as client:
        plain = _lines(client.post(f"{TABLE}/query", json={}))
        assert [next(iter(line)) for line in plain] == ["protocol", "metaData", "file", "file"]
        for line in plain[2:]:
            file = line["file"]
            assert sorted(file) == ["expirationTimestamp", "id", "partitionValues", "size", "stats", "url"]
            assert file["url"].startswith(f"{door.address}/delta-sharing/files/")
            assert 0 < file["expirationTimestamp"] / 1000 - time.time() <= 3600
            assert json.loads(file["stats"])["numRecords"] == 3
        assert "version" not in plain[1]["metaData"]
        dated = _lines(client.post(f"{TABLE}/query", json={"version": "1"}))
        assert dated[1]["metaData"]["version"] == 1
        assert {(line["file"]["version"], line["file"]["timestamp"]) for line in dated[2:]} == {(1, 1767312000000)}
        answer = client.post(
            f"{TABLE}/query",
            json={},
            headers={"delta-sharing-capabilities": "ResponseFormat=Delta;readerFeatures=x;includeEndStreamAction=true"},
        )
        assert answer.headers["delta-sharing-capabilities"] == "responseformat=delta;includeendstreamaction=true"
        lines = _lines(answer)
        assert [next(iter(line)) for line in lines] == ["protocol", "metaData", "file", "file", "endStreamAction"]
        assert lines[-1]["endStreamAction"]["minUrlExpirationTimestamp"] == lines[2]["file"]["expirationTimestamp"]
        add = lines[2]["file"]["deltaSingleAction"]["add"]
        assert sorted(add) == ["dataChange", "modificationTime", "partitionValues", "path", "size", "stats"]


def test_file_ids_stay_and_follow_the_header(door: Door, token: str) -> None:
    with door.client(token) as client:

        def ids(**headers: str) -> list[str]:
            answer = client.post(f"{TABLE}/query", json={}, headers=headers)
            assert answer.headers.get("fileidhash") == headers.get("fileidhash")
            return [line["file"]["id"] for line in _lines(answer)[2:]]

        assert ids() == ids() == ids(fileidhash="parquet")
        assert {len(name) for name in ids()} == {32}
        delta = {"delta-sharing-capabilities": "responseformat=delta"}
        assert ids(**delta) == ids(fileidhash="delta") == ids(**delta, fileidhash="delta")
        assert {len(name) for name in ids(**delta)} == {64}
        _refused(client.post(f"{TABLE}/query", json={}, headers={"fileidhash": "crc"}), 400, "INVALID_PARAMETER_VALUE")


def test_changes_can_be_queried_in_two_ways(door: Door, token: str) -> None:
    with door.client(token) as client:
        answer = client.get(f"{TABLE}/changes", params={"startingVersion": 1})
        assert answer.headers["delta-table-version"] == "1"
        lines = _lines(answer)
        assert [next(iter(line)) for line in lines] == ["protocol", "metaData", "add"]
        assert lines[2]["add"]["version"] == 1
        by_query = client.post(f"{TABLE}/query", json={"startingVersion": 1, "endingVersion": 1})
        assert [line["add"]["id"] for line in _lines(by_query)[2:]] == [lines[2]["add"]["id"]]
        for params in (
            {},
            {"startingVersion": 0, "startingTimestamp": "2026-01-01T00:00:00Z"},
            {"startingVersion": 0, "endingVersion": 1, "endingTimestamp": "2026-01-01T00:00:00Z"},
            {"startingVersion": "x"},
            {"startingVersion": -1},
            {"startingVersion": 2},
            {"startingVersion": 1, "endingVersion": 0},
            {"startingTimestamp": "2027-01-01T00:00:00Z"},
            {"startingVersion": 0, "endingTimestamp": "2020-01-01T00:00:00Z"},
        ):
            _refused(client.get(f"{TABLE}/changes", params=params), 400, "INVALID_PARAMETER_VALUE")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "MALFORMED_REQUEST"),
        (b"[]", 400, "MALFORMED_REQUEST"),
        (b"\xff\xfe", 400, "MALFORMED_REQUEST"),
        (b"[" * 100_000, 400, "MALFORMED_REQUEST"),
        (b'{"version": ' + b"9" * 5000 + b"}", 400, "MALFORMED_REQUEST"),
        (b'{"version": true}', 400, "MALFORMED_REQUEST"),
        (b'{"version": 1.0}', 400, "MALFORMED_REQUEST"),
        (b'{"version": "one"}', 400, "INVALID_PARAMETER_VALUE"),
        (b'{"version": -1}', 400, "INVALID_PARAMETER_VALUE"),
        (b'{"version": 2}', 400, "INVALID_PARAMETER_VALUE"),
        (b'{"version": 99999999999999999}', 400, "INVALID_PARAMETER_VALUE"),
        (b'{"version": 0, "timestamp": "2026-01-01T00:00:00Z"}', 400, "INVALID_PARAMETER_VALUE"),
        (b'{"timestamp": "2020-01-01T00:00:00Z"}', 400, "INVALID_PARAMETER_VALUE"),
        (b'{"timestamp": 5}', 400, "MALFORMED_REQUEST"),
        (b'{"limitHint": -1}', 400, "INVALID_PARAMETER_VALUE"),
        (b'{"predicateHints": "a = 1"}', 400, "MALFORMED_REQUEST"),
        (b'{"jsonPredicateHints": {}}', 400, "MALFORMED_REQUEST"),
        (b'{"x": "' + b"y" * (1 << 20) + b'"}', 413, "MALFORMED_REQUEST"),
    ],
)
def test_an_invalid_body_is_refused(door: Door, token: str, body: bytes, status: int, code: str) -> None:
    with door.client(token) as client:
        _refused(client.post(f"{TABLE}/query", content=body), status, code)
        # The connection and the server still take the next request.
        assert client.post(f"{TABLE}/query", json={}).status_code == 200


def test_invalid_hints_are_ignored(door: Door, token: str) -> None:
    with door.client(token) as client:
        for body in (
            b"",
            b'{"jsonPredicateHints": "not json", "predicateHints": ["so what"], "limitHint": null, "unknown": 1}',
            b'{"jsonPredicateHints": "[1]"}',
            b'{"jsonPredicateHints": "' + b"[" * 100_000 + b'"}',
            b'{"jsonPredicateHints": "{\\"op\\": \\"hocus\\", \\"children\\": []}"}',
        ):
            assert len(_lines(client.post(f"{TABLE}/query", content=body))) == 4


def test_every_request_needs_a_token(door: Door, token: str) -> None:
    addresses = ["/shares", "/shares/exchange", "/shares/exchange/schemas", "/shares/exchange/all-tables"]
    addresses += ["/shares/exchange/schemas/products/tables", f"{TABLE}/version", f"{TABLE}/metadata"]
    addresses += [f"{TABLE}/changes?startingVersion=0", "/shares/nosuch", "/shares/exchange/schemas/x/tables/y/version"]
    for header in (None, "", "Bearer", "Basic YTpi", "Bearer " + "x" * 600, "Bearer \xe9", "Bearer x y"):
        with door.client(None) as client:
            headers = {} if header is None else {"Authorization": header.encode("latin-1")}
            for address in addresses if header is None else addresses[:1]:
                answer = client.get(address, headers=headers)
                _refused(answer, 401, "UNAUTHENTICATED")
                assert answer.headers["www-authenticate"] == "Bearer"
            _refused(client.post(f"{TABLE}/query", content=b"{", headers=headers), 401, "UNAUTHENTICATED")
    denied = usage.usage()
    assert all((entry.status, entry.allowed, entry.buyer) == (401, False, None) for entry in denied)
    with door.client(None) as client:
        assert client.get("/shares", headers={"Authorization": f"bEaReR  {token}"}).status_code == 200


def test_unknown_names_and_paths_are_not_found(door: Door, token: str) -> None:
    with door.client(token) as client:
        for address in ("/shares/x", "/shares/x/schemas", "/shares/exchange/schemas/x/tables", "/shares/x/all-tables"):
            _refused(client.get(address), 404, "RESOURCE_DOES_NOT_EXIST")
        for table in ("nosuch", "a%20b", "..", "%2e%2e", "x" * 3000, "%00", "rates%00"):
            answer = client.get(f"/shares/exchange/schemas/products/tables/{table}/version")
            _refused(answer, 404, "RESOURCE_DOES_NOT_EXIST")
        for address in ("", "/", "/nosuch", "/docs", "/openapi.json", "/../docs"):
            _refused(client.get(address), 404, "RESOURCE_DOES_NOT_EXIST")
        _refused(client.delete("/shares"), 405, "UNSUPPORTED_OPERATION")


def test_every_request_is_metered_once(door: Door, token: str) -> None:
    with door.client(token, **{"User-Agent": "tester/1"}) as client:
        client.get("/shares")
        client.get(f"{TABLE}/version")
        client.get(f"{TABLE}/metadata?version=0")
        client.post(f"{TABLE}/query", json={})
        client.get(f"{TABLE}/changes?startingVersion=1")
        client.get("/shares/exchange/schemas/products/tables/nosuch/version")
        client.post(f"{TABLE}/query", content=b"{")
    with reading() as session:
        rows = session.scalars(select(Usage).order_by(Usage.id)).all()
    assert [(r.operation, r.product, r.version, r.files, r.status, r.allowed) for r in rows] == [
        ("list", None, None, 0, 200, True),
        ("version", "rates", 1, 0, 200, True),
        ("metadata", "rates", 0, 0, 200, True),
        ("query", "rates", 1, 2, 200, True),
        ("changes", "rates", 1, 1, 200, True),
        ("version", "nosuch", None, 0, 404, False),
        ("query", "rates", None, 0, 400, True),
    ]
    assert {(r.buyer, r.grant_id, r.client, r.bytes) for r in rows} == {("acme", 1, "tester/1", 0)}
    assert len({r.request_id for r in rows}) == 7


def test_an_internal_error_reveals_nothing(door: Door, token: str, caplog: pytest.LogCaptureFixture) -> None:
    from jobs.settings import settings

    for path in (settings().lake / "gold" / "rates").glob("*.parquet"):
        path.unlink()
    with door.client(token) as client:
        message = _refused(client.post(f"{TABLE}/query", json={"version": 0}), 500, "INTERNAL_ERROR")
    assert not re.search(r"/|parquet|Tampered", message)
    assert any("a file of a release is missing" in str(record.exc_info) for record in caplog.records if record.exc_info)
    assert usage.usage()[0].reason == "failed: Tampered"


@given(st.text(st.characters(codec="latin-1"), max_size=200))
def test_any_capability_header_is_parsed_or_refused(header: str) -> None:
    try:
        capabilities = read(header)
    except ShareError as error:
        assert error.status == 400
        return
    assert capabilities.formats <= {"parquet", "delta"} and capabilities.formats


def test_the_format_is_chosen_by_what_client_and_table_support() -> None:
    plain: frozenset[str] = frozenset()
    ntz = frozenset({"timestampNtz"})
    assert read(None).choose(1, plain) == "parquet"
    assert read("responseformat=delta").choose(1, plain) == "delta"
    assert read("responseformat=parquet,delta").choose(1, plain) == "delta"
    assert read("responseformat=parquet,later").choose(1, plain) == "parquet"
    assert read("responseformat=delta;readerfeatures=timestampntz").choose(3, ntz) == "delta"
    for cannot in (None, "responseformat=delta", "responseformat=parquet,delta;readerfeatures=deletionvectors"):
        with pytest.raises(ShareError, match="timestampNtz"):
            read(cannot).choose(3, ntz)
    with pytest.raises(ShareError, match="responseformat"):
        read("responseformat=csv")
