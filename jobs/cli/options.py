"""Arguments that several commands share, with one name and one help text each."""

from __future__ import annotations

import getpass
import os
from typing import Annotated

import typer

ENGINEER = "Engineer"
STAFF = "Exchange staff"
BUYER = "Buyer"

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
TableName = Annotated[str, typer.Argument(metavar="TABLE", help="silver.<source>, gold.<product>, or the name alone.")]
ProductName = Annotated[str, typer.Argument(metavar="PRODUCT", help="A product; `exchange products` lists them.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most this many.")]


def user_name() -> str:
    """Who runs this command, as the system knows them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a user without a name.
        return f"uid {os.getuid()}"
