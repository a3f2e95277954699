"""Connectors: how a publisher's bytes arrive, whatever they mean.

Each module is named after its connector type and defines ``fetch(connector, source, scratch)``, with the arguments,
result and errors of `fetch` below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from jobs import extensions
from jobs.declared.connector import CONNECTORS, GROUP, Connector
from jobs.land.fetched import Fetched, NotTaken


def fetch(connector: Connector, source: str, scratch: Path) -> Iterator[Fetched | NotTaken]:
    """Fetch what the publisher offers now, one file after the other, with the module of the connector's type.

    A file that it found but does not take is yielded, too, with the reason, so that it stops no other one.

    Args:
        connector: the source's ``connector:`` block.
        source: its name.
        scratch: an empty folder for fetched files; the caller removes it when all files have landed.

    Raises:
        PublisherError: the publisher or the network is at fault; a later retry may help.
        ExchangeError: a retry does not help. It may be raised after some files were yielded, which are good.
    """
    name = connector.type
    own = f"{__name__}.{name}" if name in CONNECTORS else None
    fetch_type: Callable[[Connector, str, Path], Iterator[Fetched | NotTaken]]
    fetch_type = extensions.attribute(GROUP, name, "fetch", own)
    yield from fetch_type(connector, source, scratch)
