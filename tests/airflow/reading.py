"""Reads tables in a process of its own, which can import nothing of what the tests set up for themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deltalake import DeltaTable


def table_rows(place: Path, version: int) -> list[dict[str, Any]]:
    """All rows of a version of a table."""
    return DeltaTable(place, version).to_pyarrow_table().to_pylist()
