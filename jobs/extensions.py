"""Finds what installed packages add to the exchange, by the name used in a declaration.

The exchange's own connectors, formats, kinds of rules and steps are modules of its rooms. A partner's are modules of a
Python package, which registers them as entry points and is installed beside the exchange, wherever DAGs are parsed,
steps run and Spark's workers read files:

    [project.entry-points."exchange.connectors"]
    acme_feed = "acme_lake.feed"

The entry point's name is the name that declarations use; its value is the module. A name in a declaration only chooses
among the entry points of one group and is never imported itself, so YAML cannot reach a module that was not installed
for this purpose. The exchange's own names come first, so no package can replace one.

What the module must define:

- ``exchange.connectors``: ``MODEL``, a subclass of `jobs.declared.connector.Connector`, and ``fetch`` as in
  `jobs.land.connectors`.
- ``exchange.formats``: ``MODEL``, a subclass of `jobs.declared.format.Format`, and ``read`` as in
  `jobs.bronze.formats`.
- ``exchange.rules``: ``compile(entry)``, which turns a quality entry (`jobs.declared.quality.Entry`) into a rule whose
  `jobs.declared.rules.Kind` has the entry point's name, and ``expectation(rule)``, which returns the Great
  Expectations type that evaluates it, or its name, and its arguments.
- ``exchange.steps``: ``STEP``, a `jobs.steps.Step` of the entry point's name with ``after``, and ``run`` as in
  `jobs.steps`.

Modules are imported when a declaration first needs them, also at DAG parse, so they should import engines and clients
inside their functions.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from jobs.errors import ExchangeError


def names(group: str) -> tuple[str, ...]:
    """Names that installed packages add to a group, sorted."""
    return tuple(sorted(_installed(group, tuple(sys.path))))


def module(group: str, name: str) -> ModuleType | None:
    """The module that an installed package registers under a name; None if no package does.

    Raises:
        ExchangeError: two packages register the name, or the module cannot be imported.
    """
    entries = _installed(group, tuple(sys.path)).get(name)
    if entries is None:
        return None
    if len(entries) > 1:
        raise ExchangeError(
            f"'{name}' is registered by two installed packages: {', '.join(sorted(e.value for e in entries))}",
            where=group,
            next_step="uninstall one of them",
        )
    try:
        return import_module(entries[0].module)
    except Exception as error:
        # A partner's package may fail in any way; the user needs to know which one.
        raise ExchangeError(
            f"'{name}' cannot be imported: {type(error).__name__}: {error}",
            where=f"{entries[0].value}, which {_package(entries[0])} registers as {group}",
            next_step="install a working version of the package",
        ) from error


def attribute(group: str, name: str, symbol: str, own: str | None = None) -> Any:
    """What a name's module defines under a fixed symbol, for example ``fetch`` of the connector ``drop``.

    Args:
        group: the entry points that a partner's module is registered under.
        name: the name in the declaration.
        symbol: the fixed name within the module.
        own: the exchange's module, if the name is one of its own.

    Raises:
        ExchangeError: no such module is installed here, it cannot be imported, or it does not define the symbol.
    """
    implementation = import_module(own) if own else module(group, name)
    if implementation is None:
        raise ExchangeError(
            f"no installed package adds '{name}' to {group}",
            where=sys.prefix,
            next_step="install the package that adds it, here and on Spark's workers",
        )
    try:
        return getattr(implementation, symbol)
    except AttributeError:
        raise ExchangeError(
            f"'{name}' does not define `{symbol}`",
            where=implementation.__name__,
            expected=f"a module with `{symbol}`, see jobs/extensions.py",
            next_step="install a working version of the package",
        ) from None


# Reading the metadata of a few hundred installed packages takes some ten milliseconds, so it is done once per process
# and group instead of once per declaration. A changed path is another environment.
@lru_cache(maxsize=16)
def _installed(group: str, _path: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    grouped: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=group):
        grouped[entry.name] = (*grouped.get(entry.name, ()), entry)
    return grouped


def _package(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist else "a package"
