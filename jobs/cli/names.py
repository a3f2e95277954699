"""Resolves a table's name, given with or without its layer."""

from __future__ import annotations

from difflib import get_close_matches

from jobs.errors import ExchangeError, NotFound


def declared_table(name: str) -> str:
    """Return a declared table's full name: ``silver.x`` or ``gold.x`` for ``x``, ``silver.x`` for ``quarantine.x``.

    Raises:
        NotFound: no such table is declared; the message has the nearest names.
        ExchangeError: a source and a product share the name.
    """
    from jobs.declared.catalog import load_products, load_sources

    sources, products = load_sources(), load_products()
    tables = [s.table for s in sources.sources.values()] + [p.table for p in products.products.values()]
    layer, dot, own = name.lower().partition(".")
    if dot:
        candidates = [f"{'silver' if layer in ('quarantine', 'bronze') else layer}.{own}"]
    else:
        candidates = [f"silver.{layer}", f"gold.{layer}"]
    matches = [t for t in candidates if t in tables]
    if len(matches) > 1:
        raise ExchangeError(f"'{name}' names two tables", expected=f"{matches[0]} or {matches[1]}")
    if matches:
        return matches[0]
    for mistake in (*sources.mistakes, *products.mistakes):
        if mistake.file.parent.name == (own or layer):
            raise mistake
    raise _unknown(name, own or layer, tables)


def declared_source(name: str) -> str:
    """Return the name of a declared source, given as ``x``, ``silver.x``, ``bronze.x`` or ``quarantine.x``.

    Raises:
        NotFound: no such source is declared.
    """
    table = declared_table(name if "." in name else f"silver.{name}")
    if table.startswith("gold."):
        raise NotFound(
            f"{table} has no quarantine: a product is built from rows that were already accepted",
            expected="a source",
            next_step="exchange sources lists them",
        )
    return table.split(".", 1)[1]


def own_name(product: str) -> str:
    """A product's name, given as ``x``, ``gold.x`` or ``release.x``."""
    for layer in ("gold.", "release."):
        product = product.removeprefix(layer)
    return product


def _unknown(name: str, own: str, tables: list[str]) -> NotFound:
    by_name = {t.split(".", 1)[1]: t for t in tables}
    near = " or ".join(by_name[n] for n in get_close_matches(own, by_name, 3, 0.5))
    return NotFound(
        f"no table '{name}' is declared",
        expected=f"perhaps {near}" if near else f"one of: {', '.join(sorted(tables)) or 'none is declared'}",
        next_step="exchange sources and exchange products list them",
    )
