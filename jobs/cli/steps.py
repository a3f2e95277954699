"""Commands that run whole rounds, single steps, rebuilds and the documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.options import AsJson, EitherName, ProductName, SourceName
from jobs.cli.show import document, line, note
from jobs.errors import ExchangeError
from jobs.steps import Step, step_named

if TYPE_CHECKING:
    from jobs.flow import StepRun

HELD_BACK = 1

OnCluster = Annotated[
    bool, typer.Option("--cluster", help="On this machine's cluster, which is started first and stays up.")
]
_NAMES: dict[tuple[str, ...], Any] = {("source",): SourceName, ("product",): ProductName}
Day = Annotated[
    datetime | None,
    typer.Option("--date", formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="Logical date in UTC; now by default."),
]


def run(cluster: OnCluster = False) -> None:
    """Load every source and release every product with new inputs, through Airflow, then stop everything."""
    with _on_cluster() if cluster else nullcontext():
        from jobs.airflow.run import run as run_all

        code = run_all()
    raise typer.Exit(code)


def up(cluster: OnCluster = False) -> None:
    """Do what `run` does, then keep Airflow running on its schedules, with the sharing server."""
    with _on_cluster() if cluster else nullcontext():
        from jobs.airflow.run import up as stay_up

        code = stay_up()
    raise typer.Exit(code)


def command(step: Step) -> Callable[..., None]:
    """Return the command that runs a step of one source or product."""
    if step.name in _ACCEPTING:
        return _ACCEPTING[step.name]

    def run_one(name: str, date: Day = None, as_json: AsJson = False) -> None:
        _run(step, name, date, as_json, {})

    run_one.__doc__ = step.does
    run_one.__annotations__["name"] = _NAMES.get(step.of, EitherName)
    return run_one


def release(
    name: ProductName,
    accept: Annotated[
        bool, typer.Option("--accept", help="Release although it breaks or shrinks what buyers have.")
    ] = False,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why; it goes into the manifest.")
    ] = None,
    date: Day = None,
    as_json: AsJson = False,
) -> None:
    """Give a product's checked version a number, a manifest and a certificate; exit code 1 if it is held back."""
    done = _run(step_named("release"), name, date, as_json, _accepted(f"release {name}", accept, reason))
    if done.outcome.release is None:
        raise typer.Exit(HELD_BACK)


AcceptLeaving = Annotated[bool, typer.Option("--accept", help="Also if rows of the checked version leave.")]
LeavingReason = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Why they may; it is kept with the run.")
]


def silver(
    name: SourceName,
    accept: AcceptLeaving = False,
    reason: LeavingReason = None,
    date: Day = None,
    as_json: AsJson = False,
) -> None:
    """Type and key the rows of a source; refused ones go to quarantine. Then: check."""
    _run(step_named("silver"), name, date, as_json, _accepted(f"silver {name}", accept, reason))


_ACCEPTING: dict[str, Callable[..., None]] = {"release": release, "silver": silver}


def _accepted(command: str, accept: bool, reason: str | None) -> dict[str, str]:
    """Options of a step that a person accepts something of, with the reason."""
    if accept != bool(reason and reason.strip()):
        raise ExchangeError(
            "--accept without --reason" if accept else "--reason without --accept",
            next_step=f'exchange {command} --accept --reason "why readers should get it"',
        )
    return {"accept": reason.strip()} if reason else {}


def rebuild(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="bronze.x, silver.x, quarantine.x or gold.x.")],
    accept: AcceptLeaving = False,
    reason: LeavingReason = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild a table from landing, and say whether the result is equal."""
    from jobs.operate.rebuild import rebuild as rebuild_table

    results = rebuild_table(table, run_id("rebuild"), **_accepted(f"rebuild {table}", accept, reason))
    if as_json:
        document([asdict(r) for r in results])
        return
    for result in results:
        line(str(result))


def docs(as_json: AsJson = False) -> None:
    """Write the tables' documentation and their expectations' Data Docs."""
    from jobs.portal.tables import build_docs

    page = build_docs()
    if as_json:
        document({"page": str(page)})
        return
    line(f"open {page}")


@contextmanager
def _on_cluster() -> Iterator[None]:
    from jobs.operate.cluster.run import Size, environment_file, use

    note("starting the parts of the cluster that are down; the first start downloads jars")
    started = use(Size())
    line(f"the cluster is up: {', '.join(started)} started" if started else "the cluster is up already")

    yield
    line(f"the cluster stays up; to use it:  . {environment_file()}")
    line("                      to stop it:  exchange cluster down (after the line above); data is kept")


def run_id(prefix: str = "cli") -> str:
    """Return the id under which the steps of one command are recorded."""
    return f"{prefix}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{token_hex(2)}"


def _run(
    step: Step, name: str, date: datetime | None, as_json: bool, options: Mapping[str, str]
) -> StepRun:
    from jobs.flow import run_step

    moment = date.replace(tzinfo=UTC) if date else datetime.now(UTC).replace(microsecond=0)
    done = run_step(step.name, name, moment, run_id(), options)
    if as_json:
        fields = ("step", "name", "table", "status", "rows", "seconds", "message", "version")
        document({field: getattr(done, field) for field in fields})
        return done
    rows = f", {done.rows:,} rows" if done.rows is not None else ""
    version = f", version {done.version}" if done.version and not done.outcome.release else ""
    message = f": {done.message}" if done.message else ""
    status = "held back" if step.name == "release" and done.outcome.release is None else done.status
    line(f"{step.name} {done.name} {status}{rows}{version} in {done.seconds:.1f} s{message}")
    if step.builds and done.status == "succeeded":
        note(f"readers see this version once `exchange check {done.table}` has passed")
    return done
