"""Finds the table that somebody means by its name, with or without its layer."""

from __future__ import annotations

from difflib import get_close_matches

from jobs.errors import ExchangeError, NotFound


def declared_table(name: str) -> str:
    """The full name of a declared table: ``silver.x`` or ``gold.x`` for ``x``, ``silver.x`` for ``quarantine.x``.

    Raises:
        NotFound: nothing declares it; the nearest names are shown.
        ExchangeError: a source and a product share the name.
    """
    from jobs.declared.catalog import load_products, load_sources

    sources, products = load_sources(), load_products()
    tables = [s.table for s in sources.sources.values()] + [p.table for p in products.products.values()]
    layer, dot, own = name.lower().partition(".")
    if dot:
        wanted = [f"{'silver' if layer in ('quarantine', 'bronze') else layer}.{own}"]
    else:
        wanted = [f"silver.{layer}", f"gold.{layer}"]
    found = [t for t in wanted if t in tables]
    if len(found) > 1:
        raise ExchangeError(f"'{name}' names two tables", expected=f"{found[0]} or {found[1]}")
    if found:
        return found[0]
    for mistake in (*sources.mistakes, *products.mistakes):
        if mistake.file.parent.name == (own or layer):
            raise mistake
    raise _unknown(name, own or layer, tables)


def declared_source(name: str) -> str:
    """The name of a declared source, given as ``x``, ``silver.x``, ``bronze.x`` or ``quarantine.x``.

    Raises:
        NotFound: nothing declares it.
    """
    table = declared_table(name if "." in name else f"silver.{name}")
    if table.startswith("gold."):
        raise NotFound(
            f"{table} has no quarantine: a product is built from rows that were already accepted",
            expected="a source",
            next_step="exchange sources lists them",
        )
    return table.split(".", 1)[1]


def _unknown(name: str, own: str, tables: list[str]) -> NotFound:
    known = {t.split(".", 1)[1]: t for t in tables}
    near = " or ".join(known[n] for n in get_close_matches(own, known, 3, 0.5))
    return NotFound(
        f"no table '{name}' is declared",
        expected=f"perhaps {near}" if near else f"one of: {', '.join(sorted(tables)) or 'none is declared'}",
        next_step="exchange sources and exchange products list them",
    )
