"""A contract of meter readings that tests of declarations modify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.declaring import Document, contract, declare_contract

_COLUMNS: dict[str, dict[str, Any]] = {
    "meter_code": {"physicalType": "STRING"},
    "read_at": {"physicalType": "TIMESTAMP"},
    "energy_kwh": {
        "physicalType": "DOUBLE", "logicalType": "number", "logicalTypeOptions": {"minimum": 0, "maximum": 100},
        "customProperties": [{"property": "unit", "value": "kWh"}],
    },
    "quality_code": {"physicalType": "STRING", "enum": [{"value": "01"}, {"value": "02"}]},
    "note": {"physicalType": "STRING"},
}  # fmt: skip


def write(root: Path, document: Document | str, table: str = "silver.readings") -> Path:
    """Write the contract of a table; returns the file."""
    return declare_contract(root, table, document)


def readings(**changes: Any) -> Document:
    """The contract of readings; a change named after a column updates that column, any other the table or document."""
    columns = {name: {"description": None} | fields | changes.pop(name, {}) for name, fields in _COLUMNS.items()}
    quality = changes.pop("quality", ())
    return contract("readings", columns, ("meter_code", "read_at"), quality=quality, **changes)
