"""One step of one source or product, as Airflow, the command line and tests all call it."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, get_args

from jobs.declared.catalog import Catalog, Product, Source, find_product, find_source, load_catalog
from jobs.errors import DeclarationError, ExchangeError, NotFound
from jobs.lake import guard, refresh
from jobs.lake.engine_errors import translate_engine_errors
from jobs.registry.runs import Counts, Status, StepOutcome, recorded

Step = Literal["land", "bronze", "silver", "gold", "check", "release"]
# A check takes back the version that it does not pass.
_WRITING: tuple[Step, ...] = ("bronze", "silver", "gold", "check")


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
        """Rows that it wrote, or read for `check`; None where it counts none."""
        return self.outcome.counts.rows_in if self.step == "check" else self.outcome.counts.rows_out

    @property
    def version(self) -> str | None:
        """The release's number, or else the Delta version that it made or checked."""
        if self.outcome.release:
            return self.outcome.release
        return None if self.outcome.output_version is None else str(self.outcome.output_version)


def run_step(step: str, name: str, logical_date: datetime, run_id: str) -> StepRun:
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
        translate_engine_errors(subject.file),
        (guard.writing if step in _WRITING else guard.locked)(f"{kind}.{subject.name}"),
    ):
        outcome = recorded(
            run_id, step, kind, subject.name, logical_date, table,
            lambda: guard.retried(lambda: _attempt(step, subject, logical_date, run_id)),
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


def _attempt(step: str, subject: Source | Product, logical_date: datetime, run_id: str) -> StepOutcome:
    # Within the record, so that it keeps the explanation too, and within each attempt, so that a conflict which the
    # engine reports is retried.
    with translate_engine_errors(subject.file):
        return _do(step, subject, logical_date, run_id)


def _do(step: str, subject: Source | Product, logical_date: datetime, run_id: str) -> StepOutcome:
    if step == "check":
        from jobs.check.step import check

        return check(subject.table, logical_date, run_id)
    if isinstance(subject, Source):
        return _source_step(step, subject, logical_date, run_id)
    if step == "gold":
        from jobs.gold.step import gold

        return gold(subject)
    return _release(subject, run_id)


def _source_step(step: str, source: Source, logical_date: datetime, run_id: str) -> StepOutcome:
    if step == "land":
        return _land(source, logical_date, run_id)
    if step == "bronze":
        from jobs.bronze.step import bronze

        return bronze(source)
    from jobs.silver.step import silver

    outcome = silver(source)
    return outcome if outcome.output_version is None else replace(outcome, message=_remarks(source, outcome))


def _remarks(source: Source, outcome: StepOutcome) -> str | None:
    """A silver build's message with what nobody would look for: rows in quarantine, and work that grows with the table.
    """
    from jobs.declared.contract import load_contract
    from jobs.lake.partitions import whole_table_read

    refused = outcome.counts.rows_quarantined
    parts = [
        outcome.message,
        f"{refused:,} row{'s' if refused != 1 else ''} refused, see `exchange quarantine {source.name}`"
        if refused
        else None,
        whole_table_read(load_contract(source.table)),
    ]
    return "; ".join(p for p in parts if p) or None


def _land(source: Source, logical_date: datetime, run_id: str) -> StepOutcome:
    """Land, and say "succeeded" even if nothing new arrived, as long as something that landed before still waits."""
    from jobs.land.step import land
    from jobs.silver.step import held_back

    outcome = land(source, logical_date, run_id)
    if outcome.status == "unchanged" and held_back(source):
        return replace(outcome, status="succeeded")
    return outcome


def _release(product: Product, run_id: str) -> StepOutcome:
    from jobs.lake.pointers import checked
    from jobs.release.step import release

    released = release(product, run_id=run_id, now=datetime.now(UTC))
    return StepOutcome(
        status="succeeded" if released.is_new else "unchanged",
        counts=Counts(rows_out=released.rows),
        output_version=checked(product.table).delta_version,
        message=f"{released.number}, grade {released.grade}" + ("" if released.is_new else ", as before"),
        release=released.number,
    )
