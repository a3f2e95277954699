"""A release is made once from a checked version, is numbered by what changed, and never changes."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from deltalake import DeltaTable
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs import registry
from jobs.check import blocked
from jobs.declared.columns import dictionary_file
from jobs.declared.contract import contract_file, load_contract
from jobs.errors import (
    AcceptanceNeeded,
    ExchangeError,
    ExpectationsFailed,
    Locked,
    NotFound,
    Tampered,
    Unfinished,
)
from jobs.lake import close
from jobs.lake.pointers import move
from jobs.registry import reading, transaction
from jobs.registry.checks import add_check
from jobs.registry.locks import hold
from jobs.registry.models import Check, Release, Run
from jobs.registry.releases import pinned_versions, releases_of
from jobs.registry.runs import StepOutcome, recorded
from jobs.release import archive, credential
from jobs.release.difference import Fingerprint, Side, difference, fingerprint, rows_of
from jobs.release.lineage import lineage
from jobs.release.manifest import Manifest, digest
from jobs.release.recall import recall
from jobs.release.snapshot import snapshot
from jobs.release.step import compare, find, is_released, rows_of_difference, run
from jobs.release.verify import verify
from jobs.settings import settings
from tests.exchange.checked import CAUTIONS, NOW, PRODUCT, SOURCE, Desk, meters


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[None]:
    """One engine for the module."""
    yield
    close()


@pytest.fixture
def desk(home_with_registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """An exchange with a declared product and one landed file."""
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "catalogue"))
    desk = Desk(tmp_path / "catalogue")
    assert settings().home == home_with_registry
    desk.declare()
    desk.land("meter,day,kwh\n")
    return desk


FIRST = meters(("a", 1, 1.0), ("a", 2, 2.0), ("b", 1, None))


def manifest_of(number: str) -> dict[str, Any]:
    return json.loads((settings().releases / PRODUCT / number / "manifest.json").read_bytes())


def test_first_release_describes_everything_and_is_signed(desk: Desk) -> None:
    landed = desk.land("a,1,1\n")
    shipped = desk.ship(FIRST)
    assert (shipped.number, shipped.rows, shipped.grade, shipped.is_new) == ("1.0.0", 3, "A", True)

    manifest = manifest_of("1.0.0")
    assert manifest["table"]["path"] == f"lake/gold/{PRODUCT}"
    assert manifest["table"]["key"] == ["meter", "day"]
    assert manifest["table"]["schema"][0] == {"name": "meter", "type": "string", "nullable": False}
    assert sum(f["rows"] for f in manifest["files"]) == 3
    for file in manifest["files"]:
        data = (desk.table / file["path"]).read_bytes()
        assert (digest(data), len(data)) == (file["sha256"], file["size"])
    digests = manifest["landed"]
    assert landed in digests and len(digests) == 2 and digests == sorted(digests)
    assert manifest["inputs"] == [{"table": f"silver.{SOURCE}", "delta_version": 0}]
    assert manifest["licence"]["id"] == "CC-BY-4.0"
    assert [(s["source"], s["licence"]["id"]) for s in manifest["sources"]] == [(SOURCE, "ODbL-1.0")]
    assert manifest["diff"] == {"against": None, "added": 3, "removed": 0, "changed": 0, "schema": []}
    assert manifest["released_at"] == "2026-03-03T12:30:15.123456Z"

    row = find(PRODUCT)
    token = (settings().releases / PRODUCT / "1.0.0" / "certificate.jwt").read_text()
    assert (row.number, row.credential, row.manifest) == ("1.0.0", token, manifest)
    document = credential.check(token, credential.public_key(), kind="DataReleaseCredential")
    assert document["credentialSubject"]["manifestSha256"] == row.manifest_sha256
    assert document["validFrom"] == manifest["released_at"]


def test_files_of_a_release_are_complete_and_read_only(desk: Desk) -> None:
    folder = settings().releases / PRODUCT
    # What processes left that were killed while they stored a release, and a recall.
    (folder / ".1.0.0.x").mkdir(parents=True)
    (folder / ".1.0.0.recalls.json.1.x").touch()
    desk.ship(FIRST)
    assert [p.name for p in folder.iterdir()] == ["1.0.0"]
    names = {p.name: p.stat().st_mode & 0o777 for p in (folder / "1.0.0").iterdir()}
    assert names == dict.fromkeys(("manifest.json", "certificate.jwt", "contract.yaml", "evidence.json"), 0o444)


@pytest.mark.parametrize(
    ("after", "number", "counts", "schema"),
    [
        (
            meters(*FIRST.to_pylist()[0:0], ("a", 1, 1.0), ("a", 2, 2.0), ("b", 1, None), ("b", 2, 4.0)),
            "1.1.0",
            (1, 0, 0),
            [],
        ),
        (meters(("a", 1, 1.5), ("a", 2, 2.0), ("b", 1, None)), "1.0.1", (0, 0, 1), []),
        (meters(("a", 1, 1.0), ("a", 2, None), ("b", 1, 0.0)), "1.0.1", (0, 0, 2), []),
        (meters(("a", 1, 1.0), ("a", 2, 2.0)), "1.0.1", (0, 1, 0), []),
        (meters(("c", 1, 1.0)), "1.1.0", (1, 3, 0), []),
        (
            meters(("a", 1, 1.0, 9.0), ("a", 2, 2.0, 9.0), ("b", 1, None, 9.0), names=("meter", "day", "kwh", "kw")),
            "1.1.0",
            (0, 0, 0),
            ["column_added"],
        ),
        (meters(("a", 1), ("a", 2), ("b", 1), names=("meter", "day")), "2.0.0", (0, 0, 0), ["column_removed"]),
        (
            FIRST.set_column(1, "day", pa.array([1, 2, 1], pa.int32())),
            "2.0.0",
            (0, 0, 0),
            ["type_changed"],
        ),
        (
            FIRST.set_column(2, "kwh", pa.array(["1.0", "2.0", None])),
            "2.0.0",
            (0, 0, 0),
            ["type_changed"],
        ),
    ],
)
def test_the_number_depends_on_what_changed(
    desk: Desk, after: pa.Table, number: str, counts: tuple[int, int, int], schema: list[str]
) -> None:
    desk.ship(FIRST)
    shipped = desk.ship(after)
    assert (shipped.number, shipped.is_new, shipped.diff.against) == (number, True, "1.0.0")
    assert (shipped.diff.added, shipped.diff.removed, shipped.diff.changed) == counts
    assert [change.kind for change in shipped.diff.shape] == schema
    # The incrementally updated fingerprint equals that of the whole table.
    whole = fingerprint(snapshot(f"gold.{PRODUCT}", shipped.delta_version))
    assert manifest_of(number)["content"]["fingerprint"] == str(whole)


def test_a_changed_key_or_loosened_promise_is_a_breaking_change(desk: Desk) -> None:
    rows = meters(("a", 1, 1.0), ("b", 2, 2.0))
    desk.ship(rows, required=("kwh",))
    looser = desk.ship(rows)
    assert (looser.number, [c.kind for c in looser.diff.shape]) == ("2.0.0", ["may_be_absent"])
    stricter = desk.ship(rows, required=("kwh",))
    assert (stricter.number, [c.kind for c in stricter.diff.shape]) == ("2.0.1", ["always_present"])
    rekeyed = desk.ship(rows, key=("meter",), required=("kwh", "day"))
    assert (rekeyed.number, rekeyed.diff.shape[0].kind) == ("3.0.0", "key_changed")
    assert (rekeyed.diff.added, rekeyed.diff.removed) == (2, 2)


def test_the_same_rows_make_no_new_release(desk: Desk) -> None:
    first = desk.ship(FIRST)
    again = desk.release()
    assert (again.number, again.is_new, again.diff) == (first.number, False, first.diff)
    # Rebuilt in other files and another order of rows and columns: the same rows are the same release.
    rebuilt = desk.ship(FIRST.take([2, 0, 1]).select(["kwh", "meter", "day"]))
    assert (rebuilt.number, rebuilt.is_new, rebuilt.delta_version) == ("1.0.0", False, first.delta_version)
    assert len(releases_of(PRODUCT)) == 1
    assert pinned_versions(PRODUCT) == {first.delta_version}


def test_changed_terms_make_a_patch_of_the_same_rows(desk: Desk) -> None:
    first = desk.ship(FIRST)
    assert is_released_by_now(desk) and "terms" not in manifest_of("1.0.0")["diff"]
    desk.declare(licence="CC0-1.0", redistribution="derived_only")
    assert not is_released_by_now(desk)
    patch = desk.release()
    assert (patch.number, patch.is_new, patch.delta_version) == ("1.0.1", True, first.delta_version)
    assert manifest_of("1.0.1")["diff"] == {
        "against": "1.0.0", "added": 0, "removed": 0, "changed": 0, "schema": [],
        "terms": [
            {"name": "licence", "before": "CC-BY-4.0", "after": "CC0-1.0"},
            {"name": f"{SOURCE}: redistribution", "before": "yes", "after": "derived_only"},
        ],
    }  # fmt: skip
    assert compare(PRODUCT, "1.0.0", "1.0.1").terms == patch.diff.terms
    assert is_released_by_now(desk) and not desk.release().is_new
    assert verify(PRODUCT, "1.0.0").ok and verify(PRODUCT).ok

    # New rows under new terms are one release; a caution that was dropped is a change, too.
    desk.declare(licence="CC0-1.0", redistribution="derived_only", cautions=[CAUTIONS[0]])
    more = desk.ship(pa.concat_tables([FIRST, meters(("z", 9, 1.0))]))
    assert (more.number, [t.name for t in more.diff.terms]) == ("1.1.0", ["caution 2"])


def test_changed_terms_do_not_sell_a_recalled_release_again_unasked(desk: Desk) -> None:
    desk.ship(FIRST)
    recall(find(PRODUCT), reason="the meters were wrong", by="staff")
    desk.declare(licence="CC0-1.0")
    with pytest.raises(AcceptanceNeeded, match=r"1\.0\.0 was recalled, and only the terms have changed since"):
        desk.release(accept=None)
    assert desk.release(accept="only the licence was wrong").number == "1.0.1"


def test_withdrawn_rights_leave_the_release_but_are_told(desk: Desk) -> None:
    desk.ship(FIRST)
    desk.declare(redistribution="no")
    assert not is_released_by_now(desk)
    with pytest.raises(ExchangeError, match=f"the rights to '{SOURCE}' do not allow a release"):
        desk.release()
    assert find(PRODUCT).status == "published"


def is_released_by_now(desk: Desk) -> bool:
    """As a round asks; the desk's own releases leave no record of a run, so one is added."""
    with transaction() as db:
        db.add(
            Run(
                run_id="r", step="release", kind="product", name=PRODUCT, table_name=desk.product.table,
                logical_date=NOW, started_at=NOW, status="succeeded", output_version=find(PRODUCT).delta_version,
            )
        )  # fmt: skip
    return is_released(desk.product)


def test_a_release_needs_a_passed_check_terms_rights_and_the_lock(desk: Desk) -> None:
    with pytest.raises(NotFound, match="no checked version"):
        desk.release()
    version = desk.build(FIRST)
    desk.passes(version, passed=False)
    with pytest.raises(ExpectationsFailed, match=r"blocked since .* its expectations failed"):
        desk.release()
    desk.passes(version)
    file = contract_file(f"gold.{PRODUCT}")
    checked = file.read_text()
    file.write_text(checked.replace("status: active", "status: draft # longer"))
    with pytest.raises(ExpectationsFailed, match="the contract was changed since"):
        desk.release()
    file.write_text(checked)
    desk.declare(licence="unknown")
    with pytest.raises(ExchangeError, match="names no terms"):
        desk.release()
    desk.declare(redistribution="unknown")
    with pytest.raises(ExchangeError, match=f"the rights to '{SOURCE}' do not allow a release"):
        desk.release()
    desk.declare(redistribution="derived_only")
    with hold(f"release.{PRODUCT}"), pytest.raises(Locked):
        desk.release()
    assert releases_of(PRODUCT) == [] and not list((settings().releases).glob("*/*"))
    assert desk.release().number == "1.0.0"


def test_a_draft_is_held_back_but_does_not_fail(desk: Desk) -> None:
    desk.passes(desk.build(FIRST))
    desk.declare(status="draft")
    with pytest.raises(Unfinished, match=r"product\.yaml:\d+ \(status\): the product is a draft"):
        desk.release()
    outcome = run(desk.product, NOW, "r")
    assert (outcome.status, outcome.release) == ("unchanged", None)
    assert "not released, its declarations are unfinished" in str(outcome.message)
    assert releases_of(PRODUCT) == []
    desk.declare()
    assert run(desk.product, NOW, "r").release == "1.0.0"


def test_a_release_that_breaks_or_shrinks_the_one_before_waits_for_a_person(desk: Desk) -> None:
    rows = [("a", day, 1.0) for day in range(100)]
    desk.ship(meters(*rows))
    manifest = manifest_of("1.0.0")
    assert "accepted" not in manifest["diff"], "no one had to accept anything"

    # Five of a hundred may leave, by default; the sixth needs a person.
    desk.passes(desk.build(meters(*rows[5:])))
    assert desk.release(accept=None).number == "1.0.1"
    desk.passes(desk.build(meters(*rows[10:])))
    with pytest.raises(AcceptanceNeeded, match=r"5 of the 95 rows are gone \(5\.26%, at most 5\.00%\)") as held:
        desk.release(accept=None)
    assert f'exchange release {PRODUCT} --accept --reason "…"' in str(held.value)
    assert find(PRODUCT).number == "1.0.1"
    # As many new rows do not make up for those that left.
    desk.passes(desk.build(meters(*rows[10:], *[("b", day, 1.0) for day in range(5)])))
    with pytest.raises(AcceptanceNeeded, match="5 of the 95"):
        desk.release(accept=None)
    accepted = desk.release(accept="the meters were returned")
    assert (accepted.number, manifest_of("1.1.0")["diff"]["accepted"]) == ("1.1.0", "the meters were returned")
    assert verify(PRODUCT).ok and verify(PRODUCT, "1.0.0").ok

    narrower = meters(*[row[:2] for row in rows[10:]], *[("b", day) for day in range(5)], names=("meter", "day"))
    desk.passes(desk.build(narrower))
    with pytest.raises(AcceptanceNeeded, match=r"breaking changes: column removed \(kwh\)"):
        desk.release(accept=None)
    assert desk.release().number == "2.0.0"


def test_the_share_that_may_leave_is_declared(desk: Desk) -> None:
    desk.ship(FIRST)
    desk.declare(largest_loss=0.34)
    desk.passes(desk.build(FIRST.slice(1)))
    assert desk.release(accept=None).number == "1.0.1"
    desk.declare(largest_loss=0)
    desk.passes(desk.build(FIRST.slice(2)))
    with pytest.raises(AcceptanceNeeded, match=r"at most 0\.00%"):
        desk.release(accept=None)


def test_a_failed_check_blocks_the_release_until_one_passes(desk: Desk) -> None:
    desk.ship(FIRST)
    table, silver = f"gold.{PRODUCT}", f"silver.{SOURCE}"
    assert blocked([table, silver]) == {}

    def fail(table: str, version: int, hour: int, rule: str) -> None:
        check = desk.check(table, version, "0" * 64, "E", "0" * 64, False)
        check.checked_at = datetime(2026, 3, 2, hour, tzinfo=UTC)
        check.scope = {"where": None, "failed": [f"{rule} (error: positive): 1 rows", "w.x (warning: y): 2 rows"]}
        add_check(check)

    fail(silver, 7, 5, "kwh.range")
    outcome = run(desk.product, NOW, "r")
    assert "as before; silver.meters is blocked since 2026-03-02 05:00 UTC, version 7 failed" in str(outcome.message)

    fail(table, 8, 6, "kwh.range")
    fail(table, 9, 7, "kwh.sum")
    message = r"blocked since 2026-03-02 06:00 UTC, version 9 failed: kwh\.sum \(error: positive\): 1 rows"
    with pytest.raises(ExpectationsFailed, match=message):
        desk.release()
    assert (blocked([table])[table].rules, set(blocked([table, silver]))) == ("kwh.sum", {table, silver})
    desk.passes(desk.build(FIRST.slice(1)))
    assert (desk.release().number, blocked([table, silver])) == ("1.0.1", {})


def test_changed_evidence_stops_a_release(desk: Desk) -> None:
    check = desk.passes(desk.build(FIRST))
    file = settings().evidence / f"{check.result_sha256}.json"
    file.write_text("{}")
    with pytest.raises(Tampered, match="evidence was changed"):
        desk.release()
    file.unlink()
    with pytest.raises(NotFound, match="no evidence with sha256"):
        desk.release()
    assert releases_of(PRODUCT) == []


def test_a_damaged_data_file_stops_a_release(desk: Desk) -> None:
    desk.passes(desk.build(FIRST))
    next(desk.table.glob("*.parquet")).write_bytes(b"short")
    with pytest.raises(ExchangeError):
        desk.release()
    assert releases_of(PRODUCT) == []


def test_duplicate_keys_stop_a_release(desk: Desk) -> None:
    desk.ship(FIRST)
    desk.passes(
        desk.build(meters(("a", 1, 1.0), ("a", 1, 2.0), ("a", 2, 2.0), ("b", 1, None), ("c", 1, 1.0), ("c", 1, 1.0)))
    )
    with pytest.raises(ExchangeError, match="do not make the 6"):
        desk.release()


def test_a_released_row_cannot_change(desk: Desk) -> None:
    desk.ship(FIRST)
    with pytest.raises(Tampered), transaction() as db:
        row = db.get_one(Release, find(PRODUCT).id)
        row.grade = "B"
        db.flush()


def test_a_recreated_table_is_detected(desk: Desk) -> None:
    desk.ship(FIRST)
    for file in sorted(desk.table.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    desk.table.rmdir()
    desk.build(FIRST)
    desk.passes(desk.build(meters(("z", 1, 1.0))))
    with pytest.raises(Tampered, match="was rebuilt since this release"):
        desk.release()


def months(first: int, count: int, kwh: float = 1.0) -> pa.Table:
    """Rows of some months, four per month."""
    rows = [(f"{m}", f"2026-{n:02}", kwh + m) for n in range(first, first + count) for m in range(4)]
    return pa.table({"meter": [r[0] for r in rows], "month": [r[1] for r in rows], "kwh": [r[2] for r in rows]})


def test_only_changed_partitions_are_read(desk: Desk) -> None:
    key = ("month", "meter")
    desk.ship(months(1, 6), key=key, partition_by=["month"])
    before = {f["path"]: f for f in manifest_of("1.0.0")["files"]}
    # Unchanged files must not be read: they are moved away.
    untouched = [p for p in before if "month=2026-03" not in p]
    for path in untouched:
        (desk.table / path).rename(desk.table / f"{path}.away")
    desk.passes(
        desk.build(
            months(3, 1, kwh=7.0), key=key, mode="overwrite", predicate="month = '2026-03'", partition_by=["month"]
        )
    )
    changed = desk.release()
    desk.passes(desk.build(months(7, 1), key=key, mode="append", partition_by=["month"]))
    grown = desk.release()
    assert (changed.number, changed.diff.changed) == ("1.0.1", 4)
    assert (grown.number, grown.diff.added, grown.rows) == ("1.1.0", 4, 28)
    for path in untouched:
        (desk.table / f"{path}.away").rename(desk.table / path)
    after = manifest_of("1.1.0")
    assert [before[p] for p in untouched] == [f for f in after["files"] if f["path"] in untouched]
    whole = fingerprint(snapshot(f"gold.{PRODUCT}", grown.delta_version))
    assert after["content"]["fingerprint"] == str(whole)


def test_partitions_by_date_and_by_names_to_escape(desk: Desk) -> None:
    def rows(*values: tuple[str, int, float]) -> pa.Table:
        days = pa.array([v[1] for v in values], pa.int32()).cast(pa.date32())
        return pa.table({"place": [v[0] for v in values], "day": days, "kwh": [v[2] for v in values]})

    key = ("place", "day")
    first = rows(("a b/%", 0, 1.0), ("香港", 1, 2.0), ("c", 2, 3.0))
    desk.ship(first, key=key, partition_by=["place", "day"])
    second = rows(("a b/%", 0, 1.5), ("香港", 1, 2.0), ("c", 2, 3.0))
    shipped = desk.ship(second, key=key, partition_by=["place", "day"])
    assert (shipped.number, shipped.diff.changed) == ("1.0.1", 1)
    only_dates = rows(("a b/%", 0, 1.5), ("香港", 1, 2.0), ("d", 2, 3.0))
    desk.passes(
        desk.build(
            only_dates.slice(2),
            key=key,
            mode="overwrite",
            predicate="day = '1970-01-03'",
            partition_by=["place", "day"],
        )
    )
    shipped = desk.release()
    assert (shipped.diff.added, shipped.diff.removed, shipped.diff.changed, shipped.rows) == (1, 1, 0, 3)
    paths = [f["path"] for f in manifest_of(shipped.number)["files"]]
    assert all((desk.table / p).is_file() for p in paths) and any("%2F" in p for p in paths)


def test_any_two_releases_can_be_compared(desk: Desk) -> None:
    desk.ship(FIRST)
    desk.ship(meters(("a", 1, 1.5), ("a", 2, 2.0), ("b", 1, None)))
    desk.ship(meters(("a", 1, 1.5), ("b", 1, 3.0), ("c", 1, 1.0), ("c", 2, math.nan)))
    forward = compare(PRODUCT, "1.0.0", "1.1.0")
    assert (forward.added, forward.removed, forward.changed) == (2, 1, 2)
    back = compare(PRODUCT, "1.1.0", "1.0.0")
    assert (back.added, back.removed, back.changed) == (1, 2, 2)
    changed = rows_of_difference(PRODUCT, "1.0.0", "1.1.0", "changed")
    assert [(r.key, r.before, r.after) for r in changed] == [
        ({"meter": "a", "day": 1}, {"meter": "a", "day": 1, "kwh": 1.0}, {"meter": "a", "day": 1, "kwh": 1.5}),
        ({"meter": "b", "day": 1}, {"meter": "b", "day": 1, "kwh": None}, {"meter": "b", "day": 1, "kwh": 3.0}),
    ]
    added = rows_of_difference(PRODUCT, "1.0.0", "1.1.0", "added", limit=1)
    assert [(r.key["meter"], r.before, r.after["kwh"] if r.after else None) for r in added] == [("c", None, 1.0)]
    removed = rows_of_difference(PRODUCT, "1.0.0", "1.1.0", "removed")
    assert [(r.key, r.after) for r in removed] == [({"meter": "a", "day": 2}, None)]
    with pytest.raises(NotFound, match=r"one of: 1\.1\.0, 1\.0\.1, 1\.0\.0"):
        compare(PRODUCT, "1.0.0", "9.9.9")
    with pytest.raises(NotFound):
        find(PRODUCT, "1.0")


def test_wide_decimals_are_compared_to_the_last_digit(desk: Desk) -> None:
    def amounts(*values: str) -> pa.Table:
        wide = pa.array([Decimal(v) for v in values], pa.decimal128(30, 10))
        return pa.table({"day": pa.array(range(len(values)), pa.int64()), "amount": wide})

    desk.ship(amounts("12345678901234567890.0000000001", "-1.5"), key=("day",))
    shipped = desk.ship(amounts("12345678901234567890.0000000002", "-1.5"), key=("day",))
    assert (shipped.number, shipped.diff.changed) == ("1.0.1", 1)


def test_lineage_is_that_of_the_version_read_even_if_the_input_has_moved_on(desk: Desk) -> None:
    desk.passes(desk.build(FIRST))
    built_on = desk.landings
    first = set(lineage({"tables": {f"silver.{SOURCE}": 0}}).landed)
    desk.land("later")
    silver = Check(
        table_name=f"silver.{SOURCE}", delta_version=7, contract_digest="0" * 64, suite_digest="5" * 64,
        result_sha256="6" * 64, passed=True, score=99.0, grade="A", dimensions={}, scope=None,
        run_id="r", checked_at=NOW,
    )  # fmt: skip
    move(f"silver.{SOURCE}", 7, check=silver, landing_id=desk.landings, inputs=None, run_id="r")
    with pytest.raises(NotFound, match="the inputs of version 0 were not recorded"):
        desk.release()
    for name, step, table, run_input, version in (
        (SOURCE, "silver", f"silver.{SOURCE}", {"landing_id": built_on}, 0),
        ("upstream", "gold", "gold.upstream", {"tables": {f"silver.{SOURCE}": 0}}, 3),
    ):
        outcome = StepOutcome(input=run_input, output_version=version)
        recorded("r", step, "source" if step == "silver" else "product", name, NOW, table, lambda done=outcome: done)
    assert desk.release().is_new
    assert set(manifest_of("1.0.0")["landed"]) == first
    through = lineage({"tables": {"gold.upstream": 3}})
    assert through.inputs == (("gold.upstream", 3), (f"silver.{SOURCE}", 0))
    assert set(through.landed) == first and through.sources == (SOURCE,)


def test_a_full_disk_releases_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.passes(desk.build(FIRST))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("jobs.release.archive.os.fsync", full)
        with pytest.raises(ExchangeError, match="No space left"):
            desk.release()
    assert releases_of(PRODUCT) == []
    assert desk.release().number == "1.0.0"
    assert [p.name for p in (settings().releases / PRODUCT).iterdir()] == ["1.0.0"]


class Killed(BaseException):
    """Stands for the end of the process: no error handler catches it."""


@pytest.mark.parametrize("before_row", [True, False])
def test_a_kill_before_or_after_writing_the_folder_leaves_one_release(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, before_row: bool
) -> None:
    desk.passes(desk.build(FIRST))

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("jobs.release.step.release_row" if before_row else "jobs.release.archive.Path.rename", die)
        with pytest.raises(Killed):
            desk.release()
    assert releases_of(PRODUCT) == []
    left = manifest_of("1.0.0") if before_row else None
    later = desk.release(NOW + timedelta(hours=1), run_id="run-2")
    assert (later.number, later.is_new) == ("1.0.0", True)
    if left:
        # The existing folder is the release that gets recorded.
        assert manifest_of("1.0.0") == left and left["run_id"] == "run-1"
    assert find(PRODUCT).manifest == manifest_of("1.0.0")
    assert [p.name for p in (settings().releases / PRODUCT).iterdir()] == ["1.0.0"]


def test_a_stored_release_is_recorded_before_the_next_one(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.passes(desk.build(FIRST))
    with monkeypatch.context() as patch:
        patch.setattr("jobs.release.step.release_row", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            desk.release()
    stored = manifest_of("1.0.0")
    shipped = desk.ship(meters(("z", 9, 9.0)))
    assert (shipped.number, shipped.rows) == ("1.1.0", 1)
    assert manifest_of("1.0.0") == stored == find(PRODUCT, "1.0.0").manifest
    assert verify(PRODUCT, "1.0.0").ok and verify(PRODUCT, "1.1.0").ok


def test_a_clock_that_was_set_back_does_not_reorder_releases(desk: Desk) -> None:
    first = desk.ship(FIRST)
    desk.passes(desk.build(meters(("z", 9, 9.0))))
    second = desk.release(NOW - timedelta(days=2))
    assert find(PRODUCT, first.number).released_at < find(PRODUCT, second.number).released_at
    assert verify(PRODUCT, second.number).findings == verify(PRODUCT, first.number).findings


def test_a_number_is_not_given_out_again_by_an_older_copy_of_the_registry(desk: Desk, tmp_path: Path) -> None:
    desk.ship(FIRST)
    registry.engine().dispose()
    shutil.copy(settings().home / "registry.db", tmp_path)
    desk.ship(meters(("z", 9, 9.0)))
    sold = {file.name: file.read_bytes() for file in archive.folder_of(PRODUCT, "1.1.0").iterdir()}
    registry.engine().dispose()
    shutil.copy(tmp_path / "registry.db", settings().home)
    assert [r.number for r in releases_of(PRODUCT)] == ["1.0.0"]
    assert desk.ship(meters(("y", 8, 8.0))).number == "1.2.0"
    assert {file.name: file.read_bytes() for file in archive.folder_of(PRODUCT, "1.1.0").iterdir()} == sold
    assert [r.number for r in releases_of(PRODUCT)] == ["1.2.0", "1.1.0", "1.0.0"]


@pytest.mark.parametrize("name", ["manifest.json", "certificate.jwt"])
def test_a_stored_release_that_was_changed_is_neither_recorded_nor_replaced(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    desk.passes(desk.build(FIRST))
    with monkeypatch.context() as patch:
        patch.setattr("jobs.release.step.release_row", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            desk.release()
    file = archive.folder_of(PRODUCT, "1.0.0") / name
    file.chmod(0o644)
    changed = file.read_bytes()[:-1]
    file.write_bytes(changed)
    with pytest.raises(ExchangeError, match=r"1\.0\.0.*does not list it and it cannot be recorded.*Next: restore"):
        desk.ship(meters(("z", 9, 9.0)))
    assert file.read_bytes() == changed and releases_of(PRODUCT) == []


def test_a_release_of_another_exchange_in_the_same_home_is_not_replaced(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.ship(FIRST)
    theirs = manifest_of("1.0.0")
    monkeypatch.setenv("EXCHANGE_LAKE", str(tmp_path / "another lake"))
    monkeypatch.setenv("EXCHANGE_DATABASE_URL", f"sqlite:///{tmp_path / 'another.db'}")
    ours = Desk(desk.root)
    with pytest.raises(ExchangeError, match=r"the registry is empty, but the release .*EXCHANGE_HOME"):
        ours.land("meter,day,kwh\n")
    assert manifest_of("1.0.0") == theirs


def test_a_release_survives_kills_at_any_point(desk: Desk) -> None:
    desk.passes(desk.build(FIRST))
    program = (
        "import os, signal, sys, pathlib\n"
        "from datetime import datetime, UTC\n"
        "from jobs.release import archive, step\n"
        "from jobs.declared.catalog import load_products\n"
        "def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr({'archive': archive, 'step': step}[sys.argv[1]], sys.argv[2], die)\n"
        f"step.release(load_products().product('{PRODUCT}'), run_id='r', now=datetime(2026, 3, 1, tzinfo=UTC))\n"
    )
    for module, function in (("step", "describe"), ("archive", "sync"), ("step", "_result")):
        ended = subprocess.run(
            [sys.executable, "-c", program, module, function],
            cwd=Path(__file__).parents[2],
            env=os.environ.copy(),
            capture_output=True,
            check=False,
        )
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    shipped = desk.release()
    assert (shipped.number, shipped.is_new) == ("1.0.0", False)
    assert find(PRODUCT).released_at == datetime(2026, 3, 1, tzinfo=UTC)
    assert [p.name for p in (settings().releases / PRODUCT).iterdir()] == ["1.0.0"]


def test_a_number_cannot_be_recorded_twice(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.ship(FIRST)
    desk.passes(desk.build(meters(("z", 9, 9.0))))
    monkeypatch.setattr("jobs.release.step.next_number", lambda *_: (1, 0, 0))
    monkeypatch.setattr("jobs.release.archive.folder_of", lambda p, n: settings().releases / p / f"{n}-elsewhere")
    with pytest.raises(Locked, match="another process has just released"):
        desk.release()
    assert [r.number for r in releases_of(PRODUCT)] == ["1.0.0"]


CELL = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=64), st.just(-0.0))
ROWS = st.dictionaries(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), CELL, max_size=8)


def same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))


@given(before=ROWS, after=ROWS)
@examples(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_differences_match_a_model(desk: Desk, before: dict[Any, Any], after: dict[Any, Any]) -> None:
    sides = []
    for rows in (before, after):
        version = desk.build(meters(*[(*k, v) for k, v in rows.items()]))
        sides.append(Side(snapshot(f"gold.{PRODUCT}", version), ("meter", "day"), frozenset()))
    old, new = sides
    changed = sorted(k for k in before.keys() & after.keys() if not same(before[k], after[k]))
    fingerprint_before = fingerprint(old.version)
    change = difference(old, new, fingerprint_before)
    assert (change.added, change.removed, change.changed) == (
        len(after.keys() - before.keys()),
        len(before.keys() - after.keys()),
        len(changed),
    )
    assert change.fingerprint == fingerprint(new.version)
    assert (change.fingerprint == fingerprint_before) == change.is_empty
    assert [tuple(r.key.values()) for r in rows_of(old, new, "changed", 100)] == changed
    assert {tuple(r.key.values()) for r in rows_of(old, new, "added", 100)} == after.keys() - before.keys()
    assert {tuple(r.key.values()) for r in rows_of(old, new, "removed", 100)} == before.keys() - after.keys()


def test_a_release_carries_its_cautions_and_a_contract_that_needs_no_dictionary(desk: Desk) -> None:
    names = {"meter": "The meter", "day": "Day of the year", "kwh": "Energy drawn"}
    types = {"meter": "STRING", "day": "BIGINT", "kwh": "DOUBLE"}
    entries = [{"name": n, "type": types[n], "description": text} for n, text in names.items()]
    version = desk.build(meters(("a", 1, 1.0)))
    file = contract_file(f"gold.{PRODUCT}")
    document = yaml.safe_load(file.read_text())
    for column in document["schema"][0]["properties"]:
        for field in ("logicalType", "physicalType", "description"):
            del column[field]
    file.write_text(yaml.safe_dump(document))
    dictionary_file().write_text(yaml.safe_dump({"columns": entries}))
    desk.passes(version)
    desk.release()
    manifest = manifest_of("1.0.0")
    assert (manifest["format"], manifest["cautions"]) == ("exchange-release/2", list(CAUTIONS))
    dictionary_file().unlink()
    file.write_bytes((settings().releases / PRODUCT / "1.0.0" / "contract.yaml").read_bytes())
    alone = load_contract(f"gold.{PRODUCT}")
    assert {c.name: c.description for c in alone.columns} == names
    assert alone.digest == manifest["contract"]["digest"]


def test_cautions_and_format_of_a_manifest_go_together(desk: Desk) -> None:
    desk.ship(meters(("a", 1, 1.0)))
    document = manifest_of("1.0.0")
    first = {k: v for k, v in document.items() if k != "cautions"} | {"format": "exchange-release/1"}
    assert Manifest.model_validate(first).document() == first
    for broken in (first | {"cautions": []}, document | {"format": first["format"]}, document | {"cautions": None}):
        with pytest.raises(ValidationError, match="cautions belong"):
            Manifest.model_validate(broken)


def test_a_manifest_reads_back_as_written(desk: Desk) -> None:
    desk.ship(FIRST)
    data = (settings().releases / PRODUCT / "1.0.0" / "manifest.json").read_bytes()
    assert Manifest.model_validate_json(data).encode() == data
    assert Fingerprint.parse(str(Fingerprint(-3, 4))) == Fingerprint(-3, 4)
    with reading() as db:
        row = db.get_one(Release, 1)
        assert Manifest.model_validate(row.manifest).encode() == data
    assert DeltaTable(str(desk.table)).version() == row.delta_version
