"""Connectors: how a publisher's bytes arrive, before anything knows what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobs.declared.connector import Connector, PackageConnector
from jobs.land.fetched import Fetched


def fetch(connector: Connector, source: str, scratch: Path) -> Iterator[Fetched]:
    """Fetch what the publisher has now, one file after the other.

    Args:
        connector: the source's ``connector:`` block.
        source: its name.
        scratch: an empty folder for what is fetched; the caller removes it when all files are landed.

    Raises:
        PublisherError: the way to the publisher is at fault; a later try may help.
        ExchangeError: anything that a later try does not help. It may come after some files, which are good.
    """
    if isinstance(connector, PackageConnector):
        from jobs.land.connectors.package import fetch_package

        yield from fetch_package(connector, scratch)
    else:
        from jobs.land.connectors.drop import fetch_drop

        yield from fetch_drop(connector, source)
