"""Reads tables in a separate process, so it imports nothing that the tests have set up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deltalake import DeltaTable


def table_rows(place: Path, version: int) -> list[dict[str, Any]]:
    """All rows of a table's version."""
    return DeltaTable(place, version).to_pyarrow_table().to_pylist()
