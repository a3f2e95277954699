"""Commands that propose a declaration and a contract from the data, ready to edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.show import line
from jobs.errors import ExchangeError


def source(
    name: Annotated[str, typer.Argument(metavar="SECTOR/NAME", help="For example utility/solar_farms.")],
    sample: Annotated[
        str, typer.Option("--from", metavar="FILE|package:NAME==VERSION#MEMBER", help="A sample of the data.")
    ],
) -> None:
    """Write source.yaml and a contract proposed from a sample of the data."""
    from jobs.scaffold import new_source

    sector, slash, own = name.partition("/")
    if not slash:
        raise ExchangeError(f"'{name}' has no sector", expected="<sector>/<name>, like utility/solar_farms")
    for text in new_source(sector, own, sample):
        line(text)


def product(
    name: Annotated[str, typer.Argument(metavar="NAME", help="For example monthly_rates.")],
    query: Annotated[Path | None, typer.Option("--query", metavar="FILE", help="The SELECT that builds it.")] = None,
    table: Annotated[
        str | None, typer.Option("--from", metavar="TABLE", help="Or a checked table to start from.")
    ] = None,
) -> None:
    """Write product.yaml, query.sql and a contract proposed from a query or a table."""
    from jobs.scaffold import new_product

    if (query is None) == (table is None):
        raise ExchangeError("a product needs a query or a table", expected="--query <file.sql>, or --from <table>")
    for text in new_product(name, query, table):
        line(text)
