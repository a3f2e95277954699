"""Commands for a cluster: all of it on this machine, or one part of it here and the others elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import AsJson
from jobs.cli.show import document, line, note, table

Cores = Annotated[int | None, typer.Option("--cores", min=1, help="Of each worker; all there are unless said.")]
Address = Annotated[
    str, typer.Option("--host", metavar="ADDRESS", help="Of this machine, by which the other parts reach it.")
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535)]
Memory = Annotated[str, typer.Option("--memory", help="Such as 1g.")]
Master = Annotated[str, typer.Option("--master", metavar="spark://HOST:PORT", help="The master it belongs to.")]
SecretFile = Annotated[
    Path | None,
    typer.Option("--secret-file", metavar="FILE", help="The cluster's secret, a copy of the master's file."),
]


def up(
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="How many; two unless said.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Of each worker; 1g unless said.")] = None,
    cores: Annotated[int | None, typer.Option("--cores", min=1, help="Of each worker; all shared unless said.")] = None,
) -> None:
    """Start an object store, a database and Spark with Delta on this machine, or what of them is not up."""
    from jobs.operate.cluster import run

    note("starting what is not up; the first time jars are fetched")
    state, started = run.up(run.Size(workers, cores, memory))
    line(f"started {', '.join(started)}" if started else "it is up already")
    line(f"to use it:  . {run.environment_file()}")
    line(f"            sets EXCHANGE_HOME, EXCHANGE_SPARK (sc://localhost:{state.ports['connect']}), EXCHANGE_LAKE,")
    line("            the addresses of both databases (registry, Airflow) and the AWS_ variables of its object store")


def down() -> None:
    """Stop every part of the cluster; what is stored stays."""
    from jobs.operate.cluster import run

    ended = run.down()
    line(f"stopped {', '.join(ended)}" if ended else "no part was up")


def status(as_json: AsJson = False) -> None:
    """Show each part: whether it answers, its process, its address, since when."""
    from jobs.operate.cluster.watch import parts

    found = parts()
    if as_json:
        document(found)
        return
    if not found:
        note("no part is up; exchange cluster up starts them")
        return
    table(
        ["part", "state", "pid", "address", "since"],
        [[p["part"], p["state"], str(p["pid"]), p["address"], p["since"]] for p in found],
    )


def logs(
    part: Annotated[str, typer.Argument(metavar="PART", help="As `exchange cluster status` names it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what it says from now on.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 100,
) -> None:
    """Show what a part said."""
    import sys

    from jobs.operate.cluster.watch import log_lines

    for text in log_lines(part, lines, follow):
        line(text)
        sys.stdout.flush()


def master(
    host: Address = "127.0.0.1",
    port: Port = 7077,
    page_port: Annotated[int, typer.Option("--page-port", min=0, max=65535, help="Of its web page.")] = 8080,
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
    cores: Annotated[int, typer.Option("--cores", min=1, help="Of all workers together.")] = 8,
    secret_file: SecretFile = None,
) -> None:
    """Run the Connect server here, in the foreground; the AWS_ variables say how it reaches the lake."""
    from jobs.operate.cluster import alone

    alone.run_connect(master, host, listen, port, memory, cores, secret_file)


def lock_jars() -> None:
    """Resolve the jars that Spark lacks anew, and write their versions and digests into the lock."""
    from jobs.operate.cluster.jars import LOCK, write_lock

    line(f"{len(write_lock())} jars in {LOCK}")
