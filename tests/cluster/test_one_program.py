"""One program on both engines: equal tables and releases; each extends the other's tables; one writes at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from running import CHECKOUT, QUICK, Cluster
from sqlalchemy import update
from trial import Exchange, checked_rows, day, table_rows

from jobs import lake, spark
from jobs.doctor import examine
from jobs.errors import Busy, ExchangeError
from jobs.flow import run_step, run_steps
from jobs.registry import transaction
from jobs.registry.models import Lease
from jobs.relocate import relocate
from jobs.upkeep import upkeep
from jobs.verify import verify

# A Spark that does everything for the first time takes its time on a busy machine.
pytestmark = pytest.mark.timeout(900)

DATE = datetime(2026, 11, 22, tzinfo=UTC)
READINGS = {"meter": "STRING", "read_at": "TIMESTAMP", "kwh": "DECIMAL(8,2)", "read_month": {
    "physicalType": "STRING", "transformLogic": "date_format(try_cast(read_at as timestamp), 'yyyy-MM')"}}  # fmt: skip
PUBLISHED = ("meter", "read_at", "kwh")
KEY = ("meter", "read_at")
# One that keeps revisions and one that only appends; merging is in the test of moving.
SOURCES = ("ecb_reference_rates", "gdelt_mentions")


@dataclass
class Place:
    """Somewhere an exchange can be: settings of its own."""

    patch: pytest.MonkeyPatch
    variables: dict[str, str]

    def enter(self) -> None:
        """Let this process work there."""
        spark.close()
        for name in ("EXCHANGE_SPARK", "EXCHANGE_LAKE", "EXCHANGE_DATABASE_URL"):
            self.patch.delenv(name, raising=False)
        for name, value in self.variables.items():
            self.patch.setenv(name, value)


@pytest.fixture
def on_cluster(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Place]:
    """A lake of its own on the cluster, with records of its own in its database."""
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    found = cluster.settings()
    name = f"test_{abs(hash(request.node.nodeid))}"
    url = found["EXCHANGE_DATABASE_URL"]
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA "{name}"')
    place = Place(
        monkeypatch,
        found
        | {
            "EXCHANGE_HOME": str(tmp_path / "cluster-home"),
            "EXCHANGE_LAKE": f"{found['EXCHANGE_LAKE']}/{name}",
            "EXCHANGE_DATABASE_URL": f"{url}&options=-csearch_path%3D{name}",
        },
    )
    yield place
    spark.close()


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A home on this machine, with the embedded engine."""
    return Place(monkeypatch, {"EXCHANGE_HOME": str(tmp_path / "home")})


def silver_rows(source: str) -> list[tuple[object, ...]]:
    """Bring a source in; the rows of its table, apart from which run wrote them."""
    run_steps(source, DATE, "r")
    return checked_rows(f"silver.{source}")


def test_default_sources_are_equal_on_both_engines_and_a_product_is_released(on_disk: Place, on_cluster: Place) -> None:
    on_disk.enter()
    embedded = {source: silver_rows(source) for source in SOURCES}
    on_cluster.enter()
    for source in SOURCES:
        assert silver_rows(source) == embedded[source]
    assert [done.status for done in run_steps("news_mentions", DATE, "r")] == ["succeeded"] * 3
    found = verify("news_mentions")
    assert found.ok, found.findings


def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exchange:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "catalogue"))
    return Exchange(tmp_path / "catalogue")


def test_a_lake_moves_to_the_cluster_and_goes_on_on_either_engine(
    on_disk: Place, on_cluster: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = declared(tmp_path, monkeypatch)
    on_disk.enter()
    source = exchange.source(READINGS, KEY, published=PUBLISHED, partition=("read_month",))
    query = f"SELECT meter, sum(kwh) AS kwh, count(*) AS hours FROM silver.{source.name} GROUP BY meter"
    product = exchange.product(
        {"meter": "STRING", "kwh": "DECIMAL(18,2)", "hours": "BIGINT"}, ("meter",), query
    )  # fmt: skip

    def live(number: int, meter: str, month: int) -> None:
        rows = [(meter, f"2026-{month:02}-01T{hour:02}:00:00", f"{hour}.25") for hour in range(3)]
        source.drop([*rows, ("m0", "2026-01-01T00:00:00", f"{number}.5"), ("m1", "never", "1")])
        for step in ("land", "bronze", "silver", "check"):
            assert source.step(step, number).status == "succeeded"
        for step in ("gold", "check", "release"):
            assert run_step(step, product, day(number), "r").status == "succeeded"

    live(0, "m1", 1)
    live(1, "m2", 1)
    before = checked_rows(source.table)

    on_cluster.enter()
    copied = relocate(Path(on_disk.variables["EXCHANGE_HOME"]))
    assert copied.tables == 4
    again = relocate(Path(on_disk.variables["EXCHANGE_HOME"]))
    assert (again.files, again.present, again.records) == (copied.files, copied.files, 0)
    assert checked_rows(source.table) == before
    live(2, "m3", 2)
    live(3, "m1", 3)
    assert source.last("silver").rows_quarantined == 1

    # Back on the embedded engine, after the other one's right to write has run out.
    embedded = Place(monkeypatch, on_cluster.variables | {"EXCHANGE_SPARK": "embedded"})
    embedded.enter()
    with pytest.raises(Busy, match=r"the Connect server app-.* writes this lake.* point EXCHANGE_SPARK at that one"):
        source.step("bronze", 4)
    with transaction() as db:
        db.execute(update(Lease).values(held_until=datetime.now(UTC) - timedelta(seconds=1)))
    live(4, "m4", 4)
    rows = checked_rows(source.table)
    assert len(rows) == 5 * 3 + 1
    assert [row[2] for row in rows if row[0] == "m0"] == [Decimal("4.50")]
    for number in ("1.0.0", "1.1.0", "1.2.0"):
        found = verify(product, number)
        assert found.ok, found.findings


def test_upkeep_on_the_cluster(on_cluster: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = declared(tmp_path, monkeypatch)
    on_cluster.enter()
    source = exchange.source({"meter": "STRING", "kwh": "DECIMAL(8,2)"}, ("meter",), "append")
    for number in range(9):
        source.take([(f"m{number}", "1.5")], number)
    rows = checked_rows(source.table)
    (kept,) = upkeep([source.table]).tables
    assert (kept.status, kept.files_before, kept.files_after) == ("done", 9, 1)
    assert checked_rows(source.table) == rows == table_rows(source.table)
    assert len(lake.files(source.table)) == 1


def test_the_doctor_finds_what_cannot_work(on_cluster: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cluster.enter()
    assert {f.subject: f.status for f in examine()} == dict.fromkeys(
        ("settings", "versions", "database", "lake", "engine", "engine and lake", "space", "clock", "last run"), "ok"
    )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    found = {f.subject: f for f in examine()}
    assert found["lake"].status == "failed"
    assert "the secret is not that of the key" in found["lake"].found
    assert "planted-secret" not in repr(found)


@pytest.mark.parametrize("address", ["ftp://x/y", "s3://x", "s3://Bad_Bucket/x"])
def test_a_lake_that_cannot_be_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCHANGE_LAKE", address)
    with pytest.raises(ExchangeError, match="EXCHANGE_LAKE: neither a folder nor s3://bucket"):
        lake.location("silver.x")


def test_no_secret_is_in_what_commands_print(on_cluster: Place) -> None:
    environment = dict(os.environ) | on_cluster.variables
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "doctor"], cwd=CHECKOUT, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    token = on_cluster.variables["EXCHANGE_SPARK"].partition("token=")[2]
    for secret in (token, on_cluster.variables["AWS_SECRET_ACCESS_KEY"]):
        assert secret
        assert secret not in ended.stdout + ended.stderr
    assert ended.returncode == 0, ended.stderr
