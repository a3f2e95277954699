"""One exchange of the default catalogue on either engine, and all of it that must be equal however it was disturbed."""

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
from tests.cluster.running import CHECKOUT, QUICK, Cluster
from tests.lake.trial import balanced, landings, runs

Order = tuple[str, str, int]


@dataclass(frozen=True)
class Scene:
    """One exchange: the settings that lead to it."""

    home: Path
    variables: Mapping[str, str]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let this process read it within the block."""
        before = dict(os.environ)
        os.environ.update({"EXCHANGE_CATALOGUE": str(CHECKOUT), "EXCHANGE_HOME": str(self.home), **self.variables})
        lake.drop_cached_logs()
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def make_scene(root: Path, name: str, cluster: Cluster | None) -> Scene:
    """An exchange with nothing in it; on a cluster it has a lake and records of its own there."""
    home = root / name
    home.mkdir(parents=True)
    if cluster is None:
        return Scene(home, {"EXCHANGE_SPARK": "embedded"})
    return Scene(home, QUICK | cluster.place(name, home))


def orders(sources: list[str]) -> list[Order]:
    """All steps of these sources, and of all products that read nothing else."""
    catalog = load_catalog()
    known = {f"silver.{name}" for name in sources}
    made: list[Order] = []
    for name in sources:
        made += [(step, name, 0) for step in ("land", "bronze", "silver")] + [("check", f"silver.{name}", 0)]
    for product in in_order(catalog):
        if set(product.inputs) <= known:
            known.add(product.table)
            made += [("gold", product.name, 0), ("check", product.table, 0), ("release", product.name, 0)]
    return made


def state(done: list[Order]) -> dict[str, Any]:
    """Rows of every table apart from the run that wrote them, counts that balance, releases that verify.

    Raises:
        AssertionError: counts do not add up, what is read is not what was built, or a release is not whole.
    """
    found: dict[str, Any] = {}
    for source in [name for step, name, _ in done if step == "land"]:
        landed = landings(source)
        found[f"landing.{source}"] = sorted((x.sha256, x.rows, x.rows_refused, x.fault) for x in landed)
        assert sum(x.rows or 0 for x in landed) == lake.rows(f"bronze.{source}"), f"rows landed ≠ bronze.{source}"
        built = [r for r in runs(source, "silver") if r.status == "succeeded"][-1]
        assert balanced(built), f"bronze ≠ silver + quarantine + duplicates of {source}"
        for layer in ("bronze", "quarantine"):
            found[f"{layer}.{source}"] = _content(f"{layer}.{source}", None)
        found[f"silver.{source}"] = _checked(f"silver.{source}")
    for product in [name for step, name, _ in done if step == "gold"]:
        found[f"gold.{product}"] = _checked(f"gold.{product}")
        with reading() as db:
            made = db.scalars(select(Release).where(Release.product == product)).all()
        whole = verify(product)
        assert whole.ok, whole.findings
        found[f"release.{product}"] = [(r.number, r.rows) for r in made]
    return found


def _checked(table: str) -> tuple[int, str]:
    current = pointer(table)
    assert current is not None, f"{table} has no checked version"
    assert lake.version(table) == current.head_version, f"{table} has a version that nobody checked"
    return _content(table, current.delta_version)


def _content(table: str, version: int | None) -> tuple[int, str]:
    """Number and sha256 of the sorted rows, without the run that wrote them."""
    if not lake.exists(table):
        return 0, ""
    rows: pa.Table = lake.delta(table, version).to_pyarrow_table()
    names = sorted(name for name in rows.column_names if name != "_run_id")
    ordered = rows.select(names).sort_by([(name, "ascending") for name in names])
    digest = hashlib.sha256()
    for batch in ordered.to_batches(max_chunksize=50_000):
        digest.update(repr(batch.to_pylist()).encode())
    return rows.num_rows, digest.hexdigest()
