"""The command that checks whether the settings work."""

from __future__ import annotations

from dataclasses import asdict

import typer

from jobs.cli.options import AsJson
from jobs.cli.show import document, line, table


def doctor(as_json: AsJson = False) -> None:
    """Try engine, lake and database as a run would, and say what to change where one fails."""
    from jobs.operate.doctor import examine

    diagnoses = examine()
    if as_json:
        document([asdict(diagnosis) for diagnosis in diagnoses])
    else:
        table(["what", "", "found"], [[d.subject, d.status, d.found] for d in diagnoses])
        for diagnosis in diagnoses:
            if diagnosis.next_step:
                line(f"{diagnosis.subject}: {diagnosis.next_step}")
    if any(diagnosis.status == "failed" for diagnosis in diagnoses):
        raise typer.Exit(1)
