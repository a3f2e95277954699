"""Traces a checked version to its origin: the upstream tables at the versions it read, and all landed files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jobs.errors import NotFound
from jobs.lake.pointers import pointer
from jobs.registry.landings import digests_up_to
from jobs.registry.runs import last_build


@dataclass(frozen=True)
class Lineage:
    """Everything upstream of one version, sorted: tables with versions, and the landed files' sha256."""

    inputs: tuple[tuple[str, int], ...]
    landed: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources among its origins."""
        return _sources(self.inputs)


def lineage(inputs: dict[str, Any]) -> Lineage:
    """Follow a table's inputs back to landing, through other products.

    Args:
        inputs: what the table was built from, as recorded with its pointer: ``{"tables": {table: version}, ...}``.

    Raises:
        NotFound: the inputs of an upstream version were not recorded.
    """
    tables = _upstream(inputs)
    watermarks: dict[str, int] = {}
    for table, version in tables:
        layer, name = table.split(".", 1)
        if layer == "silver":
            watermarks[name] = max(watermarks.get(name, 0), _landing_id(table, version))
    return Lineage(tuple(sorted(tables)), tuple(sorted(digests_up_to(watermarks))))


def sources_of(inputs: dict[str, Any]) -> tuple[str, ...]:
    """Names of the sources that a table's inputs lead back to, sorted; see `lineage`.

    Raises:
        NotFound: the inputs of an upstream version were not recorded.
    """
    return _sources(_upstream(inputs))


def _upstream(inputs: dict[str, Any]) -> set[tuple[str, int]]:
    tables: set[tuple[str, int]] = set()
    waiting = list(_tables(inputs).items())
    while waiting:
        table, version = waiting.pop()
        if (table, version) in tables:
            continue
        tables.add((table, version))
        if not table.startswith("silver."):
            waiting += list(_inputs(table, version).items())
    return tables


def _sources(tables: Iterable[tuple[str, int]]) -> tuple[str, ...]:
    return tuple(sorted({table.split(".", 1)[1] for table, _ in tables if table.startswith("silver.")}))


def _landing_id(table: str, version: int) -> int:
    current = pointer(table)
    if current is not None and current.delta_version == version and current.landing_id is not None:
        return current.landing_id
    built = last_build(table, version)
    if built is None or not isinstance((built.input or {}).get("landing_id"), int):
        raise _unknown(table, version)
    return int((built.input or {})["landing_id"])


def _inputs(table: str, version: int) -> dict[str, int]:
    current = pointer(table)
    if current is not None and current.delta_version == version and current.inputs:
        return _tables(current.inputs)
    built = last_build(table, version)
    if built is None or not _tables(built.input or {}):
        raise _unknown(table, version)
    return _tables(built.input or {})


def _tables(inputs: dict[str, Any]) -> dict[str, int]:
    return {str(table): int(version) for table, version in (inputs.get("tables") or {}).items()}


def _unknown(table: str, version: int) -> NotFound:
    return NotFound(
        f"the inputs of version {version} were not recorded",
        where=table,
        expected="a record of the run that built it, or a checked pointer to it",
        next_step="run the product again, so that it is built from the inputs' checked versions",
    )
