"""One round through the catalogue in a running Airflow: every source now, then every product with new inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from jobs.airflow.client import Client, DagRunState
from jobs.airflow.display import Display
from jobs.airflow.progress import Subject, subjects_of, take_records
from jobs.airflow.services import Services
from jobs.declared.catalog import Catalog
from jobs.errors import ExchangeError
from jobs.registry.releases import newest_published
from jobs.registry.runs import last_run_id, runs_after

# Tries per task when a publisher is at fault and a user waits for the round; schedules retry for longer.
TRIES = 2

# Seconds between two polls of the registry, and of Airflow, whose answers cost it more.
_PAUSE = 0.4
_AIRFLOW_SECONDS = 1.0
# Services that ended are noticed immediately; these limits allow for a busy machine.
_START_SECONDS = 300.0
_PARSE_SECONDS = 300.0
_STALL_SECONDS = 300.0
# An Asset event becomes a run of its product within two turns of the scheduler.
_ASSET_SECONDS = 3.0


@dataclass
class Round:
    """One round and its progress; `failures` is empty when all went well."""

    services: Services
    client: Client
    catalog: Catalog
    display: Display
    subjects: dict[str, Subject] = field(init=False)
    failures: list[str] = field(default_factory=list)
    _began: datetime = field(default_factory=lambda: datetime.now(UTC))
    _triggered: set[tuple[str, str]] = field(default_factory=set)
    _seen: dict[tuple[str, str], DagRunState] = field(default_factory=dict)
    _asked_at: float = 0.0
    _last_news: float = field(default_factory=time.monotonic)
    _quiet_since: float | None = None
    _after: int = 0

    def __post_init__(self) -> None:
        self.subjects = subjects_of(self.catalog)
        self._after = last_run_id()

    def go(self) -> None:
        """Run it to its end.

        Raises:
            ExchangeError: Airflow does not start, a service ended, or there was no progress for five minutes.
        """
        self._wait(self.client.is_up, _START_SECONDS, "Airflow's API server does not answer")
        self.client.prepare()
        self.display.phase("reading the declarations")
        self._wait_for_dags()
        self._give_up_leftovers()
        self.display.follow(self.subjects.values())
        self._trigger(subject for subject in self.subjects.values() if subject.kind == "source")
        self.display.phase("running")
        while not self._is_over():
            self.services.check()
            time.sleep(_PAUSE)
        self._settle()
        self.display.phase("")

    def _wait(self, ready: Callable[[], bool], seconds: float, otherwise: str) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            self.services.check()
            if time.monotonic() > deadline:
                raise ExchangeError(
                    f"{otherwise} after {seconds:.0f} seconds",
                    where=str(self.services.logs),
                    next_step="read the logs there, then start again",
                )
            time.sleep(_PAUSE / 2)

    def _wait_for_dags(self) -> None:
        deadline = time.monotonic() + _PARSE_SECONDS
        while True:
            dags = self.client.dags()
            missing = [
                dag_id for dag_id in self.subjects
                if dag_id not in dags or (dags[dag_id].parsed_at or self._began) <= self._began
            ]  # fmt: skip
            if not missing:
                break
            self.services.check()
            errors = self.client.import_errors()
            if time.monotonic() > deadline:
                reason = "; ".join(errors) or "no import error"
                for dag_id in missing:
                    subject = self.subjects.pop(dag_id)
                    self.failures.append(f"{subject.label}: Airflow has no DAG {dag_id}: {reason}")
                break
            time.sleep(_PAUSE / 2)
        for dag_id, subject in self.subjects.items():
            if dags[dag_id].is_paused:
                subject.state, subject.note = "paused", "paused in Airflow"

    def _give_up_leftovers(self) -> None:
        """Fail the runs that a killed runner left active in Airflow; this round does their work again."""
        for run in self.client.active_runs():
            if run.queued_at is not None and run.queued_at < self._began:
                self.client.give_up(run)

    def _trigger(self, subjects: Iterable[Subject]) -> None:
        active = {run.dag_id for run in self.client.active_runs()}
        for subject in subjects:
            if subject.state == "paused" or subject.dag_id in active:
                continue
            now = datetime.now(UTC)
            run_id = f"run_{now:%Y%m%dT%H%M%S.%f}Z"
            self.client.trigger(subject.dag_id, run_id, now, {"tries": TRIES})
            self._triggered.add((subject.dag_id, run_id))
            subject.state = "running"

    def _is_over(self) -> bool:
        self._poll()
        active = any(run.is_active for run in self._seen.values()) or not self._triggered <= self._seen.keys()
        if active:
            self._quiet_since = None
            self._require_progress()
            return False
        self._quiet_since = self._quiet_since or time.monotonic()
        stale = self._stale()
        if not stale:
            return True
        if time.monotonic() - self._quiet_since > _ASSET_SECONDS:
            self._trigger(stale)
            self._quiet_since = None
        return False

    def _stale(self) -> list[Subject]:
        """Products that no Asset event of this Airflow brought up to date, upstream products first.

        An event of one input starts a product before the others are loaded; their own events start it again.
        """
        from jobs.flow import stale_products

        stale = {one.name: one for one in stale_products()}
        tables = {f"gold.{name}" for name in stale}
        triggered = {dag_id for dag_id, _ in self._triggered}
        tried = {dag_id for dag_id, _ in self._seen}
        return [
            subject for subject in self.subjects.values()
            if subject.kind == "product" and subject.name in stale and subject.state not in ("paused", "failed")
            and subject.dag_id not in triggered
            and not (subject.dag_id in tried and stale[subject.name].is_built)
            and not tables & set(self.catalog.products[subject.name].inputs)
        ]  # fmt: skip

    def _poll(self) -> None:
        records = runs_after(self._after)
        news = take_records(self.subjects, records)
        self.display.ended(news)
        before = dict(self._seen)
        if time.monotonic() - self._asked_at > _AIRFLOW_SECONDS:
            self._seen |= {(run.dag_id, run.run_id): run for run in self.client.runs(self._began)}
            self._asked_at = time.monotonic()
        for dag_id, subject in self.subjects.items():
            mine = [run for run in self._seen.values() if run.dag_id == dag_id]
            if mine:
                _set_state(subject, mine)
        if news or before != self._seen or any(run.status == "running" for run in records):
            self._last_news = time.monotonic()

    def _require_progress(self) -> None:
        quiet = time.monotonic() - self._last_news
        if quiet > _STALL_SECONDS:
            waiting = ", ".join(sorted({run.dag_id for run in self._seen.values() if run.is_active}))
            raise ExchangeError(
                f"no progress for {quiet:.0f} seconds; still running: {waiting}",
                where=str(self.services.logs),
                next_step="read the logs there, then start again",
            )

    def _settle(self) -> None:
        released = newest_published()
        for subject in self.subjects.values():
            if subject.state == "waiting" and subject.name in released:
                subject.state = "unchanged"

    def collect_failures(self) -> list[str]:
        """One line for each thing that failed."""
        lines = list(self.failures)
        for subject in self.subjects.values():
            if subject.state == "failed":
                lines.append(f"{subject.label}: {self._why(subject)}")
        return lines

    def _why(self, subject: Subject) -> str:
        failed = [run for run in subject.steps.values() if run.status == "failed"]
        if failed:
            return f"{failed[-1].step}: {failed[-1].message}"
        runs = [run for run in self._seen.values() if run.dag_id == subject.dag_id and run.state == "failed"]
        tasks = "a task"
        with suppress(ExchangeError):
            tasks = f"task {', '.join(self.client.failed_tasks(runs[-1]))}"
        return f"{tasks} ended without a record; its log is in {self.services.home}/logs/dag_id={subject.dag_id}"


def _set_state(subject: Subject, runs: list[DagRunState]) -> None:
    if any(run.is_active for run in runs):
        subject.state = "running"
    elif any(run.state == "failed" for run in runs[-1:]):
        subject.state = "failed"
    else:
        subject.state = "done" if subject.has_moved else "unchanged"
