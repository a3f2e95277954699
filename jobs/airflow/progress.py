"""What one round through the catalogue has done so far, per source and product, from the registry and Airflow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from jobs.declared.catalog import Catalog
from jobs.registry.models import Run

State = Literal["waiting", "running", "done", "unchanged", "failed", "paused"]


@dataclass
class Subject:
    """One source or product in this round."""

    kind: Literal["source", "product"]
    name: str
    label: str
    dag_id: str
    state: State = "waiting"
    note: str = ""
    records: dict[int, Run] = field(default_factory=dict)

    @property
    def steps(self) -> dict[str, Run]:
        """The newest record of each step, in the order of these records, so that a retried step comes last."""
        newest = {run.step: run for run in sorted(self.records.values(), key=_id)}
        return dict(sorted(newest.items(), key=lambda item: _id(item[1])))

    @property
    def step(self) -> str:
        """The current step, or the last one."""
        return next(reversed(self.steps), "")

    @property
    def rows(self) -> int | None:
        """Rows written by the latest step that counts them."""
        counted = [run.rows_out for run in self.steps.values() if run.rows_out is not None]
        return counted[-1] if counted else None

    @property
    def seconds(self) -> float:
        """Time spent in its steps that have ended."""
        return sum((run.ended_at - run.started_at).total_seconds() for run in self.steps.values() if run.ended_at)

    @property
    def has_moved(self) -> bool:
        """Whether a step wrote something new."""
        return any(run.status == "succeeded" for run in self.records.values())

    def take(self, run: Run) -> bool:
        """Keep a step's record; return whether the step has just ended.

        Each record counts by itself: a step has two where the schedule starts a run beside the requested one.
        """
        before = self.records.get(run.id)
        self.records[run.id] = run
        if run.message and run.status in ("failed", "unchanged"):
            self.note = run.message
        return run.status != "running" and (before is None or before.status == "running")


def _id(run: Run) -> int:
    return run.id


def subjects_of(catalog: Catalog) -> dict[str, Subject]:
    """All sources and products that can run, by DAG id, in the order they are shown."""
    sources = [
        Subject("source", source.name, f"{source.sector}/{source.name}", source.dag_id)
        for source in sorted(catalog.sources.values(), key=lambda source: (source.sector, source.name))
    ]
    products = [Subject("product", product.name, product.name, product.dag_id) for product in catalog.products.values()]
    return {subject.dag_id: subject for subject in sources + products}


def take_records(subjects: dict[str, Subject], records: Iterable[Run]) -> list[Run]:
    """Keep the steps' records, oldest first; return those of steps that have ended since the last call."""
    by_name: dict[tuple[str, str], Subject] = {(subject.kind, subject.name): subject for subject in subjects.values()}
    return [
        record
        for record in records
        if (subject := by_name.get((record.kind, record.name))) is not None and subject.take(record)
    ]
