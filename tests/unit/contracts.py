"""Writes contracts for tests into a catalogue of their own."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

READINGS: dict[str, Any] = {
    "apiVersion": "v3.1.0",
    "kind": "DataContract",
    "id": "silver-readings",
    "version": "1.0.0",
    "status": "active",
    "schema": [
        {
            "name": "readings",
            "description": "energy read from meters",
            "properties": [
                {"name": "meter_code", "logicalType": "string", "physicalType": "STRING", "primaryKey": True,
                 "primaryKeyPosition": 1},
                {"name": "read_at", "logicalType": "timestamp", "physicalType": "TIMESTAMP", "primaryKey": True,
                 "primaryKeyPosition": 2},
                {"name": "energy_kwh", "logicalType": "number", "physicalType": "DOUBLE",
                 "logicalTypeOptions": {"minimum": 0, "maximum": 100},
                 "customProperties": [{"property": "unit", "value": "kWh"}]},
                {"name": "quality_code", "logicalType": "string", "physicalType": "STRING",
                 "enum": [{"value": "01"}, {"value": "02"}]},
                {"name": "note", "logicalType": "string", "physicalType": "STRING"},
            ],
        }
    ],
}  # fmt: skip


def write(root: Path, document: dict[str, Any] | str, table: str = "silver.readings") -> Path:
    """Put a contract where the table's contract is looked for; returns the file."""
    layer, name = table.split(".")
    file = root / "expectations" / layer / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False), "utf-8")
    return file


def readings(**changes: Any) -> dict[str, Any]:
    """The contract of readings; a change named after a column updates that column, any other the document or table."""
    document = deepcopy(READINGS)
    table = document["schema"][0]
    columns = {p["name"]: p for p in table["properties"]}
    for name, change in changes.items():
        if name in columns:
            columns[name].update(change)
        elif name == "quality":
            table["quality"] = change
        else:
            document[name] = change
    return document
