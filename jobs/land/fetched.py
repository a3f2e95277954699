"""What a connector yields: one file as it arrived, not yet landed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fetched:
    """One file as it arrived, not yet landed.

    Attributes:
        path: where its bytes are now; landing copies them.
        file_name: its name at the publisher, without folders.
        url: its address at the publisher, without secrets and without the address of an index or a machine.
        etag: the publisher's own version mark.
        published_at: when the publisher made it (UTC), if known.
        facts: other facts from the connector, for example package and version.
    """

    path: Path
    file_name: str
    url: str
    etag: str | None = None
    published_at: datetime | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


