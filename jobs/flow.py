"""One step of one source or product, as Airflow, the command line and tests all call it."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from jobs.declared.catalog import Catalog, Product, Source, find_product, find_source, load_catalog
from jobs.errors import DeclarationError, ExchangeError, NotFound
from jobs.lake import guard, refresh
from jobs.lake.engine_errors import translate_engine_errors
from jobs.registry.runs import Status, StepOutcome, recorded
from jobs.steps import Step, door, step_named


@dataclass(frozen=True)
class StepRun:
    """A step that was run: which step, of what, for how long, and with what outcome.

    The outcome is what the stage itself returned and the registry recorded; a stage knows neither by which name it was
    called nor how long it took, and whoever shows a step to a user wants both beside the outcome.

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
        """What the user should hear of it."""
        return self.outcome.message

    @property
    def rows(self) -> int | None:
        """Rows that it wrote, or read if it writes none; None where it counts none."""
        counts = self.outcome.counts
        return counts.rows_in if counts.rows_out is None else counts.rows_out

    @property
    def version(self) -> str | None:
        """The release's number, or else the Delta version that it made or checked."""
        if self.outcome.release:
            return self.outcome.release
        return None if self.outcome.output_version is None else str(self.outcome.output_version)


def run_step(step: str, name: str, logical_date: datetime, run_id: str) -> StepRun:
    """Run one step for a source or product, and record it.

    Args:
        step: the name of one of `jobs.steps`.
        name: the source's or product's name, or a table's, such as ``silver.x`` or ``gold.x``.
        logical_date: the date whose data the step works on, aware.
        run_id: groups the steps of one run.

    Raises:
        ExchangeError: anything a user can cause or meet, in one line.
    """
    chosen = step_named(step)
    subject = _subject(chosen, name)
    kind: Literal["source", "product"] = "source" if isinstance(subject, Source) else "product"
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
            lambda: guard.retried(lambda: _attempt(chosen, subject, logical_date, run_id)),
        )  # fmt: skip
    return StepRun(step, subject.name, table, time.monotonic() - started, outcome)


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
    from jobs.lake.pointers import pointer
    from jobs.registry.releases import is_released
    from jobs.registry.runs import last_released_version

    if not is_released(product.name):
        return False
    # A version that `release` found equal to the last release counts as released.
    checked = pointer(product.table)
    return checked is not None and last_released_version(product.name) == checked.delta_version


def _subject(step: Step, name: str) -> Source | Product:
    """What a step works on, by its own name or by that of a table."""
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
    # Bronze has no expectations, nor anything else that both kinds of tables have.
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


def _attempt(step: Step, subject: Source | Product, logical_date: datetime, run_id: str) -> StepOutcome:
    # Within the record, so that it keeps the explanation too, and within each attempt, so that a conflict which the
    # engine reports is retried.
    with translate_engine_errors(subject.file):
        return _do(step, subject, logical_date, run_id)


def _do(step: Step, subject: Source | Product, logical_date: datetime, run_id: str) -> StepOutcome:
    outcome: StepOutcome = door(step)(subject, logical_date, run_id)
    if outcome.status == "unchanged" and step.leaves_waiting and isinstance(subject, Source):
        from jobs.silver.step import has_pending_work

        if has_pending_work(subject):
            return replace(outcome, status="succeeded")
    return outcome
