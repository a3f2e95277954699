"""Connectors: how a publisher's bytes arrive, before anything knows what they mean.

Each module is named after the type that it serves and has one function ``fetch(connector, source, scratch)``, with the
arguments, result and errors of `fetch` below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from jobs import extensions
from jobs.declared.connector import CONNECTORS, GROUP, Connector
from jobs.land.fetched import Fetched


def fetch(connector: Connector, source: str, scratch: Path) -> Iterator[Fetched]:
    """Fetch what the publisher offers now, one file after the other, by the module of the connector's type.

    Args:
        connector: the source's ``connector:`` block.
        source: its name.
        scratch: an empty folder for fetched files; the caller removes it when all files are landed.

    Raises:
        PublisherError: the way to the publisher is at fault; a later try may help.
        ExchangeError: anything that a later try does not help. It may come after some files, which are good.
    """
    name = connector.type
    own = f"{__name__}.{name}" if name in CONNECTORS else None
    work: Callable[[Connector, str, Path], Iterator[Fetched]] = extensions.attribute(GROUP, name, "fetch", own)
    yield from work(connector, source, scratch)
