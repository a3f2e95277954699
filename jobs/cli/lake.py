"""Commands about the lake as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import AsJson
from jobs.cli.show import document, line, listing, note

Home = Annotated[
    Path, typer.Argument(metavar="HOME", help="The exchange's old EXCHANGE_HOME; nothing may be running there.")
]


def copy(home: Home, as_json: AsJson = False) -> None:
    """Copy an exchange from its home on this machine to where EXCHANGE_LAKE and EXCHANGE_DATABASE_URL point."""
    from dataclasses import asdict

    from jobs.operate.relocate import relocate

    done = relocate(home, tell=note)
    if as_json:
        document(asdict(done))
        return
    line(f"{done.files:,} files ({done.bytes:,} bytes; {done.present:,} were there already), {done.records:,} records")
    line(f"{done.tables} tables with {done.rows:,} rows are equal on both sides")


def upkeep(
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="[TABLE]...", help="All by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy the registry, compact small files, vacuum files that no version in use needs, and verify live releases."""
    from dataclasses import asdict

    from jobs.operate.upkeep import upkeep as do_upkeep

    report = do_upkeep(tables or (), dry_run=dry_run)
    if as_json:
        document(asdict(report))
        return
    removed = ("removed_files", "removed_log_files", "removed_bytes")
    columns = ("table", "status", "files_before", "files_after", "compacted_bytes", *removed)
    listing([asdict(each) for each in report.tables], columns, as_json=False, empty="there are no tables yet")
    for each in report.tables:
        if each.message:
            note(f"{each.table}: {each.message}")
    if report.backup:
        line(f"the registry was copied to {report.backup}")
    were = "would be" if dry_run else "were"
    if report.runs_forgotten:
        line(f"{report.runs_forgotten:,} records of old runs {were} removed")
    if report.usage_folded:
        line(f"{report.usage_folded:,} records of old requests {were} replaced by sums per day")
    if report.leftover_files:
        line(f"{report.leftover_files:,} leftover files ({report.leftover_bytes:,} bytes) {were} removed")
    if report.verified:
        line(f"{report.verified:,} live releases were verified")
    for orphan in report.orphans:
        note(f"landed file {orphan}")
    for finding in report.damaged:
        note(f"changed: {finding}")
    if report.damaged:
        raise typer.Exit(1)
