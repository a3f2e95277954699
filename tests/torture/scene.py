"""An exchange of the default catalogue on either engine, and its state that no disturbance may change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from sqlalchemy import select

from jobs import lake
from jobs.declared.catalog import load_catalog
from jobs.flow import in_order
from jobs.lake.pointers import pointer
from jobs.registry import reading
from jobs.registry.models import Release
from jobs.release.verify import verify
from jobs.settings import CHECKOUT
from tests.cluster.running import QUICK, Cluster
from tests.lake.trial import balanced, landings, runs

Order = tuple[str, str, int]


@dataclass(frozen=True)
class Scene:
    """An exchange, given by its settings."""

    home: Path
    variables: Mapping[str, str]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Point this process to it for the length of the block."""
        before = dict(os.environ)
        os.environ.update({"EXCHANGE_CATALOGUE": str(CHECKOUT), "EXCHANGE_HOME": str(self.home), **self.variables})
        lake.drop_cached_logs()
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def make_scene(root: Path, name: str, cluster: Cluster | None) -> Scene:
    """An empty exchange; on a cluster, with its own lake and database schema there."""
    home = root / name
    home.mkdir(parents=True)
    if cluster is None:
        return Scene(home, {"EXCHANGE_SPARK": "embedded"})
    return Scene(home, QUICK | cluster.place(name, home))


def orders(sources: list[str]) -> list[Order]:
    """All steps of these sources, and of all products that read only from them."""
    catalog = load_catalog()
    available = {f"silver.{name}" for name in sources}
    result: list[Order] = []
    for name in sources:
        result += [(step, name, 0) for step in ("land", "bronze", "silver")] + [("check", f"silver.{name}", 0)]
    for product in in_order(catalog):
        if set(product.inputs) <= available:
            available.add(product.table)
            result += [("gold", product.name, 0), ("check", product.table, 0), ("release", product.name, 0)]
    return result


def state(done: list[Order]) -> dict[str, Any]:
    """The rows of every table without `_run_id`; asserts that counts balance and releases verify.

    Raises:
        AssertionError: counts do not add up, a newest version is unchecked, or a release fails verification.
    """
    result: dict[str, Any] = {}
    for source in [name for step, name, _ in done if step == "land"]:
        landed = landings(source)
        result[f"landing.{source}"] = sorted((x.sha256, x.rows, x.rows_refused, x.fault) for x in landed)
        assert sum(x.rows or 0 for x in landed) == lake.rows(f"bronze.{source}"), f"rows landed ≠ bronze.{source}"
        silver_run = [r for r in runs(source, "silver") if r.status == "succeeded"][-1]
        assert balanced(silver_run), f"bronze ≠ silver + quarantine + duplicates of {source}"
        for layer in ("bronze", "quarantine"):
            result[f"{layer}.{source}"] = _content(f"{layer}.{source}", None)
        result[f"silver.{source}"] = _checked(f"silver.{source}")
    for product in [name for step, name, _ in done if step == "gold"]:
        result[f"gold.{product}"] = _checked(f"gold.{product}")
        with reading() as db:
            releases = db.scalars(select(Release).where(Release.product == product)).all()
        verification = verify(product)
        assert verification.ok, verification.findings
        result[f"release.{product}"] = [(r.number, r.rows) for r in releases]
    return result


def _checked(table: str) -> tuple[int, str]:
    current = pointer(table)
    assert current is not None, f"{table} has no checked version"
    assert lake.version(table) == current.head_version, f"{table} has an unchecked version"
    return _content(table, current.delta_version)


def _content(table: str, version: int | None) -> tuple[int, str]:
    """Number and sha256 of the sorted rows without `_run_id`."""
    if not lake.exists(table):
        return 0, ""
    rows: pa.Table = lake.delta(table, version).to_pyarrow_table()
    names = sorted(name for name in rows.column_names if name != "_run_id")
    ordered = rows.select(names).sort_by([(name, "ascending") for name in names])
    digest = hashlib.sha256()
    for batch in ordered.to_batches(max_chunksize=50_000):
        digest.update(repr(batch.to_pylist()).encode())
    return rows.num_rows, digest.hexdigest()
