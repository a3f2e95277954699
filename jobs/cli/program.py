"""Assembles the commands, and turns any error into one line and an exit code.

Only typer is imported here, to keep `exchange --help` fast. Each command imports what it needs when it runs.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from jobs.cli import (
    buyers,
    cluster,
    doctor,
    lake,
    landing,
    new,
    quality,
    query,
    records,
    registry,
    releases,
    steps,
    verify,
)
from jobs.cli.options import BUYER, ENGINEER, STAFF
from jobs.errors import AcceptanceNeeded, ExchangeError, ExpectationsFailed, RefusedFile, Tampered, Transient
from jobs.operate.signals import block_signals
from jobs.steps import all_steps

FAILED_WORK = 1
USERS_MISTAKE = 2
UNEXPECTED = 70
INTERRUPTED = 130

_FAILURES = (AcceptanceNeeded, ExpectationsFailed, RefusedFile, Tampered, Transient)

_ROUNDS: tuple[tuple[str, str, Callable[..., None]], ...] = (
    (ENGINEER, "run", steps.run),
    (ENGINEER, "up", steps.up),
)

# Listed after the whole rounds and the single steps.
_COMMANDS: tuple[tuple[str, str, Callable[..., None]], ...] = (
    (ENGINEER, "sources", records.sources),
    (ENGINEER, "runs", records.runs),
    (ENGINEER, "quality", quality.quality),
    (ENGINEER, "quarantine", quality.quarantine),
    (ENGINEER, "rebuild", steps.rebuild),
    (ENGINEER, "docs", steps.docs),
    (ENGINEER, "doctor", doctor.doctor),
    (ENGINEER, "upkeep", lake.upkeep),
    (STAFF, "grant", buyers.grant),
    (STAFF, "grants", buyers.grants),
    (STAFF, "revoke", buyers.revoke),
    (STAFF, "recall", releases.recall),
    (STAFF, "usage", buyers.usage),
    (STAFF, "participants", buyers.participants),
    (STAFF, "enrol", buyers.enrol),
    (STAFF, "serve", buyers.serve),
    (BUYER, "products", records.products),
    (BUYER, "releases", releases.releases),
    (BUYER, "diff", releases.diff),
    (BUYER, "verify", verify.verify),
    (BUYER, "sql", query.sql),
)

_LANDING: tuple[tuple[str, Callable[..., None]], ...] = (("files", landing.files), ("drop", landing.drop))

_REGISTRY: tuple[tuple[str, Callable[..., None]], ...] = (
    ("backup", registry.backup),
    ("restore", registry.restore),
    ("rebuild", registry.rebuild),
)

_CLUSTER: tuple[tuple[str, Callable[..., None]], ...] = (
    ("up", cluster.up),
    ("down", cluster.down),
    ("status", cluster.status),
    ("logs", cluster.logs),
    ("master", cluster.master),
    ("worker", cluster.worker),
    ("connect", cluster.connect),
    ("lock-jars", cluster.lock_jars),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code.

    0: done. 1: the work failed (a publisher, a file, an expectation, another writer). 2: a mistake in the command or a
    declaration. 70: a bug in this program; its traceback is under ``logs/``. 130: interrupted.
    """
    code = run(sys.argv[1:] if arguments is None else arguments)
    if code == INTERRUPTED:
        block_signals()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. An error is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = application()(args=list(arguments) or ["--help"], prog_name="exchange", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the pipe has closed it; without this, Python complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", INTERRUPTED)
    except ExchangeError as error:
        return _say(str(error), FAILED_WORK if isinstance(error, _FAILURES) else USERS_MISTAKE)
    except Exception as error:
        return _report(error)
    return code if isinstance(code, int) else 0


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"exchange {version('data-exchange-lake')}")
        raise typer.Exit


def application() -> typer.Typer:
    """Return all commands, each in the help panel of its main users."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_whole)
    one_step = [(STAFF if step.by_staff else ENGINEER, step.name, steps.command(step)) for step in all_steps()]
    for panel, name, command in (*_ROUNDS, *one_step, *_COMMANDS):
        app.command(name, rich_help_panel=panel)(command)
    for name, command, help_text in (
        ("source", new.source, "Propose a source from a sample of its data: `source new`."),
        ("product", new.product, "Propose a product from a query or a table: `product new`."),
    ):
        group = typer.Typer(no_args_is_help=True)
        group.command("new")(command)
        # Without a callback, typer would merge a group's only command into the group, and `new` would disappear.
        group.callback()(lambda: None)
        app.add_typer(group, name=name, help=help_text, rich_help_panel=ENGINEER)
    group = typer.Typer(no_args_is_help=True)
    group.command("copy")(lake.copy)
    group.callback()(lambda: None)
    app.add_typer(group, name="lake", help="The lake as a whole: `lake copy`.", rich_help_panel=ENGINEER)
    for name, help_text, commands in (
        ("landing", "Landed files: list them, drop one that no table may have.", _LANDING),
        ("registry", "The exchange's records: copy them, bring them back.", _REGISTRY),
        ("cluster", "Spark, an object store and a database.", _CLUSTER),
    ):
        group = typer.Typer(no_args_is_help=True)
        for own, command in commands:
            group.command(own)(command)
        app.add_typer(group, name=name, help=help_text, rich_help_panel=ENGINEER)
    return app


def _whole(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the program's version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """The data exchange: publishers' files in; certified, versioned, shared tables out."""


def _report(error: Exception) -> int:
    usage = getattr(error, "format_message", None)
    if usage is not None:
        # typer's errors for a wrong option or argument share no public class.
        context = getattr(error, "ctx", None)
        hint = f". Next: {context.command_path} --help" if context else ""
        return _say(f"{usage().rstrip('.')}{hint}", USERS_MISTAKE)
    from jobs.lake.objects import store_error

    refused = store_error(error, "EXCHANGE_LAKE")
    if refused:
        return _say(str(refused), FAILED_WORK)
    if isinstance(error, OSError) and error.filename:
        from pathlib import Path

        from jobs.errors import disk_full

        return _say(str(disk_full(error, Path(str(error.filename)))), FAILED_WORK)
    return _unexpected(error)


def _unexpected(error: Exception) -> int:
    first = next((part.strip() for part in str(error).splitlines() if part.strip()), "no message")
    summary = f"{type(error).__name__}: {first[:300]}"
    try:
        from jobs.settings import settings

        folder = settings().home / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"exchange-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
        file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        log = f"the traceback is in {file}"
    except Exception as second:
        log = f"the traceback could not be written ({type(second).__name__}: {second})"
    return _say(f"a bug in this program, {summary}; {log}", UNEXPECTED)


def _say(line: Any, code: int) -> int:
    print(f"error: {' '.join(str(line).split())}" if code != INTERRUPTED else line, file=sys.stderr)
    return code
