"""Commands that run whole rounds, single steps, rebuilds and the documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from secrets import token_hex
from typing import Annotated, Any

import typer

from jobs.cli.options import AsJson
from jobs.cli.show import document, line, note
from jobs.steps import Step

SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="A source; `exchange sources` lists them.")]
ProductName = Annotated[str, typer.Argument(metavar="PRODUCT", help="A product; `exchange products` lists them.")]
EitherName = Annotated[str, typer.Argument(metavar="NAME", help="A source, a product, or a table like silver.x.")]
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

    def run_one(name: str, date: Day = None, as_json: AsJson = False) -> None:
        _run(step, name, date, as_json)

    run_one.__doc__ = step.does
    run_one.__annotations__["name"] = _NAMES.get(step.of, EitherName)
    return run_one


def rebuild(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="bronze.x, silver.x, quarantine.x or gold.x.")],
    as_json: AsJson = False,
) -> None:
    """Rebuild a table from landing, and say whether the result is equal."""
    from jobs.operate.rebuild import rebuild as rebuild_table

    results = rebuild_table(table, run_id=run_id("rebuild"))
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


def _run(step: Step, name: str, date: datetime | None, as_json: bool) -> None:
    from jobs.flow import run_step

    moment = date.replace(tzinfo=UTC) if date else datetime.now(UTC).replace(microsecond=0)
    done = run_step(step.name, name, moment, run_id())
    if as_json:
        fields = ("step", "name", "table", "status", "rows", "seconds", "message", "version")
        document({field: getattr(done, field) for field in fields})
        return
    rows = f", {done.rows:,} rows" if done.rows is not None else ""
    version = f", version {done.version}" if done.version and not done.outcome.release else ""
    message = f": {done.message}" if done.message else ""
    line(f"{step.name} {done.name} {done.status}{rows}{version} in {done.seconds:.1f} s{message}")
    if step.builds and done.status == "succeeded":
        note(f"readers see this version once `exchange check {done.table}` has passed")
