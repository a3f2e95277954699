"""Commands about the lake as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import AsJson
from jobs.cli.show import document, line, note

Home = Annotated[
    Path, typer.Argument(metavar="HOME", help="The EXCHANGE_HOME that the exchange had; nothing may run there.")
]


def copy(home: Home, as_json: AsJson = False) -> None:
    """Copy an exchange from its home on this machine to where EXCHANGE_LAKE and EXCHANGE_DATABASE_URL point."""
    from dataclasses import asdict

    from jobs.relocate import relocate

    done = relocate(home, tell=note)
    if as_json:
        document(asdict(done))
        return
    line(f"{done.files:,} files ({done.bytes:,} bytes; {done.present:,} were there), {done.records:,} records")
    line(f"{done.tables} tables with {done.rows:,} rows are equal on both sides")
