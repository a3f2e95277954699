"""The official Delta Sharing client lists and loads what is granted, and is refused everything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import delta_sharing
import pandas as pd
import pyarrow as pa
import pytest
from requests.exceptions import HTTPError

from jobs.exchange import usage
from jobs.exchange.grants import revoke
from tests.exchange.wares import FIRST_RELEASE, Door, build, days, recall, release, set_grant

BOTH_FORMATS = pytest.mark.parametrize("delta", [True, False], ids=["delta", "parquet"])


@pytest.fixture
def rates(door: Door) -> str:
    """A product with three releases, at versions 0, 2 and 4; versions 1, 3 and 5 are not released."""
    build("rates", days(4))
    release("rates", "1.0.0")
    build("rates", days(1, 90))
    build("rates", pa.concat_tables([days(8)]), mode="overwrite")
    release("rates", "1.1.0")
    build("rates", days(2, 8))
    build("rates", days(2, 10))
    release("rates", "1.2.0")
    build("rates", days(50), mode="overwrite")
    return door.grant("rates")[1]


def _rows(frame: pd.DataFrame) -> list[int]:
    return sorted(frame["rows"].tolist())


def test_a_buyer_sees_only_granted_products(door: Door, rates: str) -> None:
    build("loads", days(1))
    release("loads", "1.0.0")
    build("hidden", days(1))
    release("hidden", "1.0.0")
    client = delta_sharing.SharingClient(str(door.profiles[rates]))
    assert [share.name for share in client.list_shares()] == ["exchange"]
    assert [schema.name for schema in client.list_schemas(client.list_shares()[0])] == ["products"]
    assert [table.name for table in client.list_all_tables()] == ["rates"]
    door.grant("loads")
    assert [table.name for table in client.list_all_tables()] == ["loads", "rates"]
    assert [table.name for table in client.list_tables(client.list_schemas(client.list_shares()[0])[0])] == [
        "loads",
        "rates",
    ]
    _, other = door.grant("hidden", "beta")
    assert [t.name for t in delta_sharing.SharingClient(str(door.profiles[other])).list_all_tables()] == ["hidden"]


@BOTH_FORMATS
def test_the_latest_release_is_loaded_with_its_types(door: Door, rates: str, delta: bool) -> None:
    frame = delta_sharing.load_as_pandas(door.url(rates, "rates"), use_delta_format=delta)
    assert _rows(frame) == list(range(12))
    frame = frame.sort_values("rows", ignore_index=True)
    pd.testing.assert_frame_equal(frame, days(12).to_pandas(date_as_object=True))


def test_a_client_that_accepts_both_formats_gets_the_same_rows(door: Door, rates: str) -> None:
    assert _rows(delta_sharing.load_as_pandas(door.url(rates, "rates"))) == list(range(12))
    assert {entry.operation for entry in usage.usage()} == {"metadata", "query", "file"}
    # One request per file: the delta format.
    assert sum(entry.operation == "file" for entry in usage.usage()) == 3


@BOTH_FORMATS
def test_released_versions_and_times_can_be_loaded(door: Door, rates: str, delta: bool) -> None:
    url = door.url(rates, "rates")
    for version, rows in ((0, 4), (2, 8), (4, 12)):
        assert _rows(delta_sharing.load_as_pandas(url, version=version, use_delta_format=delta)) == list(range(rows))
        released = FIRST_RELEASE + timedelta(days=version)
        for spelled in (f"{released:%Y-%m-%dT%H:%M:%SZ}", f"{released + timedelta(hours=9):%Y-%m-%d %H:%M:%S}"):
            frame = delta_sharing.load_as_pandas(url, timestamp=spelled, use_delta_format=delta)
            assert _rows(frame) == list(range(rows))


@BOTH_FORMATS
@pytest.mark.parametrize("version", [1, 3, 5, 6])
def test_versions_that_were_not_released_are_refused(door: Door, rates: str, version: int, delta: bool) -> None:
    with pytest.raises(HTTPError, match="400") as caught:
        delta_sharing.load_as_pandas(door.url(rates, "rates"), version=version, use_delta_format=delta)
    assert "INVALID_PARAMETER_VALUE" in str(caught.value)
    for released in ("0 (release 1.0.0", "2 (release 1.1.0", "4 (release 1.2.0"):
        assert released in " ".join(str(caught.value).replace("'\n", "").replace("'", "").split())


@BOTH_FORMATS
def test_a_limit_reduces_rows_and_files(door: Door, rates: str, delta: bool) -> None:
    url = door.url(rates, "rates")
    for limit in (0, 1, 5, 12, 100):
        assert len(delta_sharing.load_as_pandas(url, limit=limit, use_delta_format=delta)) == min(limit, 12)
    query = next(entry for entry in usage.usage() if entry.operation == "query")
    assert query.files == 3
    delta_sharing.load_as_pandas(url, limit=1, use_delta_format=delta)
    assert next(entry for entry in usage.usage() if entry.operation == "query").files == 1


@BOTH_FORMATS
def test_predicates_skip_files_that_cannot_match(door: Door, rates: str, delta: bool) -> None:
    predicate = json.dumps(
        {
            "op": "greaterThanOrEqual",
            "children": [
                {"op": "column", "name": "rows", "valueType": "long"},
                {"op": "literal", "value": "10", "valueType": "long"},
            ],
        }
    )
    url = door.url(rates, "rates")
    frame = delta_sharing.load_as_pandas(url, jsonPredicateHints=predicate, use_delta_format=delta)
    assert _rows(frame) == [10, 11]


def test_version_metadata_and_protocol(door: Door, rates: str) -> None:
    url = door.url(rates, "rates")
    assert delta_sharing.get_table_version(url) == 4
    assert delta_sharing.get_table_version(url, starting_timestamp="2026-01-01T12:00:00Z") == 2
    for delta in (True, False):
        metadata = delta_sharing.get_table_metadata(url, use_delta_format=delta)
        names = [column["name"] for column in json.loads(metadata.schema_string)["fields"]]
        assert names == ["day_on", "seen_at", "code", "rows", "value"]
        assert (metadata.num_files, metadata.partition_columns) == (3, [])
        assert delta_sharing.get_table_protocol(url, use_delta_format=delta).min_reader_version == 1


@BOTH_FORMATS
@pytest.mark.parametrize(
    ("window", "inserted", "deleted"),
    [
        ({"starting_version": 0}, [(0, 4), (2, 8), (4, 4)], [(2, 4)]),
        ({"starting_version": 0, "ending_version": 0}, [(0, 4)], []),
        ({"starting_version": 1}, [(2, 8), (4, 4)], [(2, 4)]),
        ({"starting_version": 3, "ending_version": 4}, [(4, 4)], []),
        ({"starting_version": 3, "ending_version": 3}, [], []),
        (
            {"starting_timestamp": "2026-01-02T00:00:00Z", "ending_timestamp": "2026-01-04T00:00:00Z"},
            [(2, 8)],
            [(2, 4)],
        ),
    ],
)
def test_changes_between_releases(
    door: Door,
    rates: str,
    delta: bool,
    window: dict[str, Any],
    inserted: list[tuple[int, int]],
    deleted: list[tuple[int, int]],
) -> None:
    frame = delta_sharing.load_table_changes_as_pandas(door.url(rates, "rates"), **window, use_delta_format=delta)
    counts = frame.groupby(["_change_type", "_commit_version"]).size().to_dict()
    assert counts == {("insert", v): n for v, n in inserted} | {("delete", v): n for v, n in deleted}


def test_replaying_the_changes_gives_the_table(door: Door, rates: str) -> None:
    url = door.url(rates, "rates")
    for delta in (True, False):
        replayed: list[int] = []
        frame = delta_sharing.load_table_changes_as_pandas(url, starting_version=0, use_delta_format=delta)
        for _, change in frame.sort_values(["_commit_version", "_change_type"]).iterrows():
            (replayed.remove if change["_change_type"] == "delete" else replayed.append)(change["rows"])
        assert sorted(replayed) == _rows(delta_sharing.load_as_pandas(url))


def test_changes_across_an_added_column(door: Door) -> None:
    build("rates", days(2))
    release("rates", "1.0.0")
    wider = days(2, 2).append_column("note", pa.array(["a", "b"]))
    build("rates", wider, schema_mode="merge")
    release("rates", "2.0.0")
    url = door.url(door.grant("rates")[1], "rates")
    frame = delta_sharing.load_table_changes_as_pandas(url, starting_version=0)
    assert frame.sort_values("rows")["note"].tolist() == [None, None, "a", "b"]
    for delta in (True, False):
        loaded = delta_sharing.load_as_pandas(url, use_delta_format=delta).sort_values("rows")
        assert [None if pd.isna(note) else note for note in loaded["note"]] == [None, None, "a", "b"]


@BOTH_FORMATS
def test_partitioned_tables_with_awkward_values(door: Door, delta: bool) -> None:
    rows = pa.table(
        {
            "place": pa.array(["a b", "c:d/e", "100%25", "Zürich 深圳", None, "x=y"]),
            "on": pa.array([datetime(2026, 1, n + 1).date() for n in range(6)]),
            "flag": pa.array([True, False, None, True, False, True]),
            "amount": pa.array([Decimal(f"{n}.05") for n in range(6)], pa.decimal128(12, 2)),
            "n": pa.array(range(6), pa.int32()),
        }
    )
    build("places", rows, partition_by=["place", "on", "flag"])
    release("places", "1.0.0")
    url = door.url(door.grant("places")[1], "places")
    frame = delta_sharing.load_as_pandas(url, use_delta_format=delta).sort_values("n", ignore_index=True)
    for column in ("place", "on", "flag", "amount", "n"):
        loaded = [None if pd.isna(value) else value for value in frame[column]]
        assert loaded == rows[column].to_pylist()


@BOTH_FORMATS
def test_an_empty_release_is_loaded_with_its_columns(door: Door, delta: bool) -> None:
    build("rates", days(3))
    build("rates", days(0), mode="overwrite")
    release("rates", "1.0.0")
    frame = delta_sharing.load_as_pandas(door.url(door.grant("rates")[1], "rates"), use_delta_format=delta)
    assert (len(frame), list(frame.columns)) == (0, ["day_on", "seen_at", "code", "rows", "value"])


def _refused(load: Callable[[], object], status: str, words: str) -> None:
    with pytest.raises(HTTPError, match=status) as caught:
        load()
    assert words in " ".join(str(caught.value).replace("'\n", "").replace("'", "").split())


@BOTH_FORMATS
def test_wrong_expired_early_and_revoked_tokens_are_refused(door: Door, rates: str, delta: bool) -> None:
    url = door.url(rates, "rates")
    wrong = door.folder / "wrong.share"
    wrong.write_text(door.profiles[rates].read_text().replace(rates, ("y" if rates[0] == "x" else "x") + rates[1:]))
    expired, expired_token = door.grant("rates", "late")
    set_grant(expired, not_before=FIRST_RELEASE, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    early, early_token = door.grant("rates", "soon")
    set_grant(early, not_before=datetime.now(UTC) + timedelta(days=1))
    revoked, revoked_token = door.grant("rates", "gone")
    revoke("did not pay", grant_id=revoked.id)

    def load(address: str) -> Callable[[], object]:
        return lambda: delta_sharing.load_as_pandas(address, use_delta_format=delta)

    _refused(load(f"{wrong}#exchange.products.rates"), "401", "unknown token")
    _refused(load(door.url(expired_token, "rates")), "401", "expired on")
    _refused(load(door.url(early_token, "rates")), "401", "begins on")
    _refused(load(door.url(revoked_token, "rates")), "403", "was revoked on")
    assert len(delta_sharing.load_as_pandas(url, use_delta_format=delta)) == 12


def test_a_revoked_grant_is_refused_even_if_its_buyer_holds_another(door: Door) -> None:
    build("rates", days(1))
    release("rates", "1.0.0")
    build("loads", days(1))
    release("loads", "1.0.0")
    first, token = door.grant("rates", "two")
    _, other = door.grant("loads", "two")
    revoke("x", grant_id=first.id)
    _refused(lambda: delta_sharing.load_as_pandas(door.url(token, "loads")), "403", "was revoked on")
    assert len(delta_sharing.load_as_pandas(door.url(other, "loads"))) == 1
    _refused(lambda: delta_sharing.load_as_pandas(door.url(other, "rates")), "403", "the grant of rates was revoked")
    assert [t.name for t in delta_sharing.SharingClient(str(door.profiles[other])).list_all_tables()] == ["loads"]


def test_what_is_not_granted_looks_like_what_does_not_exist(door: Door, rates: str) -> None:
    build("loads", days(1))
    release("loads", "1.0.0")
    messages = []
    for name in ("loads", "nosuch"):
        with pytest.raises(HTTPError, match="404") as caught:
            delta_sharing.load_as_pandas(door.url(rates, name))
        messages.append(str(caught.value).replace(name, "NAME"))
    assert messages[0] == messages[1]


@BOTH_FORMATS
def test_a_grant_revoked_after_listing_gives_no_bytes(
    door: Door, rates: str, monkeypatch: pytest.MonkeyPatch, delta: bool
) -> None:
    listed = delta_sharing.rest_client.DataSharingRestClient.list_files_in_table

    def list_then_revoke(*args: Any, **options: Any) -> Any:
        files = listed(*args, **options)
        revoke("stolen", product="rates", buyer="acme")
        return files

    monkeypatch.setattr(delta_sharing.rest_client.DataSharingRestClient, "list_files_in_table", list_then_revoke)
    # The client does not show the response: it reports a missing file, or a broken Parquet file.
    with pytest.raises((FileNotFoundError, pa.ArrowInvalid)):
        delta_sharing.load_as_pandas(door.url(rates, "rates"), use_delta_format=delta)
    files = [entry for entry in usage.usage() if entry.operation == "file"]
    assert files
    assert all((e.status, e.allowed, e.bytes) == (403, False, 0) and "revoked" in str(e.reason) for e in files)


@BOTH_FORMATS
def test_a_recalled_release_is_not_served(door: Door, delta: bool) -> None:
    build("rates", days(2))
    release("rates", "1.0.0")
    build("rates", days(3), mode="overwrite")
    wrong = release("rates", "1.0.1")
    url = door.url(door.grant("rates")[1], "rates")
    assert len(delta_sharing.load_as_pandas(url, use_delta_format=delta)) == 3
    recall(wrong)
    assert len(delta_sharing.load_as_pandas(url, use_delta_format=delta)) == 2
    assert delta_sharing.get_table_version(url) == 0
    _refused(lambda: delta_sharing.load_as_pandas(url, version=1, use_delta_format=delta), "400", "is not shared")
    changes = delta_sharing.load_table_changes_as_pandas(url, starting_version=0, use_delta_format=delta)
    assert changes["_commit_version"].unique().tolist() == [0]
    build("rates", days(4), mode="overwrite")
    release("rates", "1.0.2")
    # Changes of the recalled release are left out, neither inserted nor deleted.
    changes = delta_sharing.load_table_changes_as_pandas(url, starting_version=0, use_delta_format=delta)
    assert changes.groupby(["_change_type", "_commit_version"]).size().to_dict() == {
        ("insert", 0): 2,
        ("insert", 2): 4,
        ("delete", 2): 2,
    }


def test_a_product_with_only_recalled_releases_is_refused(door: Door) -> None:
    build("rates", days(2))
    only = release("rates", "1.0.0")
    url = door.url(door.grant("rates")[1], "rates")
    recall(only)
    _refused(lambda: delta_sharing.load_as_pandas(url), "403", "every release of rates has been recalled")


def test_buyers_get_what_the_release_step_released(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.lake import engine
    from tests.exchange.checked import PRODUCT, Desk, meters

    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(door.folder / "catalogue"))
    desk = Desk(door.folder / "catalogue")
    desk.declare()
    try:
        for rows in (meters(("a b:1", 1, 1.0), ("ü", 1, 2.0)), meters(("a b:1", 1, 1.5), ("ü", 1, 2.0), ("c", 2, 3.0))):
            desk.land(str(rows))
            desk.ship(rows, partition_by=["meter"])
    finally:
        engine.close()
    url = door.url(door.grant(PRODUCT)[1], PRODUCT)
    for delta in (True, False):
        for version, expected in ((0, [1.0, 2.0]), (None, [1.5, 2.0, 3.0])):
            frame = delta_sharing.load_as_pandas(url, version=version, use_delta_format=delta)
            assert sorted(float(value) for value in frame[frame.columns[-1]]) == expected
