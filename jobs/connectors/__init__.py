"""Connectors: how a publisher's bytes arrive, before anything knows what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from jobs.connectors.declaration import Connector, DropConnector, PackageConnector

__all__ = ["Connector", "DropConnector", "Fetched", "PackageConnector", "fetch"]


@dataclass(frozen=True, slots=True)
class Fetched:
    """One file as it arrived, not yet landed.

    Attributes:
        path: where its bytes are now; landing copies them.
        file_name: its name at the publisher, without folders.
        url: where it comes from, without secrets and without the address of an index or a machine.
        etag: the publisher's own version mark.
        published_at: when the publisher made it (UTC), where that can be known.
        facts: what else the connector knows, such as package and version.
    """

    path: Path
    file_name: str
    url: str
    etag: str | None = None
    published_at: datetime | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


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
        from jobs.connectors.package import fetch_package

        yield from fetch_package(connector, scratch)
    else:
        from jobs.connectors.drop import fetch_drop

        yield from fetch_drop(connector, source)
