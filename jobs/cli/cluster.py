"""Commands for a cluster: all of it on this machine, or one part of it here and the others elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli.options import AsJson
from jobs.cli.show import document, line, listing, note


def up(
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="How many workers; 2 unless said.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Of each worker; 1g unless said.")] = None,
    cores: Annotated[int | None, typer.Option("--cores", min=1, help="Of each worker.")] = None,
) -> None:
    """Start an object store, a database and Spark with Delta on this machine, or what of them is not up."""
    from jobs.cluster import run

    run.up(run.Size(workers, cores, memory), note)
    line(f"the cluster is up; to use it:  . {run.environment_file()}")


def down() -> None:
    """Stop every part of the cluster; what is stored stays."""
    from jobs.cluster import run

    ended = run.down()
    line(f"stopped: {', '.join(ended)}" if ended else "no part was up")


def logs(
    part: Annotated[str, typer.Argument(metavar="PART", help="As `exchange cluster status` names it.")],
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 100,
) -> None:
    """Show what a part said."""
    from jobs.cluster import run

    line(run.log_text(part, lines))


def status(as_json: AsJson = False) -> None:
    """Show each part: its process, its port, whether it answers, since when."""
    from jobs.cluster import run
    from jobs.cluster.state import load

    state = load()
    found = [
        {"part": p.name, "state": "up" if run.is_answering(p) else "down", "pid": p.pid, "port": p.port,
         "since": p.began_at}
        for p in (state.parts.values() if state else ())
    ]  # fmt: skip
    if as_json:
        document(found)
        return
    listing(found, ["part", "state", "pid", "port", "since"], as_json=False, empty="no cluster was started")
