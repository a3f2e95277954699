"""Declares sources, products and contracts for tests: each a document with all that its author must write.

A test names what it is about and leaves the rest to what is given here. Documents are plain values, so that a test can
also break one before it writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

# A column is its physical type, or its properties.
Columns = Mapping[str, str | Mapping[str, Any]]
Document = dict[str, Any]

# No schedule fires in the middle of a test, whatever the day: nothing is due but on a 29th of February.
HARDLY_EVER = "0 0 29 2 *"

_LICENCE = {"id": "CC-BY-4.0", "url": "https://creativecommons.org/licenses/by/4.0/"}
_LOGICAL = {
    "TINYINT": "integer", "SMALLINT": "integer", "INT": "integer", "BIGINT": "integer", "FLOAT": "number",
    "DOUBLE": "number", "DECIMAL": "number", "BOOLEAN": "boolean", "DATE": "date", "TIMESTAMP": "timestamp",
}  # fmt: skip


def write(file: Path, text: str | bytes) -> Path:
    """Write a file with its folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def source(columns: Sequence[str], **changes: Any) -> Document:
    """The declaration of a source of delimited files in its drop folder, with these columns.

    Args:
        columns: names of the columns as published.
        changes: fields that are otherwise, or more; those of `format` are added to its own.
    """
    form = {"type": "delimited", "columns": list(columns)} | changes.pop("format", {})
    return {
        "title": "A source",
        "publisher": {"name": "Somebody", "url": "https://example.org"},
        "owner": "data",
        "licence": _LICENCE,
        "rights": {"redistribution": "yes", "basis": "open_licence", "evidence": "its terms"},
        "cadence": HARDLY_EVER,
        "connector": {"type": "drop", "files": ["*"]},
        "format": form,
        "silver": {"mode": "merge"},
    } | changes


def product(**changes: Any) -> Document:
    """The declaration of a product, with fields that are otherwise, or more."""
    return {
        "title": "A product",
        "question": "What does it all come to?",
        "buyers": ["lenders"],
        "owner": "desk",
        "licence": _LICENCE,
    } | changes


def contract(
    name: str, columns: Columns, key: Sequence[str] = (), *, partition: Sequence[str] = (),
    quality: Sequence[Mapping[str, Any]] = (), **more: Any,
) -> Document:  # fmt: skip
    """The contract of the table of that name, without its layer.

    Args:
        name: the table.
        columns: its columns. A column's logical type follows from its physical type unless given, and it has a
            description unless that is None.
        key: columns of the primary key, in their order.
        partition: columns that it is partitioned by, in their order.
        quality: rules of the whole table.
        more: further fields of the document.
    """
    table: Document = {"name": name, "physicalType": "table", "properties": [
        _column(column, {"physicalType": told} if isinstance(told, str) else told, key, partition)
        for column, told in columns.items()
    ]}  # fmt: skip
    if quality:
        table["quality"] = [dict(rule) for rule in quality]
    return {
        "apiVersion": "v3.1.0", "kind": "DataContract", "id": name, "version": "1.0.0", "status": "active",
        "schema": [table],
    } | more  # fmt: skip


def declare_source(root: Path, name: str, document: Document, *, sector: str = "utility", sql: str = "") -> Path:
    """Write a source's declaration, and its own query if it has one; returns the declaration's file."""
    folder = root / "dags/sources" / sector / name
    if sql:
        write(folder / "silver.sql", sql)
    return write(folder / "source.yaml", declaration_text(document))


def declare_product(root: Path, name: str, document: Document, query: str) -> Path:
    """Write a product's declaration and query; returns the folder of both."""
    folder = root / "dags/products" / name
    write(folder / "product.yaml", declaration_text(document))
    write(folder / "query.sql", query)
    return folder


def declare_contract(root: Path, table: str, document: Document | str) -> Path:
    """Write a contract where that of the table is looked for; returns the file."""
    text = document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return write(root / "expectations" / f"{table.replace('.', '/')}.yaml", text)


def declaration_text(document: Document) -> str:
    """A declaration as people write one: a line for each field."""
    return "".join(f"{name}: {_in_a_line(value)}\n" for name, value in document.items())


def _in_a_line(value: Any) -> str:
    # A scalar alone ends with the mark of a document's end.
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").rstrip("\n")


def _column(name: str, told: Mapping[str, Any], key: Sequence[str], partition: Sequence[str]) -> Document:
    logical = _LOGICAL.get(told["physicalType"].split("(")[0], "string")
    column: Document = {"name": name, "description": f"the {name}", "logicalType": logical, **told}
    if name in key:
        column |= {"primaryKey": True, "primaryKeyPosition": list(key).index(name) + 1}
    if name in partition:
        column |= {"partitioned": True, "partitionKeyPosition": list(partition).index(name) + 1}
    return {field: value for field, value in column.items() if value is not None}
