"""Commands for a cluster: all of it on this machine, or a single part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import AsJson
from jobs.cli.show import document, line, note, table

Cores = Annotated[int | None, typer.Option("--cores", min=1, help="Per worker; all of the machine's by default.")]
Address = Annotated[
    str, typer.Option("--host", metavar="ADDRESS", help="This machine's, as the other parts reach it.")
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535)]
Memory = Annotated[str, typer.Option("--memory", help="For example 1g.")]
Master = Annotated[str, typer.Option("--master", metavar="spark://HOST:PORT", help="The master to join.")]
SecretFile = Annotated[
    Path | None,
    typer.Option("--secret-file", metavar="FILE", help="The cluster's secret, a copy of the master's file."),
]


def up(
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="How many; 2 by default.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Per worker; 1g by default.")] = None,
    cores: Annotated[int | None, typer.Option("--cores", min=1, help="Per worker; by default all, shared.")] = None,
) -> None:
    """Start an object store, a database and Spark with Delta on this machine; parts that are up stay up."""
    from jobs.operate.cluster import run

    note("starting the parts that are down; the first start downloads jars")
    state, started = run.up(run.Size(workers, cores, memory))
    line(f"started {', '.join(started)}" if started else "the cluster is up already")
    line(f"to use it:  . {run.environment_file()}")
    line(f"            sets EXCHANGE_HOME, EXCHANGE_SPARK (sc://localhost:{state.ports['connect']}), EXCHANGE_LAKE,")
    line("            the addresses of both databases (registry, Airflow) and the AWS_ variables of its object store")


def down() -> None:
    """Stop every part of the cluster; data is kept."""
    from jobs.operate.cluster import run

    stopped = run.down()
    line(f"stopped {', '.join(stopped)}" if stopped else "no part was up")


def status(as_json: AsJson = False) -> None:
    """Show each part's state, process, address and start time."""
    from jobs.operate.cluster.watch import parts

    running = parts()
    if as_json:
        document(running)
        return
    if not running:
        note("no part is up. Next: exchange cluster up")
        return
    table(
        ["part", "state", "pid", "address", "since"],
        [[p["part"], p["state"], str(p["pid"]), p["address"], p["since"]] for p in running],
    )


def logs(
    part: Annotated[str, typer.Argument(metavar="PART", help="As `exchange cluster status` names it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new lines.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines, from the end.")] = 100,
) -> None:
    """Show a part's log."""
    import sys

    from jobs.operate.cluster.watch import log_lines

    for text in log_lines(part, lines, follow):
        line(text)
        sys.stdout.flush()


def master(
    host: Address = "127.0.0.1",
    port: Port = 7077,
    page_port: Annotated[int, typer.Option("--page-port", min=0, max=65535, help="Port of its web page.")] = 8080,
    secret_file: SecretFile = None,
) -> None:
    """Run a master here, in the foreground, for workers on other machines."""
    from jobs.operate.cluster import alone

    alone.run_master(host, port, page_port, secret_file)


def worker(
    master: Master,
    host: Address = "127.0.0.1",
    port: Port = 0,
    memory: Memory = "1g",
    cores: Cores = None,
    secret_file: SecretFile = None,
) -> None:
    """Run a worker here, in the foreground, for a master elsewhere."""
    from jobs.operate.cluster import alone

    alone.run_worker(master, host, port, memory, cores, secret_file)


def connect(
    master: Master,
    host: Address = "127.0.0.1",
    listen: Annotated[str, typer.Option("--listen", metavar="ADDRESS", help="For clients.")] = "127.0.0.1",
    port: Port = 15002,
    memory: Memory = "1g",
    cores: Annotated[int, typer.Option("--cores", min=1, help="All workers' cores together.")] = 8,
    secret_file: SecretFile = None,
) -> None:
    """Run the Connect server here, in the foreground; it reaches the lake with the AWS_ variables."""
    from jobs.operate.cluster import alone

    alone.run_connect(master, host, listen, port, memory, cores, secret_file)


def lock_jars() -> None:
    """Resolve again the jars that Spark lacks, and lock their versions and digests."""
    from jobs.operate.cluster.jars import LOCK, write_lock

    line(f"{len(write_lock())} jars in {LOCK}")
