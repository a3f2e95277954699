"""The registry's queries on a real database file, without an engine."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import NoResultFound

from jobs.errors import Locked
from jobs.exchange import usage
from jobs.lake.pointers import advance, checked, confirm, drop_pointer, move, rebase
from jobs.registry import engine, reading, transaction
from jobs.registry.checks import grades, latest_checks
from jobs.registry.landings import (
    add_landing,
    digests_up_to,
    landed_by_source,
    landings_in,
    newest_by_address,
    note_again,
    paths_by_digest,
)
from jobs.registry.leases import lease_of, take_lease
from jobs.registry.models import Check, Landing, Pointer, Recall, Release, Run, UsageDay
from jobs.registry.pointers import pointer, pointers
from jobs.registry.releases import (
    first_since_in,
    last_recalls,
    latest_before_in,
    latest_by_in,
    latest_in,
    newest_published,
    newest_published_in,
    newest_release,
    newest_terms,
    newest_versions_in,
    numbers_in,
    pinned,
    pinned_versions,
    published_in,
    published_releases,
    record_release,
    release_numbered,
    release_of_version,
    released_as_in,
    released_between_in,
    released_versions,
    releases_of,
    releases_with_changes,
    set_recalled,
    states_in,
)
from jobs.registry.runs import (
    count_old_runs,
    delete_old_runs,
    last_released_version,
    last_run_id,
    latest_runs,
    list_runs,
    runs_after,
)
from jobs.registry.transfer import Conflict, copy_records, records_in_the_way
from jobs.registry.usage import count_old_usage, fold_old_usage
from jobs.settings import settings

NOW = datetime(2026, 11, 22, 16, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EXCHANGE_DATABASE_URL", raising=False)
    return tmp_path / "home"


def release_row(number: str, version: int, product: str = "rates", **columns: Any) -> Release:
    major, minor, patch = map(int, number.split("."))
    return Release(
        product=product, major=major, minor=minor, patch=patch, delta_version=version, manifest_sha256="",
        manifest=columns.pop("manifest", {"files": [{"path": f"f{version}"}], "diff": {"added": version}}),
        credential="token", rows=1, bytes=1, grade="A", licence="CC0-1.0", released_at=columns.pop("at", NOW),
        **columns,
    )  # fmt: skip


def check_row(table: str, version: int, grade: str = "A") -> Check:
    return Check(
        table_name=table, delta_version=version, contract_digest=f"contract {version}", suite_digest="",
        result_sha256="", passed=True, score=100.0, grade=grade, dimensions={}, scope=None, run_id="r", checked_at=NOW,
    )  # fmt: skip


def landing_row(source: str, sha256: str, at: datetime = NOW) -> Landing:
    return Landing(
        source=source, sha256=sha256, path=f"landing/{sha256}", file_name="x.csv", size=1, fetched_at=at,
        logical_date=at, run_id="r",
    )  # fmt: skip


def run_row(name: str, step: str, status: str = "succeeded", at: datetime = NOW, version: int | None = None) -> Run:
    return Run(
        run_id="r", step=step, kind="source", name=name, logical_date=at, started_at=at, status=status,
        output_version=version, input={"tables": {}},
    )  # fmt: skip


def add(*rows: Any) -> None:
    with transaction() as session:
        for row in rows:
            session.add(row)
            # Insert in this order: the unit of work would choose its own.
            session.flush()


def passed(table: str, version: int, grade: str = "A", inputs: dict[str, int] | None = None) -> None:
    """Move a table's pointer to a version, as a passed check does."""
    move(
        table, version, check=check_row(table, version, grade), landing_id=version,
        inputs={"tables": inputs, "query": "q"} if inputs else None, run_id="r",
    )  # fmt: skip


def test_releases_are_ordered_by_number_not_by_insertion() -> None:
    for number, version in (("1.10.0", 3), ("1.2.0", 2), ("1.0.0", 1)):
        assert record_release(release_row(number, version))
    assert [row.number for row in releases_of("rates")] == ["1.10.0", "1.2.0", "1.0.0"]
    newest = newest_release("rates")
    assert newest is not None and newest.number == "1.10.0" and newest.manifest["files"] == [{"path": "f3"}]
    assert newest_published()["rates"].number == "1.10.0"
    assert [row.number for row in published_releases()] == ["1.0.0", "1.2.0", "1.10.0"]
    with reading() as session:
        assert numbers_in(session, "rates") == [(1, 10, 0), (1, 2, 0), (1, 0, 0)]
    assert (newest_release("loads"), releases_of("loads")) == (None, [])


def test_a_number_is_given_once() -> None:
    assert record_release(release_row("1.0.0", 1))
    assert not record_release(release_row("1.0.0", 2))
    first = release_numbered("rates", (1, 0, 0))
    assert first is not None and first.delta_version == 1
    assert release_numbered("rates", (1, 0, 1)) is None


def test_a_recalled_release_is_kept_but_not_published() -> None:
    for product, number, version in (("rates", "1.0.0", 1), ("rates", "1.1.0", 2), ("loads", "1.0.0", 1)):
        record_release(release_row(number, version, product))
    for row in releases_of("rates"):
        assert set_recalled(row.id, Recall(recalled=True, by="ann", at=NOW, reason="wrong unit"))
        assert not set_recalled(row.id, Recall(recalled=True, by="ann", at=NOW, reason="again"))
    assert {event.reason for event in last_recalls().values()} == {"wrong unit"}
    record_release(release_row("1.1.1", 0))
    with reading() as session:
        newest = newest_published_in(session, "rates")
        assert newest is not None and newest.number == "1.1.1"
        assert [(row.product, row.number) for row in published_in(session)] == [("loads", "1.0.0"), ("rates", "1.1.1")]
        recalled = release_of_version("rates", 2)
        assert recalled is not None
        states = states_in(session, {recalled.id, 99})
    assert {number: (s.product, s.delta_version, s.status) for number, s in states.items()} == {
        recalled.id: ("rates", 2, "recalled")
    }
    assert pinned_versions("rates") == {0, 1, 2}
    assert {(r.delta_version, r.files) for r in released_versions("rates")} == {(v, (f"f{v}",)) for v in (0, 1, 2)}
    assert [row.status for row in releases_of("rates")] == ["published", "recalled", "recalled"]


def test_the_terms_of_the_newest_release_are_read_without_its_files() -> None:
    terms = {"title": "t", "cautions": ["c"], "licence": {"id": "l"}, "sources": []}
    record_release(release_row("1.9.0", 1, manifest={"title": "old", "files": ["f"]}))
    record_release(release_row("1.10.0", 2, manifest={**terms, "files": ["f"]}))
    assert newest_terms("rates") == terms
    assert newest_terms("nothing") is None


def test_listing_releases_reads_only_the_changes_of_each_manifest() -> None:
    record_release(release_row("1.0.0", 1, manifest={"files": ["f"]}))
    record_release(release_row("1.1.0", 2))
    record_release(release_row("1.0.0", 7, "loads"))
    listed = releases_with_changes()
    assert [(row.product, row.number, changes) for row, changes in listed] == [
        ("loads", "1.0.0", {"added": 7}), ("rates", "1.1.0", {"added": 2}), ("rates", "1.0.0", {}),
    ]  # fmt: skip
    assert [row.product for row, _ in releases_with_changes("loads")] == ["loads"]
    with pytest.raises(Exception, match="manifest"):
        _ = listed[0][0].manifest


def test_a_release_pins_a_version_and_its_files() -> None:
    record_release(release_row("1.0.0", 4))
    content = pinned(releases_of("rates")[0].id)
    assert (content.product, content.delta_version, content.manifest["files"]) == ("rates", 4, [{"path": "f4"}])
    with pytest.raises(NoResultFound):
        pinned(99)
    assert release_of_version("rates", 5) is None


def test_a_pointer_has_its_check_and_grade() -> None:
    passed("silver.rates", 3, "B")
    passed("gold.rates", 5, "C", {"silver.rates": 3})
    add(check_row("gold.rates", 6, "E"))
    stored = pointer("gold.rates")
    assert stored is not None and stored.check is not None
    assert (stored.delta_version, stored.check.grade) == (5, "C")
    assert [row.table_name for row in pointers()] == ["gold.rates", "silver.rates"]
    assert grades() == {"silver.rates": "B", "gold.rates": "C"}
    assert [row.delta_version for row in latest_checks("gold.rates", 10)] == [6, 5]
    assert [row.delta_version for row in latest_checks("gold.rates", 1)] == [6]
    assert pointer("gold.loads") is None


def test_a_pointer_is_read_with_one_statement() -> None:
    passed("silver.rates", 3)
    statements: list[str] = []

    def count(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(engine(), "before_cursor_execute", count)
    try:
        assert checked("silver.rates").check is not None
    finally:
        event.remove(engine(), "before_cursor_execute", count)
    assert sum(statement.lstrip().upper().startswith("SELECT") for statement in statements) == 1


def test_inputs_of_products_follow_a_rebased_or_dropped_pointer() -> None:
    passed("silver.rates", 3)
    passed("gold.current", 1, inputs={"silver.rates": 3, "silver.other": 9})
    passed("gold.late", 1, inputs={"silver.rates": 2})
    passed("gold.apart", 1, inputs={"silver.other": 3})
    rebase("silver.rates", 4)
    tables = {row.table_name: (row.inputs or {}).get("tables") for row in pointers()}
    assert tables == {
        "gold.apart": {"silver.other": 3},
        "gold.current": {"silver.rates": 4, "silver.other": 9},
        "gold.late": {"silver.rates": 2},
        "silver.rates": None,
    }
    drop_pointer("silver.rates")
    inputs = {row.table_name: row.inputs for row in pointers()}
    assert inputs == {
        "gold.apart": {"tables": {"silver.other": 3}, "query": "q"},
        "gold.current": {"tables": {"silver.rates": -1, "silver.other": 9}, "query": None},
        "gold.late": {"tables": {"silver.rates": -1}, "query": None},
    }


def test_confirming_a_pointer_sets_its_check_and_advancing_sets_its_landing() -> None:
    passed("silver.rates", 3)
    confirm("silver.rates", check_row("silver.rates", 3, "D"))
    advance("silver.rates", landing_id=8)
    stored: Pointer = checked("silver.rates")
    assert stored.check is not None
    assert (stored.check.grade, stored.landing_id, stored.delta_version) == ("D", 8, 3)


def test_a_lease_is_exclusive_renewable_and_free_once_expired() -> None:
    assert take_lease("s3://lake", "one", now=NOW, until=NOW + HOUR)
    assert not take_lease("s3://lake", "two", now=NOW, until=NOW + HOUR)
    assert take_lease("s3://other", "two", now=NOW, until=NOW + HOUR)
    assert take_lease("s3://lake", "one", now=NOW, until=NOW + 2 * HOUR)
    lease = lease_of("s3://lake")
    assert (lease.writer, lease.held_until) == ("one", NOW + 2 * HOUR)
    assert not take_lease("s3://lake", "two", now=NOW + 2 * HOUR, until=NOW + 3 * HOUR)
    assert take_lease("s3://lake", "two", now=NOW + 2 * HOUR + timedelta(seconds=1), until=NOW + 3 * HOUR)
    assert lease_of("s3://lake").writer == "two"
    with pytest.raises(NoResultFound):
        lease_of("s3://none")


def test_landed_files_by_source_and_up_to_a_landing() -> None:
    # The newest to arrive need not be the newest by the clock.
    add(landing_row("rates", "a", NOW), landing_row("loads", "b"), landing_row("rates", "c", NOW - HOUR))
    landed = landed_by_source()
    assert {name: (each.files, each.last_at) for name, each in landed.items()} == {
        "loads": (1, NOW), "rates": (2, NOW - HOUR),
    }  # fmt: skip
    assert digests_up_to({"rates": 2, "loads": 2}) == {"a", "b"}
    assert digests_up_to({}) == set()
    with reading() as session:
        assert [x.sha256 for x in landings_in(session, "rates")] == ["a", "c"]
    assert paths_by_digest() == {"rates": {"a": "landing/a", "c": "landing/c"}, "loads": {"b": "landing/b"}}


def test_a_compacted_version_has_the_check_of_the_rows_that_it_kept() -> None:
    passed("gold.rates", 5, "B")
    passed("gold.loads", 2, inputs={"gold.rates": 5})
    rebase("gold.rates", 6)
    moved = pointer("gold.rates")
    assert moved is not None and moved.check is not None
    assert (moved.delta_version, moved.check.delta_version) == (6, 6)
    assert (moved.check.grade, moved.check.checked_at) == ("B", NOW)
    assert [row.delta_version for row in latest_checks("gold.rates", 10)] == [6, 5]
    reader = pointer("gold.loads")
    assert reader is not None and reader.inputs == {"tables": {"gold.rates": 6}, "query": "q"}


def test_arrivals_of_the_same_bytes_are_numbered_and_share_their_place() -> None:
    for sha256, url in (("a", "x"), ("b", "x"), ("a", "x"), ("a", "y")):
        landing = landing_row("rates", sha256)
        landing.url, landing.etag, landing.path = url, f"{sha256} at {url}", f"kept/{url}"
        add_landing(landing)
    with reading() as session:
        assert [(x.tag, x.path) for x in landings_in(session, "rates")] == [
            ("a", "kept/y"), ("b", "kept/x"), ("a.2", "kept/y"), ("a.3", "kept/y"),
        ]  # fmt: skip
    newest = newest_by_address("rates")
    assert {url: (x.tag, x.etag) for url, x in newest.items()} == {"x": ("a.2", "a at x"), "y": ("a.3", "a at y")}
    note_again(newest["y"], "kept/z", "W/2")
    assert {x.path for x in newest_by_address("rates").values()} == {"kept/z"}
    assert newest_by_address("rates")["y"].etag == "W/2"
    assert newest_by_address("loads") == {}


def test_runs_are_listed_newest_first_and_filtered() -> None:
    assert (last_run_id(), latest_runs(limit=5)) == (0, [])
    add(run_row("rates", "land"), run_row("rates", "silver", "failed"), run_row("loads", "land", "unchanged"))
    assert [row.id for row in latest_runs(limit=2)] == [3, 2]
    assert [row.id for row in latest_runs(name="rates", limit=5)] == [2, 1]
    assert [row.id for row in latest_runs(step="land", limit=5)] == [3, 1]
    assert [row.id for row in latest_runs(status="failed", limit=5)] == [2]
    assert last_run_id() == 3
    assert [row.id for row in runs_after(1)] == [2, 3]


def test_a_version_with_an_unchanged_release_run_counts_as_released() -> None:
    assert last_released_version("rates") is None
    add(run_row("rates", "release", version=4), run_row("rates", "release", "unchanged", version=5))
    add(run_row("rates", "release", "failed", version=6), run_row("rates", "gold", version=7))
    assert last_released_version("rates") == 5


def test_runs_are_listed_with_column_types_and_without_inputs() -> None:
    add(run_row("rates", "gold", version=7))
    listing = list_runs()
    row = dict(zip([name for name, _ in listing.columns], listing.rows[0], strict=True))
    assert (row["name"], row["output_version"], row["started_at"]) == ("rates", 7, NOW)
    types = dict(listing.columns)
    assert (types["id"], types["started_at"], types["message"]) == ("bigint", "timestamp", "string")
    assert "input" not in types


def test_old_runs_are_deleted_except_the_newest_of_each_step() -> None:
    old = NOW - 2 * HOUR
    add(run_row("rates", "land", at=old), run_row("rates", "land", at=old), run_row("rates", "silver", at=old))
    add(run_row("rates", "land", at=NOW), run_row("loads", "land", at=old))
    assert count_old_runs(NOW - HOUR) == 2
    assert delete_old_runs(NOW - HOUR) == 2
    assert [row.id for row in latest_runs(limit=9)] == [5, 4, 3]
    assert delete_old_runs(NOW - HOUR) == 0


def test_records_keep_their_ids_and_are_copied_only_into_an_empty_registry(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(run_row("rates", "land"), run_row("rates", "silver"), landing_row("rates", "a"))
    with transaction() as session:
        session.delete(session.get_one(Run, 1))
    take_lease("s3://lake", "one", now=NOW, until=NOW + HOUR)
    passed("silver.rates", 3)
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "other"))
    old = home / "registry.db"
    assert records_in_the_way(old) is None
    assert copy_records(old) == 4
    assert [row.id for row in latest_runs(limit=5)] == [2]
    assert checked("silver.rates").check is not None
    with pytest.raises(NoResultFound):
        lease_of("s3://lake")
    assert (records_in_the_way(old), copy_records(old)) == (None, 0)
    add(run_row("loads", "land"))
    assert records_in_the_way(old) == Conflict("runs", 2)


def test_a_request_finds_its_release_by_index() -> None:
    """Whatever the number of releases: the plan reads one of them, through an index."""
    for number in range(4):
        record_release(release_row(f"1.{number}.0", number // 2, at=NOW + number * HOUR))
    record_release(release_row("2.0.0", 9, at=NOW + 9 * HOUR, status="recalled"))
    statements: list[tuple[str, Any]] = []
    bind = engine()
    event.listen(bind, "before_cursor_execute", lambda _c, _k, sql, values, *_: statements.append((sql, values)))
    with reading() as session:
        at = [latest_in(session, "rates"), released_as_in(session, "rates", 0), latest_before_in(session, "rates", 1)]
        by = [latest_by_in(session, "rates", NOW + 2.5 * HOUR), first_since_in(session, "rates", NOW + 0.5 * HOUR)]
        assert latest_by_in(session, "rates", NOW - HOUR) is None
        assert released_as_in(session, "rates", 9) is None, "it was recalled"
        assert [r.number for r in released_between_in(session, "rates", 0, 1)] == ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]
        assert [r.number for r in newest_versions_in(session, "rates", 3)] == ["1.1.0", "1.2.0", "1.3.0"]
    assert [release.number for release in (*at, *by) if release] == ["1.3.0", "1.1.0", "1.1.0", "1.2.0", "1.1.0"]
    with bind.connect() as connection:
        for sql, values in statements:
            if sql.startswith("SELECT"):
                plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)]
                assert plan[0].startswith("SEARCH releases USING INDEX ix_releases_product_status_"), (sql, plan)


def test_old_usage_becomes_sums_per_day_and_counts_once() -> None:
    old, today = NOW - timedelta(days=40), NOW
    requests = [
        usage.Request("file", buyer="acme", product="rates", version=version, files=1, bytes=10, at=at)
        for at in (old, old + HOUR, old + timedelta(days=1), today)
        for version in (1, 1, 2)
    ]
    denied = usage.Request("file", buyer="acme", product="rates", version=1, allowed=False, status=403, at=old)
    refused = [usage.Refusal(at, at, "192.0.2.1", "list", 401, "no token", 1000) for at in (old, today)]
    usage.record_all([*requests, denied], refusals=refused)
    before = usage.summary()
    cut = NOW - timedelta(days=30)
    assert count_old_usage(cut) == 11 and fold_old_usage(cut) == 11
    assert usage.summary() == before
    assert {(total.product, total.requests, total.denied, total.bytes) for total in before} == {
        ("rates", 13, 1, 120), (None, 2000, 2000, 0),
    }  # fmt: skip
    with reading() as session:
        days = [(str(d.day), d.version, d.requests, d.denied, d.bytes) for d in session.query(UsageDay)]
    first, second = str(old.date()), str((old + timedelta(days=1)).date())
    assert sorted(days, key=str) == sorted(
        [(first, 1, 5, 1, 40), (first, 2, 2, 0, 20), (second, 1, 2, 0, 20), (second, 2, 1, 0, 10),
         (first, None, 1000, 1000, 0)], key=str,
    )  # fmt: skip
    # What is late for a day that has its sums already is added to them.
    usage.record_all([usage.Request("file", buyer="acme", product="rates", version=2, bytes=5, at=old)])
    assert fold_old_usage(cut) == 1 and fold_old_usage(cut) == 0
    assert {t.product: t.bytes for t in usage.summary(buyer="acme")} == {"rates": 125}
    assert len(usage.usage()) == 3 and len(usage.refusals()) == 1


def test_upkeep_folds_what_is_past_its_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.operate.upkeep import _fold_old_usage

    monkeypatch.setenv("EXCHANGE_KEEP_USAGE_DAYS", "30")
    today = datetime.now(UTC)
    usage.record_all([usage.Request("list", at=today - timedelta(days=days)) for days in (0, 29, 32, 50)])
    assert [_fold_old_usage(dry_run=True), _fold_old_usage(dry_run=False), _fold_old_usage(dry_run=True)] == [2, 2, 0]
    assert len(usage.usage()) == 2 and usage.summary()[0].requests == 4


def test_nobody_waits_longer_for_a_locked_registry_than_asked() -> None:
    with reading():
        pass
    with sqlite3.connect(settings().home / "registry.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Locked, match=r"more than 0\.05 seconds"):
            usage.record_all([usage.Request("list")], patience=0.05)
        with reading(patience=0.05) as session:
            assert published_in(session) == [], "readers do not wait for writers"
        other.execute("ROLLBACK")
    usage.record(usage.Request("list"))
    assert len(usage.usage()) == 1
