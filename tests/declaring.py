"""Declares sources, products and contracts for tests: complete documents with every mandatory field filled in.

A test sets only the fields it is about. Documents are plain values, so a test can break one before writing it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

# A column is its physical type, or its properties.
Columns = Mapping[str, str | Mapping[str, Any]]
Document = dict[str, Any]

# Due only on 29 February, so that no schedule fires in the middle of a test.
HARDLY_EVER = "0 0 29 2 *"

_LICENCE = {"id": "CC-BY-4.0", "url": "https://creativecommons.org/licenses/by/4.0/"}
_LOGICAL = {
    "TINYINT": "integer", "SMALLINT": "integer", "INT": "integer", "BIGINT": "integer", "FLOAT": "number",
    "DOUBLE": "number", "DECIMAL": "number", "BOOLEAN": "boolean", "DATE": "date", "TIMESTAMP": "timestamp",
}  # fmt: skip


def write(file: Path, text: str | bytes) -> Path:
    """Write a file, creating its folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def source(columns: Sequence[str], **changes: Any) -> Document:
    """The declaration of a source that reads delimited files from its drop folder.

    Args:
        columns: names of the columns as published.
        changes: fields to override or add; those of `format` are merged into the default format.
    """
    format_fields = {"type": "delimited", "columns": list(columns)} | changes.pop("format", {})
    return {
        "title": "A source",
        "publisher": {"name": "Example Publisher", "url": "https://example.org"},
        "owner": "data",
        "licence": _LICENCE,
        "rights": {"redistribution": "yes", "basis": "open_licence", "evidence": "its terms"},
        "cadence": HARDLY_EVER,
        "connector": {"type": "drop", "files": ["*"]},
        "format": format_fields,
        "silver": {"mode": "merge"},
    } | changes


def product(**changes: Any) -> Document:
    """The declaration of a product; `changes` override or add fields."""
    return {
        "title": "A product",
        "question": "What is the total?",
        "buyers": ["lenders"],
        "owner": "desk",
        "licence": _LICENCE,
    } | changes


def contract(
    name: str, columns: Columns, key: Sequence[str] = (), *, partition: Sequence[str] = (),
    quality: Sequence[Mapping[str, Any]] = (), **more: Any,
) -> Document:  # fmt: skip
    """The contract of a table.

    Args:
        name: the table's name without its layer.
        columns: its columns. Logical types default to what the physical type implies; a description of None leaves the
            description out.
        key: columns of the primary key, in order.
        partition: partition columns, in order.
        quality: rules for the whole table.
        more: further fields of the document.
    """
    table: Document = {"name": name, "physicalType": "table", "properties": [
        _column(column, {"physicalType": properties} if isinstance(properties, str) else properties, key, partition)
        for column, properties in columns.items()
    ]}  # fmt: skip
    if quality:
        table["quality"] = [dict(rule) for rule in quality]
    return {
        "apiVersion": "v3.1.0", "kind": "DataContract", "id": name, "version": "1.0.0", "status": "active",
        "schema": [table],
    } | more  # fmt: skip


def declare_source(root: Path, name: str, document: Document, *, sector: str = "utility", sql: str = "") -> Path:
    """Write a source's declaration, and its silver query if `sql` is given; returns the declaration's file."""
    folder = root / "dags/sources" / sector / name
    if sql:
        write(folder / "silver.sql", sql)
    return write(folder / "source.yaml", declaration_text(document))


def declare_product(root: Path, name: str, document: Document, query: str) -> Path:
    """Write a product's declaration and query; returns their folder."""
    folder = root / "dags/products" / name
    write(folder / "product.yaml", declaration_text(document))
    write(folder / "query.sql", query)
    return folder


def declare_contract(root: Path, table: str, document: Document | str) -> Path:
    """Write the contract of a table; returns the file."""
    text = document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return write(root / "expectations" / f"{table.replace('.', '/')}.yaml", text)


def declaration_text(document: Document) -> str:
    """A declaration as people write it: one line per field."""
    return "".join(f"{name}: {_one_line(value)}\n" for name, value in document.items())


def _one_line(value: Any) -> str:
    # PyYAML ends a bare scalar with the document end marker.
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").rstrip("\n")


def _column(name: str, properties: Mapping[str, Any], key: Sequence[str], partition: Sequence[str]) -> Document:
    logical = _LOGICAL.get(properties["physicalType"].split("(")[0], "string")
    column: Document = {"name": name, "description": f"the {name}", "logicalType": logical, **properties}
    if name in key:
        column |= {"primaryKey": True, "primaryKeyPosition": list(key).index(name) + 1}
    if name in partition:
        column |= {"partitioned": True, "partitionKeyPosition": list(partition).index(name) + 1}
    return {field: value for field, value in column.items() if value is not None}
