"""One step of one source or product, as Airflow, the command line and tests all call it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from jobs import lake
from jobs.declared.catalog import Catalog, Product, Source, find_product, find_source, load_catalog
from jobs.errors import DeclarationError, ExchangeError, NotFound, Overtaken
from jobs.lake.engine import refresh
from jobs.lake.engine_errors import explained
from jobs.lake.lease import writing
from jobs.registry.locks import hold
from jobs.registry.runs import Recorded, recorded

Step = Literal["land", "bronze", "silver", "gold", "check", "release"]
SOURCE_STEPS: tuple[Step, ...] = ("land", "bronze", "silver", "check")
PRODUCT_STEPS: tuple[Step, ...] = ("gold", "check", "release")
# Each process that was killed leaves one commit at most that the engine is still at.
_TRIES = 6
# A check takes back the version that it does not pass.
_WRITING: tuple[Step, ...] = ("bronze", "silver", "gold", "check")


@dataclass(frozen=True)
class StepResult:
    """What a step did.

    Attributes:
        rows: rows it wrote, or looked at for `check`; None where it has none to tell.
        seconds: wall time.
        version: Delta version or release number it made, if it made one.
    """

    step: str
    name: str
    table: str
    status: Literal["succeeded", "unchanged"]
    rows: int | None
    seconds: float
    message: str | None
    version: str | None


def run_step(step: str, name: str, logical_date: datetime, run_id: str) -> StepResult:
    """Run one step for a source or product (`check` also takes a table's name), and record it.

    Args:
        step: one of land, bronze, silver, gold, check, release.
        name: the source's or product's name; for `check` also ``silver.x`` or ``gold.x``.
        logical_date: the date whose data the step works on, aware.
        run_id: groups the steps of one run.

    Raises:
        ExchangeError: anything a user can cause or meet, in one line.
    """
    if step not in get_args(Step):
        raise ExchangeError(f"no step '{step}'", expected=f"one of: {', '.join(get_args(Step))}")
    subject = _subject(step, name)
    kind: Literal["source", "product"] = "source" if isinstance(subject, Source) else "product"
    table = f"bronze.{subject.name}" if step in ("land", "bronze") else subject.table
    logical_date = logical_date if logical_date.tzinfo else logical_date.replace(tzinfo=UTC)
    started = time.monotonic()
    if step != "land":
        refresh()
    with (
        explained(subject.file),
        hold(f"{kind}.{subject.name}"),
        writing() if step in _WRITING else nullcontext(),
        recorded(run_id, step, kind, subject.name, logical_date, table) as record,
    ):
        version = _done(step, subject, logical_date, record)
        if step == "silver" and record.output_version is not None:
            record.message = _remarks(subject, record)
    rows = record.counts.rows_in if step == "check" else record.counts.rows_out
    return StepResult(
        step, subject.name, table, record.status, rows, time.monotonic() - started, record.message, version
    )


def run_steps(name: str, logical_date: datetime, run_id: str) -> list[StepResult]:
    """Run all steps of a source or product in order, stopping where nothing is new."""
    subject = _subject("check", name)
    done: list[StepResult] = []
    for step in SOURCE_STEPS if isinstance(subject, Source) else PRODUCT_STEPS:
        done.append(run_step(step, subject.name if step != "check" else subject.table, logical_date, run_id))
        if done[-1].status == "unchanged" and step in ("land", "gold", "silver"):
            if step == "gold":
                continue
            break
    return done


def stale_products() -> list[str]:
    """Names of products whose checked version or release is behind their inputs, query or contract, inputs first.

    Products whose inputs have no checked version yet are left out: nothing can be built from them. So are those whose
    query or contract is broken, which the catalogue's mistakes tell.
    """
    from jobs.gold.step import is_current
    from jobs.lake.pointers import pointer

    catalog = load_catalog()
    stale: list[str] = []
    for product in in_order(catalog):
        with suppress(DeclarationError):
            if all(pointer(t) for t in product.inputs) and (not is_current(product) or not _released(product)):
                stale.append(product.name)
    return stale


def in_order(catalog: Catalog) -> list[Product]:
    """The products, each after those that it reads."""
    ordered: dict[str, Product] = {}

    def visit(product: Product, path: tuple[str, ...]) -> None:
        if product.name in path:
            circle = " → ".join((*path, product.name))
            raise ExchangeError(f"products read each other in a circle: {circle}", next_step="cut the circle")
        for table in product.inputs:
            layer, name = table.split(".")
            if layer == "gold" and name in catalog.products:
                visit(catalog.products[name], (*path, product.name))
        ordered.setdefault(product.name, product)

    for product in catalog.products.values():
        visit(product, ())
    return list(ordered.values())


def _released(product: Product) -> bool:
    from sqlalchemy import select

    from jobs.lake.pointers import pointer
    from jobs.registry import reading
    from jobs.registry.models import Release

    with reading() as db:
        if db.scalars(select(Release.id).where(Release.product == product.name).limit(1)).first() is None:
            return False
    stands = pointer(product.table)
    return stands is not None and not _unreleased(product, stands.delta_version)


def _unreleased(product: Product, version: int) -> bool:
    """Whether the checked version was never offered to `release`, which may find it equal to the last one."""
    from sqlalchemy import select

    from jobs.registry import reading
    from jobs.registry.models import Run

    with reading() as db:
        seen = db.scalars(
            select(Run.output_version)
            .where(Run.step == "release", Run.name == product.name, Run.status.in_(("succeeded", "unchanged")))
            .order_by(Run.id.desc())
            .limit(1)
        ).first()
    return seen != version


def _subject(step: str, name: str) -> Source | Product:
    if step == "check" and "." in name:
        layer, own = name.split(".", 1)
        if layer not in ("silver", "gold"):
            raise NotFound(f"{name} has no expectations", expected="silver.<source> or gold.<product>")
        return find_source(own) if layer == "silver" else find_product(own)
    if step in ("land", "bronze", "silver"):
        return find_source(name)
    if step in ("gold", "release"):
        return find_product(name)
    catalog = load_catalog()
    return catalog.sources.get(name) or catalog.product(name)


def _done(
    step: str, subject: Source | Product, logical_date: datetime, record: Recorded, tries: int = _TRIES
) -> str | None:
    """Do a step, and do it again where it was overtaken by what the engine still did for a process that was killed."""
    try:
        # Once more within, so that the record says it too.
        with explained(subject.file):
            return _do(step, subject, logical_date, record)
    except Overtaken:
        if tries == 1:
            raise
    finally:
        lake.expect_nothing()
    return _done(step, subject, logical_date, record, tries - 1)


def _do(step: str, subject: Source | Product, logical_date: datetime, record: Recorded) -> str | None:
    if step == "check":
        from jobs.check.step import check

        check(subject.table, logical_date, record)
    elif isinstance(subject, Source):
        _source_step(step, subject)(logical_date, record)
    elif step == "gold":
        from jobs.gold.step import gold

        gold(subject, record)
    else:
        return _release(subject, record)
    return None if record.output_version is None else str(record.output_version)


def _remarks(subject: Source | Product, record: Recorded) -> str | None:
    """What a silver build found that nobody would look for: rows in quarantine, and work that grows with the table."""
    from jobs.declared.contract import load_contract
    from jobs.lake.partitions import whole_table_read

    refused = record.counts.rows_quarantined
    parts = [
        record.message,
        f"{refused:,} row{'s' if refused != 1 else ''} refused, see `exchange quarantine {subject.name}`"
        if refused
        else None,
        whole_table_read(load_contract(subject.table)),
    ]
    return "; ".join(p for p in parts if p) or None


def _source_step(step: str, source: Source) -> Callable[[datetime, Recorded], None]:
    if step == "land":
        return lambda logical_date, record: _land(source, logical_date, record)
    if step == "bronze":
        from jobs.bronze.step import bronze

        return lambda _date, record: bronze(source, record)
    from jobs.silver.step import silver

    return lambda _date, record: silver(source, record)


def _land(source: Source, logical_date: datetime, record: Recorded) -> None:
    """Land, and say "succeeded" also where nothing new arrived but something that landed before still waits."""
    from jobs.land.step import land
    from jobs.silver.step import held_back

    land(source, logical_date, record)
    if record.status == "unchanged" and held_back(source):
        record.status = "succeeded"


def _release(product: Product, record: Recorded) -> str:
    from jobs.lake.pointers import checked
    from jobs.release.step import release

    made = release(product, run_id=record.run_id, now=datetime.now(UTC))
    record.status = "succeeded" if made.is_new else "unchanged"
    record.counts.rows_out = made.rows
    record.output_version = checked(product.table).delta_version
    record.message = f"{made.number}, grade {made.grade}" + ("" if made.is_new else ", as before")
    return made.number
