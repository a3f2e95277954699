"""An exchange with one product; tests commit and check its versions directly, on real tables and a real registry."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from jobs.check import evidence
from jobs.declared.catalog import Product, load_products
from jobs.declared.contract import load_contract
from jobs.lake import engine
from jobs.lake.pointers import move
from jobs.registry import transaction
from jobs.registry.models import Check, Landing
from jobs.release.step import ReleaseResult, release
from jobs.settings import settings
from tests import declaring
from tests.declaring import declare_contract, declare_product, declare_source, write

PRODUCT, SOURCE = "load_by_day", "meters"
CAUTIONS = ("Days are those of UTC.", "A zero is a reading")
NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
PHYSICAL = {pa.int64(): "BIGINT", pa.int32(): "INT", pa.string(): "STRING", pa.float64(): "DOUBLE", pa.date32(): "DATE"}


@dataclass
class Desk:
    """Commits landings and checked versions of the product, and releases them."""

    root: Path
    landings: int = 0

    @property
    def product(self) -> Product:
        """The product as declared now."""
        return load_products().product(PRODUCT)

    @property
    def table(self) -> Path:
        """The product's Delta table."""
        return settings().lake / "gold" / PRODUCT

    def declare(self, licence: str = "CC-BY-4.0", redistribution: str = "yes", **product_fields: Any) -> None:
        """Write the declarations of the source and the product."""
        source = declaring.source(
            ("meter", "day", "kwh"),
            title="Meters",
            publisher={"name": "Grid", "url": "https://grid.example"},
            licence={"id": "ODbL-1.0", "url": "https://opendatacommons.org/licenses/odbl/1-0/"},
            rights={"redistribution": redistribution, "basis": "open_licence", "evidence": "its terms"},
            silver={"mode": "append"},
        )
        product = declaring.product(
            title="Load by day",
            question="How much does each meter draw a day?",
            licence={"id": licence, "url": "https://creativecommons.org/licenses/by/4.0/"},
            **{"cautions": list(CAUTIONS)} | product_fields,
        )
        declare_source(self.root, SOURCE, source)
        declare_product(self.root, PRODUCT, product, f"SELECT * FROM silver.{SOURCE}")

    def agree(self, schema: pa.Schema, key: tuple[str, ...], required: tuple[str, ...] = ()) -> None:
        """Write the product's contract; `required` columns may not be null."""
        columns = {
            field.name: {
                "physicalType": PHYSICAL.get(field.type) or f"DECIMAL({field.type.precision},{field.type.scale})",
                **({"required": True} if field.name in required else {}),
            }
            for field in schema
        }
        declare_contract(self.root, f"gold.{PRODUCT}", declaring.contract(PRODUCT, columns, key))

    def land(self, text: str) -> str:
        """Land a file; returns its sha256."""
        self.landings += 1
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        path = settings().landing / SOURCE / "2026/03/01" / f"{sha256}.csv"
        write(path, text)
        write(path.with_name(f"{sha256}.manifest.json"), "{}")
        with transaction() as db:
            db.add(
                Landing(
                    source=SOURCE,
                    sha256=sha256,
                    path=str(path.relative_to(settings().store)),
                    file_name="m.csv",
                    size=len(text),
                    fetched_at=NOW,
                    logical_date=NOW,
                    run_id="r",
                )
            )
        return sha256

    def build(
        self,
        rows: pa.Table,
        key: tuple[str, ...] = ("meter", "day"),
        required: tuple[str, ...] = (),
        mode: str = "overwrite",
        **options: Any,
    ) -> int:
        """Commit a version with these rows, not yet checked; returns its number."""
        self.agree(rows.schema, key, required)
        self.table.parent.mkdir(parents=True, exist_ok=True)
        if mode == "overwrite" and "predicate" not in options and self.table.exists():
            options["schema_mode"] = "overwrite"
        write_deltalake(str(self.table), rows, mode=mode, **options)
        return DeltaTable(str(self.table)).version()

    def passes(self, version: int, grade: str = "A", passed: bool = True) -> Check:
        """Record a check of the version, based on all landings so far, and move the pointers to it."""
        sha256 = evidence.keep({"version": version, "success": passed, "score": 97.0})
        silver = self.check(f"silver.{SOURCE}", version, sha256, grade, "0" * 64, True)
        move(f"silver.{SOURCE}", version, check=silver, landing_id=self.landings, inputs=None, run_id="r")
        digest = load_contract(f"gold.{PRODUCT}").digest
        check = self.check(f"gold.{PRODUCT}", version, sha256, grade, digest, passed)
        inputs = {"tables": {f"silver.{SOURCE}": version}, "query": "q", "contract": digest}
        move(f"gold.{PRODUCT}", version, check=check, landing_id=None, inputs=inputs, run_id="r")
        return check

    def release(
        self, at: datetime = NOW, run_id: str = "run-1", accept: str | None = "as the test wants it"
    ) -> ReleaseResult:
        """Release the checked version, even if it breaks or shrinks the one before, unless `accept` is None."""
        return release(self.product, run_id=run_id, now=at, accept=accept)

    def ship(self, rows: pa.Table, **options: Any) -> ReleaseResult:
        """Build, check and release a version."""
        self.passes(self.build(rows, **options))
        return self.release(NOW + timedelta(days=self.landings))

    def check(self, table: str, version: int, result: str, grade: str, contract: str, passed: bool) -> Check:
        """A check's record, not yet in the registry."""
        return Check(
            table_name=table, delta_version=version, contract_digest=contract, suite_digest="5" * 64,
            result_sha256=result, passed=passed, score=97.5, grade=grade,
            dimensions={"validity": 1.0, "accuracy": None}, scope=None, run_id="r", checked_at=NOW,
        )  # fmt: skip


@contextmanager
def desk_in(root: Path) -> Iterator[Desk]:
    """A desk with its declarations, in a home below a folder, for tests that share one exchange."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXCHANGE_HOME", str(root / "home"))
        patch.setenv("EXCHANGE_CATALOGUE", str(root / "catalogue"))
        patch.delenv("EXCHANGE_DATABASE_URL", raising=False)
        desk = Desk(root / "catalogue")
        desk.declare()
        yield desk
    engine.close()


def meters(*rows: tuple[Any, ...], names: tuple[str, ...] = ("meter", "day", "kwh")) -> pa.Table:
    """Rows of the product; by default with the columns meter (string), day (int64) and kwh (double)."""
    types = {"meter": pa.string(), "day": pa.int64(), "kwh": pa.float64()}
    columns = list(zip(*rows, strict=True)) or [() for _ in names]
    return pa.table({n: pa.array(c, types.get(n)) for n, c in zip(names, columns, strict=True)})
