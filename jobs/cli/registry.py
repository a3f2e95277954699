"""Commands that keep the registry: copies of it, and what to do when it is lost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import AsJson
from jobs.cli.show import document, line, note
from jobs.cli.steps import run_id

NewFile = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="A new file; by default under backups/ in the home.")
]
OldFile = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="A copy; by default the newest under backups/ in the home.")
]


def backup(file: NewFile = None, as_json: AsJson = False) -> None:
    """Copy the registry as it is now, while everything runs; upkeep does it every night."""
    from jobs.registry.backup import backup as back_up

    copy = back_up(file)
    if as_json:
        document({"file": str(copy), "bytes": copy.stat().st_size})
        return
    line(f"the registry was copied to {copy} ({copy.stat().st_size:,} bytes)")


def restore(file: OldFile = None, as_json: AsJson = False) -> None:
    """Bring back a copy of the registry; stop everything first."""
    from jobs.operate.registry import restore_registry

    done = restore_registry(run_id("registry"), file)
    if as_json:
        document(asdict(done))
        return
    line(f"{done.copy.records:,} records came back from {done.copy.file}")
    line(f"newer than that copy: {done.landings:,} landed files and {done.releases:,} releases, recorded again")
    _problems(done.problems, done.copy.set_aside)
    note("grants, revocations and requests since that copy are lost; `exchange run` brings the tables up to date")


def rebuild(as_json: AsJson = False) -> None:
    """Without any copy: record again what landed files, evidence and releases tell; stop everything first."""
    from jobs.operate.registry import rebuild_registry

    done = rebuild_registry(run_id("registry"))
    if as_json:
        document(asdict(done))
        return
    line(f"recorded again: {done.landings:,} landed files, {done.checks:,} checks, {done.releases:,} releases")
    _problems(done.problems, done.set_aside)
    for lost in done.lost:
        note(f"lost: {lost}")


def _problems(problems: tuple[str, ...], set_aside: Path | None) -> None:
    for problem in problems:
        note(f"not recorded: {problem}")
    if set_aside:
        note(f"the registry before was moved to {set_aside}")
