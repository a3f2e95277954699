"""The table of steps: what each works on, and what flow, Airflow and the command line need to run it.

To add a step, write ``jobs/<name>/step.py`` with ``run(subject, logical_date, run_id) -> StepOutcome`` and add an entry
to `STEPS`. An installed package adds one as `jobs.extensions` describes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jobs import extensions
from jobs.errors import ExchangeError

GROUP = "exchange.steps"

Subject = Literal["source", "product"]


@dataclass(frozen=True)
class Step:
    """One step of a source or product.

    Attributes:
        name: its name.
        of: what it works on; a step that works on both also accepts a table's name.
        does: what it does, in one sentence for users.
        table: the layer of the table that its runs are recorded under; empty for the subject's own, silver or gold.
        task: the Airflow task that runs it, with its neighbours of the same task; the step's own name if empty.
        needs_engine: it reads or writes tables.
        writes: it commits to a table.
        builds: it makes versions that readers see once they are checked.
        leaves_waiting: silver must run even if this step finds nothing new, because earlier work may be pending.
        announces: subjects for which its success is an event that readers of the table are triggered by.
        runs_after_unchanged: it runs in Airflow even if the step before found nothing new.
        by_staff: the exchange's staff runs it, not engineers.
        after: for a package's step, the step that it follows.
    """

    name: str
    of: tuple[Subject, ...]
    does: str
    table: Literal["", "bronze"] = ""
    task: str = ""
    needs_engine: bool = True
    writes: bool = False
    builds: bool = False
    leaves_waiting: bool = False
    announces: tuple[Subject, ...] = ()
    runs_after_unchanged: bool = False
    by_staff: bool = False
    after: str = ""


STEPS: tuple[Step, ...] = (
    Step(
        "land", ("source",), "Fetch what a publisher offers; keep bytes once and record every arrival.",
        table="bronze", needs_engine=False, leaves_waiting=True,
    ),
    Step(
        "bronze", ("source",), "Load landed files as rows of text, with where each row came from.",
        table="bronze", task="load", writes=True,
    ),
    Step(
        "silver", ("source",), "Type and key the rows of a source; refused ones go to quarantine. Then: check.",
        task="load", writes=True, builds=True,
    ),
    Step(
        "gold", ("product",), "Build a product from the checked versions of its inputs. Then: check.",
        task="build", writes=True, builds=True,
    ),
    # It writes, because it rolls back a version that fails.
    Step(
        "check", ("source", "product"),
        "Run a table's expectations on its newest version; readers see it only if they hold.",
        writes=True, announces=("source",),
    ),
    # It runs after an unchanged build, too: a run killed between check and release left its version unreleased.
    Step(
        "release", ("product",), "Give a product's checked version a number, a manifest and a certificate.",
        announces=("product",), runs_after_unchanged=True, by_staff=True,
    ),
)  # fmt: skip
# Steps whose versions need a check; packages cannot add any, because only the exchange itself moves checked versions.
BUILDING: tuple[str, ...] = tuple(step.name for step in STEPS if step.builds)


def all_steps() -> tuple[Step, ...]:
    """The steps of the exchange and of installed packages, in the order in which they run.

    Raises:
        ExchangeError: an installed package does not define its step, or places it after a step that does not exist.
    """
    steps = list(STEPS)
    own = {step.name for step in STEPS}
    for name in extensions.names(GROUP):
        if name in own:
            continue
        step = extensions.attribute(GROUP, name, "STEP")
        places = [place for place, before in enumerate(steps, start=1) if before.name == getattr(step, "after", None)]
        if not isinstance(step, Step) or step.name != name or not places:
            raise ExchangeError(
                f"the step '{name}' of an installed package is unusable",
                where=GROUP,
                expected=f"STEP = Step('{name}', …, after=…), after one of: {', '.join(s.name for s in steps)}",
                next_step="install a working version of the package",
            )
        steps.insert(places[0], step)
    return tuple(steps)


def steps_of(subject: Subject) -> tuple[Step, ...]:
    """The steps of a source, or of a product, in the order in which they run."""
    return tuple(step for step in all_steps() if subject in step.of)


def step_named(name: str) -> Step:
    """The step with this name.

    Raises:
        ExchangeError: it does not exist.
    """
    steps = {step.name: step for step in all_steps()}
    if name not in steps:
        raise ExchangeError(f"unknown step '{name}'", expected=f"one of: {', '.join(steps)}")
    return steps[name]


def run_of(step: Step) -> Callable[..., Any]:
    """The function ``run(subject, logical_date, run_id)`` of a step's module, which is imported here."""
    own = f"jobs.{step.name}.step" if step in STEPS else None
    run: Callable[..., Any] = extensions.attribute(GROUP, step.name, "run", own)
    return run
