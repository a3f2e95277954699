"""Shows a round through the catalogue and its result: live on a terminal, line by line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table

from jobs.airflow.progress import Subject
from jobs.registry.models import Run

_COLOURS = {
    "done": "green", "unchanged": "dim", "failed": "red", "running": "cyan", "paused": "yellow", "waiting": "dim",
}  # fmt: skip


@dataclass(frozen=True)
class ProductOutcome:
    """One product at the end of a round: its newest release, and whether this round made it."""

    product: str
    release: str
    rows: int | None
    grade: str
    licence: str
    news: str


@dataclass
class Display:
    """All that the runner prints; a context manager around what is shown live."""

    console: Console
    _live: Live | None = None
    _phase: str = ""
    _subjects: list[Subject] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=5, transient=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._phase = ""
            self._live.stop()
            self._live = None

    def phase(self, text: str) -> None:
        """Show what the runner is waiting for."""
        self._phase = text
        if not self._live and text:
            self.console.print(f"{self._clock()} {escape(text)}", highlight=False)

    def follow(self, subjects: Iterable[Subject]) -> None:
        """Show these sources and products from now on."""
        self._subjects = list(subjects)

    def ended(self, records: Iterable[Run]) -> None:
        """Print steps that have just ended; on a terminal the live table already shows them."""
        if self._live:
            return
        for run in records:
            seconds = (run.ended_at - run.started_at).total_seconds() if run.ended_at else 0.0
            rows = f"{_count(run.rows_out)} rows" if run.rows_out is not None else ""
            line = f"{run.step:8} {run.name:28} {run.status:10} {rows:>16} {seconds:6.1f} s  {run.message or ''}"
            self.console.print(f"{self._clock()} {escape(line.rstrip())}", highlight=False, soft_wrap=True)

    def _clock(self) -> str:
        return f"{time.monotonic() - self._began:6.1f} s "

    def _render(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column, justify in (("", "left"), ("step", "left"), ("rows", "right"), ("seconds", "right"), ("", "left")):
            # In a loop mypy takes the literals for any text.
            table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for subject in self._subjects:
            table.add_row(
                subject.label, subject.step, _count(subject.rows), f"{subject.seconds:.1f}" if subject.steps else "",
                f"[{_COLOURS[subject.state]}]{escape(_state(subject))}[/]",
            )  # fmt: skip
        if not self._phase:
            return table
        grid = Table.grid()
        if self._subjects:
            grid.add_row(table)
        grid.add_row(Spinner("dots", f"{escape(self._phase)} ({time.monotonic() - self._began:.0f} s)"))
        return grid


def print_outcome(console: Console, outcomes: Sequence[ProductOutcome]) -> None:
    """The table at the end of a round: what can be read now."""
    table = Table(title="Products", title_justify="left", title_style="bold", header_style="bold")
    for column in ("product", "release", "rows", "grade", "licence", ""):
        table.add_column(column, justify="right" if column == "rows" else "left", overflow="fold")
    for outcome in outcomes:
        colour = "green" if outcome.news == "new" else "dim"
        table.add_row(
            outcome.product, outcome.release, _count(outcome.rows), outcome.grade, escape(outcome.licence),
            f"[{colour}]{escape(outcome.news)}[/]",
        )  # fmt: skip
    console.print(table)


def print_drafts(console: Console, drafts: Mapping[str, Exception]) -> None:
    """What keeps products from being released, one line each."""
    for product, reason in drafts.items():
        console.print(f"[yellow]draft[/]  {escape(f'{product}: {reason}')}", highlight=False, soft_wrap=True)


def print_ways_to_read(console: Console, product: str, python: str, exchange: str) -> None:
    """How to read one product: pandas, Spark SQL, shell."""
    table = f"release.{product}"
    lines = (
        f"Read {product}, for example (Python is {python}):",
        f"  pandas     from jobs.lake import session; session().table('{table}').toPandas()",
        f"  Spark SQL  from jobs.lake import session; session().sql('SELECT * FROM {table} LIMIT 10').show()",
        f"  shell      {exchange} sql 'SELECT * FROM {table} LIMIT 10'",
    )
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)


def print_failures(console: Console, failures: Iterable[str]) -> None:
    """What failed and why, one line each."""
    for failure in failures:
        console.print(f"[red]failed[/]  {escape(failure)}", highlight=False, soft_wrap=True)


def _state(subject: Subject) -> str:
    if subject.state == "failed" and subject.note:
        return f"failed: {subject.note}"
    return subject.state


def _count(rows: int | None) -> str:
    return "" if rows is None else f"{rows:,}"
