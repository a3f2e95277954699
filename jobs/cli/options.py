"""Arguments that several commands share, with one name and one help text each."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

ENGINEER = "Engineer"
STAFF = "Exchange staff"
BUYER = "Buyer"

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def declared_names(*kinds: str) -> Callable[[str], list[str]]:
    """What completes a name on Tab: the folders of declared sources or products that begin with it.

    Args:
        kinds: ``source``, ``product`` or both.
    """

    def complete(incomplete: str) -> list[str]:
        from jobs.errors import ExchangeError
        from jobs.settings import settings

        patterns = {"source": "sources/*/*/source.yaml", "product": "products/*/product.yaml"}
        try:
            root = settings().catalogue / "dags"
            names = {file.parent.name for kind in kinds for file in root.glob(patterns[kind])}
        except (ExchangeError, OSError):
            # Whatever is wrong, the command itself says it better than the shell could.
            return []
        return sorted(name for name in names if name.startswith(incomplete))

    return complete


def _name(metavar: str, text: str, *kinds: str) -> Any:
    return typer.Argument(metavar=metavar, help=text, autocompletion=declared_names(*kinds))


TableName = Annotated[
    str, _name("TABLE", "silver.<source>, gold.<product>, or the name alone.", "source", "product")
]
EitherName = Annotated[str, _name("NAME", "A source, a product, or a table like silver.x.", "source", "product")]
SourceName = Annotated[str, _name("SOURCE", "A source; `exchange sources` lists them.", "source")]
ProductName = Annotated[str, _name("PRODUCT", "A product; `exchange products` lists them.", "product")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most this many.")]


def user_name() -> str:
    """Who runs this command, as the system knows them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a user without a name.
        return f"uid {os.getuid()}"
