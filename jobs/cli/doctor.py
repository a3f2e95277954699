"""The command that tells whether the settings can work."""

from __future__ import annotations

from dataclasses import asdict

import typer

from jobs.cli.options import AsJson
from jobs.cli.show import document, line, table


def doctor(as_json: AsJson = False) -> None:
    """Try engine, lake and database as a run would, and say what to change where one cannot work."""
    from jobs.operate.doctor import examine

    found = examine()
    if as_json:
        document([asdict(finding) for finding in found])
    else:
        table(["what", "", "found"], [[f.subject, f.status, f.found] for f in found])
        for finding in found:
            if finding.next_step:
                line(f"{finding.subject}: {finding.next_step}")
    if any(finding.status == "failed" for finding in found):
        raise typer.Exit(1)
