"""Runs one step of one source or product, for Airflow, the command line and tests alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

from jobs.declared.catalog import Catalog, Product, Source, find_product, find_source, load_catalog
from jobs.errors import DeclarationError, ExchangeError, NotFound
from jobs.lake import guard, refresh
from jobs.lake.engine_errors import translate_engine_errors
from jobs.registry.runs import Status, StepOutcome, has_succeeded, recorded
from jobs.steps import Step, run_of, step_named

NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class StepRun:
    """A completed step: which step, of what, how long it took, and its outcome.

    The outcome is what the stage returned and the registry recorded. A stage knows neither the name it was called by
    nor how long it took, and users need both beside the outcome.

    Attributes:
        table: the table that it wrote or checked.
        seconds: wall time.
    """

    step: str
    name: str
    table: str
    seconds: float
    outcome: StepOutcome

    @property
    def status(self) -> Status:
        """Whether there was anything to do."""
        return self.outcome.status

    @property
    def message(self) -> str | None:
        """Remarks for the user."""
        return self.outcome.message

    @property
    def rows(self) -> int | None:
        """Rows that it wrote, or read if it writes none; None if it counts none."""
        counts = self.outcome.counts
        return counts.rows_in if counts.rows_out is None else counts.rows_out

    @property
    def version(self) -> str | None:
        """The release's number, or else the Delta version that it built or checked."""
        if self.outcome.release:
            return self.outcome.release
        return None if self.outcome.output_version is None else str(self.outcome.output_version)


def run_step(
    step: str, name: str, logical_date: datetime, run_id: str, options: Mapping[str, str] = NO_OPTIONS
) -> StepRun:
    """Run one step for a source or product, and record it.

    Args:
        step: name of a step in `jobs.steps`.
        name: name of the source, the product or one of their tables (``silver.x``, ``gold.x``).
        logical_date: the date whose data the step works on, timezone-aware; UTC is assumed otherwise.
        run_id: groups the steps of one run.
        options: further arguments of the step's function, for example why a release is accepted.

    Raises:
        ExchangeError: the step failed for a reason that the user can act on.
    """
    chosen = step_named(step)
    subject = _subject(chosen, name)
    kind = _kind(subject)
    table = f"{chosen.table}.{subject.name}" if chosen.table else subject.table
    logical_date = logical_date if logical_date.tzinfo else logical_date.replace(tzinfo=UTC)
    started = time.monotonic()
    if chosen.needs_engine:
        refresh()
    with (
        translate_engine_errors(subject.file),
        (guard.writing if chosen.writes else guard.locked)(f"{kind}.{subject.name}"),
    ):
        outcome = recorded(
            run_id, step, kind, subject.name, logical_date, table,
            lambda: guard.retried(lambda: _attempt(chosen, subject, logical_date, run_id, options)),
        )  # fmt: skip
    return StepRun(step, subject.name, table, time.monotonic() - started, outcome)


@dataclass(frozen=True)
class StaleProduct:
    """A product that is behind its inputs, query or contract; `is_built` if only its release is."""

    name: str
    is_built: bool


def stale_products() -> list[StaleProduct]:
    """Products whose checked version or release is behind their inputs, query or contract, inputs first.

    Products with an input that has no checked version yet are left out, because they cannot be built. So are those with
    a broken query or contract, which the catalogue reports as mistakes.
    """
    from jobs.gold.step import is_current
    from jobs.lake.pointers import pointer
    from jobs.release.step import is_released

    catalog = load_catalog()
    stale: list[StaleProduct] = []
    for product in in_order(catalog):
        with suppress(DeclarationError):
            if all(pointer(t) for t in product.inputs):
                is_built = is_current(product)
                if not is_built or not is_released(product):
                    stale.append(StaleProduct(product.name, is_built))
    return stale


def in_order(catalog: Catalog) -> list[Product]:
    """The products, each after the products that it reads."""
    ordered: dict[str, Product] = {}

    def visit(product: Product, path: tuple[str, ...]) -> None:
        if product.name in path:
            cycle = " → ".join((*path, product.name))
            raise ExchangeError(f"products read each other in a cycle: {cycle}", next_step="break the cycle")
        for table in product.inputs:
            layer, name = table.split(".")
            if layer == "gold" and name in catalog.products:
                visit(catalog.products[name], (*path, product.name))
        ordered.setdefault(product.name, product)

    for product in catalog.products.values():
        visit(product, ())
    return list(ordered.values())


def _kind(subject: Source | Product) -> Literal["source", "product"]:
    return "source" if isinstance(subject, Source) else "product"


def _subject(step: Step, name: str) -> Source | Product:
    """The source or product of a step, by its own name or by a table's."""
    layer, dot, own = name.partition(".")
    if dot:
        return _subject_of_table(step, layer, own)
    if step.of == ("source",):
        return find_source(name)
    if step.of == ("product",):
        return find_product(name)
    catalog = load_catalog()
    return catalog.sources.get(name) or catalog.product(name)


def _subject_of_table(step: Step, layer: str, name: str) -> Source | Product:
    # Steps that work on both sources and products take silver and gold tables; bronze has no expectations to check.
    of_source = ("bronze", "silver") if step.of == ("source",) else ("silver",)
    if layer in of_source and "source" in step.of:
        return find_source(name)
    if layer == "gold" and "product" in step.of:
        return find_product(name)
    if len(step.of) == 1:
        kind = step.of[0]
        expected, next_step = f"the name of a {kind}", f"exchange {kind}s lists them"
    else:
        expected, next_step = "silver.<source> or gold.<product>", "exchange sources and exchange products list them"
    raise NotFound(f"`{step.name}` does not work on '{layer}.{name}'", expected=expected, next_step=next_step)


def _attempt(
    step: Step, subject: Source | Product, logical_date: datetime, run_id: str, options: Mapping[str, str]
) -> StepOutcome:
    # Errors are translated within the record, so that it keeps the explanation, and within each attempt, so that a
    # conflict reported by the engine is retried.
    with translate_engine_errors(subject.file):
        return _run(step, subject, logical_date, run_id, options)


def _run(
    step: Step, subject: Source | Product, logical_date: datetime, run_id: str, options: Mapping[str, str]
) -> StepOutcome:
    outcome: StepOutcome = run_of(step)(subject, logical_date, run_id, **options)
    if outcome.status == "unchanged" and _has_more_to_tell(step, subject, run_id):
        return replace(outcome, status="succeeded")
    return outcome


def _has_more_to_tell(step: Step, subject: Source | Product, run_id: str) -> bool:
    """Whether a step that found nothing to do must not count as unchanged, because what follows it has work left."""
    if step.leaves_waiting and isinstance(subject, Source):
        from jobs.silver.step import has_pending_work

        return has_pending_work(subject)
    # A task that was killed after its record, but before Airflow knew, has announced nothing: readers still wait.
    return _kind(subject) in step.announces and has_succeeded(run_id, step.name, subject.name)
