"""One program on both engines: equal tables and releases; either extends the other's tables; one writes at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow.parquet import read_table
from sqlalchemy import update

from jobs import lake
from jobs.declared.catalog import load_catalog
from jobs.declared.contract import load_contract
from jobs.errors import ExchangeError, Locked
from jobs.flow import run_step
from jobs.lake.objects import reader
from jobs.lake.pointers import pointer
from jobs.operate.doctor import examine
from jobs.operate.relocate import relocate
from jobs.operate.upkeep import upkeep
from jobs.registry import transaction
from jobs.registry.models import Lease
from jobs.release.manifest import Manifest
from jobs.release.step import find
from jobs.release.verify import verify
from jobs.settings import CHECKOUT
from tests.cluster.running import Place
from tests.lake.trial import Trial, checked_rows, day, run_steps, table_rows

# Spark is slow at everything it does for the first time, more so on a busy machine.
pytestmark = pytest.mark.timeout(1800)

DATE = datetime(2026, 11, 22, tzinfo=UTC)
READINGS = {"meter": "STRING", "read_at": "TIMESTAMP", "kwh": "DECIMAL(8,2)", "read_month": {
    "physicalType": "STRING", "transformLogic": "date_format(try_cast(read_at as timestamp), 'yyyy-MM')"}}  # fmt: skip
PUBLISHED = ("meter", "read_at", "kwh")
KEY = ("meter", "read_at")
SOURCES = tuple(load_catalog().sources)
PRODUCTS = tuple(load_catalog().products)


@dataclass(frozen=True)
class Results:
    """What an engine makes of the default catalogue: rows by table, manifests by product."""

    rows: dict[str, pa.Table]
    manifests: dict[str, Manifest]


def run_default_catalogue() -> Results:
    """Load every default source and release every default product."""
    for name in (*SOURCES, *PRODUCTS):
        steps = run_steps(name, DATE, "r")
        assert {step.status for step in steps} == {"succeeded"}, steps
    tables = [f"silver.{source}" for source in SOURCES] + [f"gold.{product}" for product in PRODUCTS]
    manifests = {product: Manifest.model_validate(find(product).manifest) for product in PRODUCTS}
    return Results({table: sorted_rows(table) for table in tables}, manifests)


def sorted_rows(table: str) -> pa.Table:
    """Rows of a table's checked version without `_run_id`, sorted by key."""
    checked = pointer(table)
    assert checked is not None
    rows: pa.Table = lake.read_table(table, checked.delta_version).drop("_run_id").toArrow()
    order = dict.fromkeys((*load_contract(table).key, *rows.column_names), "ascending")
    return rows.sort_by(list(order.items()))


@pytest.mark.slow
def test_default_sources_and_products_are_the_same_on_both_engines(on_disk: Place, on_cluster: Place) -> None:
    on_disk.enter()
    embedded = run_default_catalogue()
    on_cluster.enter()
    on_spark = run_default_catalogue()
    assert on_spark.rows.keys() == embedded.rows.keys()
    for table, rows in on_spark.rows.items():
        # Names and types of columns, and every value.
        assert rows.equals(embedded.rows[table]), table
    for product, manifest in on_spark.manifests.items():
        other = embedded.manifests[product]
        # A release describes the same rows on both engines, but files of its own engine.
        assert (manifest.table.columns, manifest.table.key) == (other.table.columns, other.table.key)
        assert (manifest.table.rows, manifest.content) == (other.table.rows, other.content)
        assert (manifest.landed, manifest.contract, manifest.release) == (other.landed, other.contract, other.release)
        assert {f.sha256 for f in manifest.files}.isdisjoint(f.sha256 for f in other.files)
        verification = verify(product)
        assert verification.ok, verification.findings


def empty_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "catalogue"))
    return Trial(tmp_path / "catalogue")


@pytest.mark.long
def test_a_lake_copied_to_the_cluster_is_extended_by_either_engine(
    on_disk: Place, on_cluster: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = empty_exchange(tmp_path, monkeypatch)
    on_disk.enter()
    source = exchange.source(READINGS, KEY, published=PUBLISHED, partition=("read_month",))
    query = f"SELECT meter, sum(kwh) AS kwh, count(*) AS hours FROM silver.{source.name} GROUP BY meter"
    product = exchange.product(
        {"meter": "STRING", "kwh": "DECIMAL(18,2)", "hours": "BIGINT"}, ("meter",), query
    )  # fmt: skip

    def run_day(number: int, meter: str, month: int) -> None:
        rows = [(meter, f"2026-{month:02}-01T{hour:02}:00:00", f"{hour}.25") for hour in range(3)]
        source.drop([*rows, ("m0", "2026-01-01T00:00:00", f"{number}.5"), ("m1", "never", "1")])
        for step in ("land", "bronze", "silver", "check"):
            assert source.step(step, number).status == "succeeded"
        for step in ("gold", "check", "release"):
            assert run_step(step, product, day(number), "r").status == "succeeded"

    run_day(0, "m1", 1)
    run_day(1, "m2", 1)
    before = checked_rows(source.table)

    on_cluster.enter()
    copied = relocate(Path(on_disk.variables["EXCHANGE_HOME"]))
    assert copied.tables == 4
    again = relocate(Path(on_disk.variables["EXCHANGE_HOME"]))
    assert (again.files, again.present, again.records) == (copied.files, copied.files, 0)
    assert checked_rows(source.table) == before
    run_day(2, "m3", 2)
    run_day(3, "m1", 3)
    assert source.last("silver").rows_quarantined == 1

    # Back on the embedded engine, once the Connect server's lease has expired.
    embedded = Place(monkeypatch, on_cluster.variables | {"EXCHANGE_SPARK": "embedded"})
    embedded.enter()
    with pytest.raises(Locked, match=r"the Connect server \S+:\d+ of .* writes this lake.* point EXCHANGE_SPARK at"):
        source.step("bronze", 4)
    with transaction() as db:
        db.execute(update(Lease).values(held_until=datetime.now(UTC) - timedelta(seconds=1)))
    run_day(4, "m4", 4)
    rows = checked_rows(source.table)
    assert len(rows) == 5 * 3 + 1
    assert [row[2] for row in rows if row[0] == "m0"] == [Decimal("4.50")]
    for number in ("1.0.0", "1.1.0", "1.2.0"):
        verification = verify(product, number)
        assert verification.ok, verification.findings


class Later(datetime):
    """A clock a month ahead, because the age of an object cannot be changed."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Later:
        return super().now(tz) + timedelta(days=30)


@pytest.mark.long
def test_upkeep_on_the_cluster_does_not_disturb_readers(
    on_cluster: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = empty_exchange(tmp_path, monkeypatch)
    on_cluster.enter()
    source = exchange.source(
        {"meter": "STRING", "read_on": "DATE", "kwh": "DECIMAL(8,2)"}, ("meter", "read_on"), "append"
    )
    query = f"SELECT meter, sum(kwh) AS kwh FROM silver.{source.name} GROUP BY meter"
    product = exchange.product({"meter": "STRING", "kwh": "DECIMAL(18,2)"}, ("meter",), query)
    source.take([("m1", "2026-01-01", "1.5")])
    steps = ("gold", "check", "release")
    for number in range(1, 9):
        source.append_again(number)
        # First a version that is not released, later one that is.
        for step in {3: steps[:1], 6: steps}.get(number, ()):
            assert run_step(step, product, day(number), "r").status == "succeeded"
    tables = (source.table, f"gold.{product}")
    rows = checked_rows(source.table)
    monkeypatch.setattr("jobs.operate.upkeep.datetime", Later)

    by_engine = lake.read_table(source.table).toLocalIterator()
    by_file = iter([lake.location(source.table) / file.path for file in lake.files(source.table)])
    engine_rows, file_rows = [next(by_engine)], rows_in(next(by_file))

    planned = upkeep(tables, dry_run=True).tables
    silver, gold = upkeep(tables).tables
    assert tuple(replace(result, status="done") for result in planned) == (silver, gold)
    assert (silver.files_before, silver.files_after, silver.removed_files) == (9, 1, 0)
    assert gold.removed_files == 1

    assert len(engine_rows + list(by_engine)) == file_rows + sum(map(rows_in, by_file)) == len(rows) == 9
    assert checked_rows(source.table) == rows == table_rows(source.table)
    verification = verify(product)
    assert verification.ok, verification.findings
    (result,) = upkeep([source.table]).tables
    assert result.removed_files == 9
    assert checked_rows(source.table) == rows


def rows_in(file: Path) -> int:
    """Number of rows of a Parquet file, read as a buyer would."""
    with reader(file) as data:
        return int(read_table(data).num_rows)


def test_the_doctor_reports_a_wrong_secret(on_cluster: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cluster.enter()
    subjects = [
        "settings", "versions", "database", "records", "airflow", "lake", "engine", "engine and lake", "space", "clock",
        "last run",
    ]  # fmt: skip
    # Who else can log in depends on the machine.
    findings = [(f.subject, f.status) for f in examine() if f.subject != "other users"]
    assert findings == [(subject, "ok") for subject in subjects]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    by_subject = {f.subject: f for f in examine()}
    assert by_subject["lake"].status == "failed"
    assert "the secret is not that of the key" in by_subject["lake"].found
    assert "planted-secret" not in repr(by_subject)


@pytest.mark.parametrize("address", ["ftp://x/y", "s3://x", "s3://Bad_Bucket/x"])
def test_an_invalid_lake_address_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCHANGE_LAKE", address)
    with pytest.raises(ExchangeError, match="EXCHANGE_LAKE: neither a folder nor s3://bucket"):
        lake.location("silver.x")


def test_commands_print_no_secret(on_cluster: Place) -> None:
    environment = dict(os.environ) | on_cluster.variables
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "doctor"], cwd=CHECKOUT, env=environment, capture_output=True, text=True,
        timeout=400, check=False,
    )  # fmt: skip
    token = on_cluster.variables["EXCHANGE_SPARK"].partition("token=")[2]
    for secret in (token, on_cluster.variables["AWS_SECRET_ACCESS_KEY"]):
        assert secret
        assert secret not in ended.stdout + ended.stderr
    assert ended.returncode == 0, ended.stderr
