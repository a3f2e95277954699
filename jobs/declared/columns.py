"""The column dictionary: what a column name means in every contract, written once in expectations/columns.yaml."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from jobs.declared.yaml_file import Declared, line_of, mistake, read_model
from jobs.errors import DeclarationError
from jobs.settings import settings

Classification = Literal["general", "internal", "personal", "sensitive_personal", "important", "core"]
CLASSES: tuple[str, ...] = get_args(Classification)
LOGICAL_TYPES = {
    "STRING": "string", "BOOLEAN": "boolean", "TINYINT": "integer", "SMALLINT": "integer", "INT": "integer",
    "BIGINT": "integer", "FLOAT": "number", "DOUBLE": "number", "DATE": "date", "TIMESTAMP": "timestamp",
}  # fmt: skip
TYPES = tuple(LOGICAL_TYPES)
TYPES_ALLOWED = f"one of: {', '.join(TYPES)}, DECIMAL(p,s) with s <= p <= 38"
UNIT = "unit"

_DECIMAL = re.compile(r"DECIMAL\(([0-9]{1,2}),([0-9]{1,2})\)")
_MOST_DIGITS = 38


class ColumnEntry(Declared):
    """One column name, with its type, meaning and unit wherever it is used.

    `classification` is for a name that has a class whatever the rows are about: a meter's code is personal. The class
    of a figure depends on the person it describes, so each contract states it.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    type: str
    description: str = Field(min_length=1)
    unit: str | None = Field(default=None, min_length=1)
    classification: Classification | None = None

    @field_validator("type")
    @classmethod
    def _known_type(cls, value: str) -> str:
        if is_type(value):
            return plain_type(value)
        raise ValueError(f"not a column type, {TYPES_ALLOWED}")

    @property
    def fields(self) -> dict[str, str]:
        """The entry in the words of the standard, without the unit."""
        stated = {
            "logicalType": logical_type(self.type),
            "physicalType": self.type,
            "description": self.description,
        }
        return stated | ({"classification": self.classification} if self.classification else {})


class _File(Declared):
    """The contents of columns.yaml."""

    columns: tuple[ColumnEntry, ...]


@dataclass(frozen=True, eq=False)
class ColumnDictionary:
    """The entries of a catalogue's columns.yaml; equal only to itself, so that it can be part of a cache's key."""

    file: Path
    entries: Mapping[str, ColumnEntry]

    def complete(self, document: dict[str, Any], file: Path) -> dict[str, Any]:
        """Fill in what a contract leaves out; what is not shaped like a contract is left for the standard to refuse.

        Args:
            document: the contract as written.
            file: where it was read from.

        Raises:
            DeclarationError: a column contradicts its entry, or has no entry and says too little itself.
        """
        tables = document.get("schema")
        if not isinstance(tables, list):
            return document
        return document | {"schema": [self._table(table, ("schema", i), file) for i, table in enumerate(tables)]}

    def shorten(self, column: Mapping[str, Any]) -> dict[str, Any]:
        """A column of a contract without what `complete` fills in."""
        entry = self.entries.get(str(column["name"]))
        if entry is None:
            return dict(column)
        short = {name: value for name, value in column.items() if name not in entry.fields}
        custom = [p for p in short.pop("customProperties", []) if not _is_unit(p)]
        return short | ({"customProperties": custom} if custom else {})

    def _table(self, table: Any, location: tuple[str | int, ...], file: Path) -> Any:
        columns = table.get("properties") if isinstance(table, dict) else None
        if not isinstance(columns, list):
            return table
        completed = [self._column(c, (*location, "properties", i), file) for i, c in enumerate(columns)]
        return table | {"properties": completed}

    def _column(self, column: Any, location: tuple[str | int, ...], file: Path) -> Any:
        if not isinstance(column, dict) or not isinstance(column.get("name"), str):
            return column
        entry = self.entries.get(column["name"])
        if entry is None:
            self._require_whole(column, location, file)
            return column
        for field, value in entry.fields.items():
            if field in column and not _agrees(field, column[field], value):
                raise self._contradiction(entry, field, column[field], value, (*location, field), file)
        completed = {"name": entry.name} | entry.fields | column
        return self._with_unit(completed, entry, location, file)

    def _with_unit(
        self, column: dict[str, Any], entry: ColumnEntry, location: tuple[str | int, ...], file: Path
    ) -> dict[str, Any]:
        custom = column.get("customProperties", [])
        if not isinstance(custom, list):
            return column
        units = [(i, p.get("value")) for i, p in enumerate(custom) if _is_unit(p)]
        for position, unit in units:
            if unit != entry.unit:
                place = (*location, "customProperties", position, "value")
                raise self._contradiction(entry, UNIT, unit, entry.unit, place, file)
        if units or entry.unit is None:
            return column
        return column | {"customProperties": [{"property": UNIT, "value": entry.unit}, *custom]}

    def _require_whole(self, column: dict[str, Any], location: tuple[str | int, ...], file: Path) -> None:
        missing = [field for field in ("logicalType", "physicalType", "description") if field not in column]
        if not missing:
            return
        near = difflib.get_close_matches(column["name"], self.entries, n=1)
        raise mistake(
            file,
            f"column '{column['name']}' has no {' and no '.join(missing)}, and no entry in the column dictionary"
            + (f"; did you mean '{near[0]}'?" if near else ""),
            location,
            expected=f"{' and '.join(missing)} here, or an entry in {self.file}",
            next_step="write them here, or describe the name for all contracts in columns.yaml",
        )

    def _contradiction(
        self,
        entry: ColumnEntry,
        field: str,
        value: Any,
        expected: str | None,
        location: tuple[str | int, ...],
        file: Path,
    ) -> DeclarationError:
        line = line_of(self.file, ("columns", list(self.entries).index(entry.name)))
        return mistake(
            file,
            f"column '{entry.name}' has the {field} '{value}', which contradicts {self.file}:{line}",
            location,
            expected=f"'{expected}'" if expected else f"no {field}",
            next_step="leave the field out, or give a column of another meaning another name",
        )


def dictionary_file() -> Path:
    """Where the catalogue's column dictionary is, if it has one."""
    return settings().catalogue / "expectations" / "columns.yaml"


def load_dictionary() -> ColumnDictionary | None:
    """Read the catalogue's column dictionary; None if there is none, so that contracts say everything themselves.

    Raises:
        DeclarationError: it is broken; file, line and field are named.
    """
    file = dictionary_file()
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return _load(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=16)
def _load(file: Path, _mtime: int, _size: int) -> ColumnDictionary:
    entries: dict[str, ColumnEntry] = {}
    for position, entry in enumerate(read_model(file, _File).columns):
        if entry.name in entries:
            raise mistake(
                file, f"a second entry for '{entry.name}'", ("columns", position, "name"),
                expected="one entry for each name", next_step="keep one of them",
            )  # fmt: skip
        entries[entry.name] = entry
    return ColumnDictionary(file, entries)


def is_type(text: str) -> bool:
    """Whether a contract may give a column this type."""
    if plain_type(text) in LOGICAL_TYPES:
        return True
    decimal = _DECIMAL.fullmatch(plain_type(text))
    return decimal is not None and 1 <= int(decimal[1]) <= _MOST_DIGITS and int(decimal[2]) <= int(decimal[1])


def plain_type(text: str) -> str:
    """A type in canonical form for comparison, for example ``DECIMAL(18,6)``."""
    return text.upper().replace(" ", "")


def logical_type(physical: str) -> str:
    """The standard's logical type of a column type in plain form."""
    return "number" if physical.startswith("DECIMAL(") else LOGICAL_TYPES[physical]


def _agrees(field: str, value: Any, expected: str) -> bool:
    if field == "physicalType" and isinstance(value, str):
        return plain_type(value) == expected
    return bool(value == expected)


def _is_unit(custom: Any) -> bool:
    return isinstance(custom, dict) and custom.get("property") == UNIT
