"""Lays out declarations and contracts as YAML in house style, one line per column."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.declared.catalog import name_mistake
from jobs.declared.columns import UNIT, load_dictionary, logical_type
from jobs.declared.drafts import TO_BE_WRITTEN
from jobs.errors import ExchangeError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN = re.compile(r"^[A-Za-z][A-Za-z0-9_ .-]*$")
_WORDS_OF_YAML = frozenset({"yes", "no", "true", "false", "on", "off", "null", "y", "n"})
_WIDTH = 150


@dataclass(frozen=True)
class Property:
    """One column of a contract."""

    name: str
    type: str
    description: str
    key_position: int | None = None
    required: bool = False
    transform: str | None = None
    unit: str | None = None
    classification: str | None = None
    enum: tuple[str, ...] = ()


def scalar(value: Any) -> str:
    """Write a value as YAML that parses back to the same value."""
    plain = isinstance(value, str) and _PLAIN.match(value) and value == value.strip()
    if plain and value.lower() not in _WORDS_OF_YAML:
        return str(value)
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    # YAML allows no control characters, and nobody sees the other ones.
    return f"\\u{ord(char):04x}" if ord(char) < 1 << 16 else f"\\U{ord(char):08x}"


def flow(value: Any) -> str:
    """Write a value as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_in_flow(v) for v in value) + "]"
    return _in_flow(value)


def _in_flow(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple):
        return flow(value)
    return scalar(value)


def listed(key: str, values: Sequence[Any], indent: int = 2) -> str:
    """Write ``key: [a, b, …]``, folded over as many lines as needed."""
    head = f"{' ' * indent}{key}: ["
    lines = [""]
    for position, value in enumerate(values, start=1):
        item = _in_flow(value) + ("," if position < len(values) else "]")
        if lines[-1] and len(head) + len(lines[-1]) + len(item) + 1 > _WIDTH:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + item
    return head + ("\n" + " " * len(head)).join(lines)


def contract(
    table: str,
    domain: str,
    title: str,
    properties: Iterable[Property],
    *,
    purpose: str = TO_BE_WRITTEN,
    quality: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Write an ODCS 3 contract, without what the column dictionary already says.

    Raises:
        DeclarationError: the column dictionary is broken.
    """
    dictionary = load_dictionary()
    layer, name = table.split(".", 1)
    columns = tuple(properties)
    keyed = sorted((c for c in columns if c.key_position), key=lambda c: c.key_position or 0)
    lines = [
        "apiVersion: v3.1.0",
        "kind: DataContract",
        f"id: {layer}-{name.replace('_', '-')}",
        f"name: {scalar(title)}",
        "version: 1.0.0",
        "status: draft",
        f"domain: {scalar(domain)}",
        "description:",
        f"  purpose: {scalar(purpose)}",
        f"  usage: {TO_BE_WRITTEN}",
        f"  limitations: {TO_BE_WRITTEN}",
        "schema:",
        f"  - name: {name}",
        "    physicalType: table",
        f"    description: {scalar('One row per ' + ', '.join(c.name for c in keyed) + '.')}",
        "    properties:",
        *[f"      - {flow(dictionary.shorten(p) if dictionary else p)}" for p in map(_property, columns)],
    ]
    if quality:
        lines += ["    quality:", *[f"      - {flow(q)}" for q in quality]]
    return "\n".join(lines) + "\n"


def _property(column: Property) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": column.name,
        "logicalType": logical_type(column.type),
        "physicalType": column.type,
    }
    if column.key_position:
        fields |= {"primaryKey": True, "primaryKeyPosition": column.key_position}
    elif column.required:
        fields |= {"required": True}
    if column.classification:
        fields |= {"classification": column.classification}
    fields |= {"description": column.description}
    if column.transform:
        fields |= {"transformLogic": column.transform}
    if column.unit:
        fields |= {"customProperties": [{"property": UNIT, "value": column.unit}]}
    if column.enum:
        fields |= {"enum": [{"value": v} for v in column.enum]}
    return fields


def check_name(name: str, what: str) -> None:
    """Check that a name can be used for a folder, a table and a DAG.

    Raises:
        ExchangeError: it cannot be used.
    """
    expected = name_mistake(name)
    if expected:
        raise ExchangeError(f"'{name}' is not a valid name for a {what}", expected=expected)


@contextmanager
def written(files: Mapping[Path, str]) -> Iterator[None]:
    """Write new files, and remove them again if the block fails.

    Raises:
        ExchangeError: one of them exists already; then nothing is written.
    """
    existing = [str(f) for f in files if f.exists()]
    if existing:
        raise ExchangeError(
            f"{' and '.join(existing)} exist{'s' if len(existing) == 1 else ''} already",
            expected="a new name",
            next_step="choose another name, or edit the existing file",
        )
    created: list[Path] = []
    try:
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as out:
                created.append(file)
                out.write(text)
        yield
    except BaseException:
        for file in created:
            file.unlink(missing_ok=True)
            if not any(file.parent.iterdir()):
                file.parent.rmdir()
        raise
