"""Collects all mistakes in declarations, contracts and queries, so that Airflow shows them in one import error."""

from __future__ import annotations

from jobs.declared.catalog import Catalog, load_catalog
from jobs.declared.columns import load_dictionary
from jobs.declared.compile import compile_rules
from jobs.declared.contract import load_contract
from jobs.errors import DeclarationError, ExchangeError


class BrokenDeclarations(ExchangeError):
    """Invalid declarations; the message has one line per mistake."""

    def __init__(self, mistakes: tuple[DeclarationError, ...]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(str(mistake) for mistake in mistakes))


def refuse_mistakes() -> None:
    """Read the whole catalogue with its contracts and rules.

    Raises:
        BrokenDeclarations: it has mistakes; each is one line with file, line and field.
    """
    mistakes = find_mistakes(load_catalog())
    if mistakes:
        raise BrokenDeclarations(mistakes)


def find_mistakes(catalog: Catalog) -> tuple[DeclarationError, ...]:
    """The catalogue's own mistakes, then those of the contracts of its tables.

    A broken column dictionary is one mistake: without it no contract can be read.
    """
    try:
        load_dictionary()
    except DeclarationError as broken:
        return (*catalog.mistakes, broken)
    tables = [s.table for s in catalog.sources.values()] + [p.table for p in catalog.products.values()]
    in_contracts = [mistake for table in tables if (mistake := _mistake_in_contract(table))]
    return catalog.mistakes + tuple(in_contracts)


def _mistake_in_contract(table: str) -> DeclarationError | None:
    try:
        compile_rules(load_contract(table))
    except DeclarationError as mistake:
        return mistake
    return None
