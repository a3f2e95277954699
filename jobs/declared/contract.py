"""Reads a table's contract (Open Data Contract Standard 3): its columns, key, rules and promises."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.declared.columns import (
    CLASSES,
    TYPES_ALLOWED,
    UNIT,
    ColumnDictionary,
    is_type,
    load_dictionary,
    plain_type,
)
from jobs.declared.yaml_file import mistake, read_yaml, yaml_text
from jobs.errors import DeclarationError, ExchangeError
from jobs.settings import settings

if TYPE_CHECKING:
    from jsonschema_rs import Validator

METRICS = ("nullValues", "missingValues", "invalidValues", "duplicateValues", "rowCount")
LIMITS = (
    "mustBe", "mustNotBe", "mustBeGreaterThan", "mustBeGreaterOrEqualTo", "mustBeLessThan", "mustBeLessOrEqualTo",
    "mustBeBetween", "mustNotBeBetween",
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column as the contract promises it."""

    name: str
    type: str
    description: str
    unit: str | None = None
    classification: str = "general"
    required: bool = False
    key_position: int | None = None
    partition_position: int | None = None
    transform: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    enum: tuple[str, ...] = ()


@dataclass(frozen=True)
class Freshness:
    """How old the newest value of a column may be, in days, at the logical date of a check."""

    column: str
    days: float


@dataclass(frozen=True)
class Contract:
    """One table's contract; `document` is the whole ODCS document, with what the column dictionary says filled in."""

    table: str
    file: Path
    version: str
    description: str
    columns: tuple[Column, ...]
    freshness: Freshness | None
    document: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """sha256 of the document in canonical form: the same terms have the same digest, however they are laid out."""
        canonical = json.dumps(self.document, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def text(self) -> str:
        """The document as YAML: it needs no column dictionary beside it."""
        return yaml_text(self.document)

    @property
    def key(self) -> tuple[str, ...]:
        """Names of the key columns, in key order."""
        keyed = [c for c in self.columns if c.key_position is not None]
        return tuple(c.name for c in sorted(keyed, key=lambda c: c.key_position or 0))

    @property
    def partitions(self) -> tuple[str, ...]:
        """Names of the partition columns, in order."""
        parted = [c for c in self.columns if c.partition_position is not None]
        return tuple(c.name for c in sorted(parted, key=lambda c: c.partition_position or 0))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns, in order."""
        return tuple(c.name for c in self.columns)

    def mistake(self, what: str, location: tuple[str | int, ...], **more: str) -> DeclarationError:
        """An error that points at a place in this contract."""
        return mistake(self.file, what, location, **more)


def contract_file(table: str) -> Path:
    """Where the contract of ``silver.x`` or ``gold.x`` is: expectations/<layer>/<name>.yaml."""
    layer, name = table.split(".", 1)
    return settings().catalogue / "expectations" / layer / f"{name}.yaml"


def load_contract(table: str) -> Contract:
    """Read the contract of a table, completed from the column dictionary.

    Raises:
        DeclarationError: it is absent, contradicts the column dictionary or breaks the standard, or that dictionary is
            broken; file, line and field are named.
    """
    file = contract_file(table)
    if not file.exists():
        kind = "source" if table.startswith("silver.") else "product"
        raise DeclarationError(
            f"the table {table} has no contract",
            file=file,
            expected="one ODCS contract per table",
            next_step=f"write it, or let `exchange {kind} new` propose one",
        )
    stat = file.stat()
    return _load(table, file, stat.st_mtime_ns, stat.st_size, load_dictionary())


@lru_cache(maxsize=1024)
def _load(table: str, file: Path, _mtime: int, _size: int, dictionary: ColumnDictionary | None) -> Contract:
    document = read_yaml(file)
    if dictionary is not None:
        document = dictionary.complete(document, file)
    _check_standard(document, file)
    objects = document.get("schema") or []
    if len(objects) != 1:
        raise mistake(file, f"{len(objects)} tables under schema", ("schema",), expected="exactly one")
    name = table.split(".", 1)[1]
    if objects[0].get("name") != name:
        raise mistake(
            file, f"the contract describes '{objects[0].get('name')}'", ("schema", 0, "name"), expected=f"'{name}'"
        )
    properties = objects[0].get("properties") or []
    columns = tuple(_column(p, ("schema", 0, "properties", i), file) for i, p in enumerate(properties))
    _check_columns(columns, file)
    return Contract(
        table=table,
        file=file,
        version=str(document["version"]),
        description=str(objects[0].get("description") or ""),
        columns=columns,
        freshness=_freshness(document, columns, file),
        document=document,
    )


@cache
def _standard() -> dict[str, Any]:
    from importlib.resources import files

    text = files("open_data_contract_standard").joinpath("schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@cache
def _validator() -> Validator:
    from jsonschema_rs import validator_for

    return validator_for(_standard())


def _check_standard(document: dict[str, Any], file: Path) -> None:
    """Refuse what breaks the standard: one library decides, two hundred times faster; the other says what is wrong."""
    values = json.loads(json.dumps(document, default=str))
    if _validator().is_valid(values):
        return
    what, path = _worst(values)
    _check_entry(values, path, file)
    raise mistake(
        file, what[:300], path,
        expected="a document of the Open Data Contract Standard 3", next_step="correct the field",
    )  # fmt: skip


def _worst(document: Any) -> tuple[str, tuple[str | int, ...]]:
    """Message and place of the mistake that explains most."""
    from jsonschema import exceptions
    from jsonschema.validators import validator_for

    best_match: Callable[[Iterable[Any]], Any] = exceptions.best_match
    schema = _standard()
    error = best_match(validator_for(schema)(schema).iter_errors(document))
    if error:
        return error.message, tuple(error.absolute_path)
    # Only if the two libraries disagree.
    first = next(_validator().iter_errors(document))
    return first.message, tuple(first.instance_path)


def _check_entry(document: dict[str, Any], path: tuple[str | int, ...], file: Path) -> None:
    """Report a broken quality entry in plain words; the messages of the standard's schema are unreadable."""
    if "quality" not in path:
        return
    location = path[: path.index("quality") + 2]
    entry: Any = document
    for step in location:
        entry = entry[step]
    if not isinstance(entry, dict) or (entry.get("type") or "library") not in ("library", "sql"):
        return
    limits = [name for name in entry if name in LIMITS]
    if entry.get("type") != "sql" and entry.get("metric") not in METRICS:
        what = f"the metric '{entry['metric']}'" if entry.get("metric") else "a library rule without a metric"
        raise mistake(
            file,
            what,
            (*location, "metric") if "metric" in entry else location,
            expected=f"one of: {', '.join(METRICS)}",
        )
    if not limits:
        raise mistake(file, "a rule without a limit", location, expected=f"one of: {', '.join(LIMITS)}")
    if len(limits) > 1:
        raise mistake(file, f"a rule with {len(limits)} limits: {', '.join(limits)}", location, expected="one of them")


def _column(declared: dict[str, Any], location: tuple[str | int, ...], file: Path) -> Column:
    name = str(declared["name"])
    kind = plain_type(str(declared.get("physicalType") or ""))
    if not is_type(kind):
        raise mistake(
            file, f"column '{name}' has the type '{declared.get('physicalType')}'", (*location, "physicalType"),
            expected=TYPES_ALLOWED, next_step="correct the field",
        )  # fmt: skip
    classification = str(declared.get("classification") or "general")
    if classification not in CLASSES:
        raise mistake(
            file, f"column '{name}' has the class '{classification}'", (*location, "classification"),
            expected=f"one of: {', '.join(CLASSES)}",
        )  # fmt: skip
    return Column(
        name=name,
        type=kind,
        description=str(declared.get("description") or ""),
        unit=next((str(p["value"]) for p in declared.get("customProperties") or [] if p["property"] == UNIT), None),
        classification=classification,
        required=bool(declared.get("required")) or bool(declared.get("primaryKey")),
        key_position=declared.get("primaryKeyPosition", 1) if declared.get("primaryKey") else None,
        partition_position=declared.get("partitionKeyPosition", 1) if declared.get("partitioned") else None,
        transform=_transform(declared, location, file),
        options=tuple(sorted((declared.get("logicalTypeOptions") or {}).items())),
        enum=tuple(str(e["value"]) for e in declared.get("enum") or []),
    )


def _transform(declared: dict[str, Any], location: tuple[str | int, ...], file: Path) -> str | None:
    """The column's transformLogic as the engine gets it, once the grammar allows it."""
    if declared.get("transformLogic") is None:
        return None
    # Contracts without SQL need no parser.
    from jobs.declared.grammar import check_expression
    from jobs.declared.spark_sql import SqlMistake

    try:
        return check_expression(str(declared["transformLogic"])).text
    except SqlMistake as error:
        raise in_yaml(error, file, (*location, "transformLogic")) from None


def in_yaml(error: ExchangeError, file: Path, location: tuple[str | int, ...]) -> DeclarationError:
    """A mistake in SQL as one of the YAML file that states it."""
    more = {"expected": error.expected, "next_step": error.next_step}
    return mistake(file, error.what, location, **{name: text for name, text in more.items() if text})


def _check_columns(columns: tuple[Column, ...], file: Path) -> None:
    seen: set[str] = set()
    for position, column in enumerate(columns):
        location = ("schema", 0, "properties", position)
        if column.name.startswith("_"):
            raise mistake(
                file, f"column '{column.name}' begins with an underscore", location, expected="a name of its own"
            )
        if column.name.lower() in seen:
            raise mistake(file, f"a second column '{column.name}'", location, expected="each name once")
        seen.add(column.name.lower())
    if not any(c.key_position is not None for c in columns):
        raise mistake(
            file, "no column is part of the key", ("schema", 0, "properties"),
            expected="primaryKey: true on the columns that name a row",
        )  # fmt: skip


# Days in a unit of time. "m" is left out, as it may mean minutes or months.
_DAYS = {
    **dict.fromkeys(("min", "minute", "minutes"), 1 / 1440),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 1 / 24),
    **dict.fromkeys(("d", "day", "days"), 1.0),
    **dict.fromkeys(("w", "week", "weeks"), 7.0),
    **dict.fromkeys(("mo", "month", "months"), 365.25 / 12),
    **dict.fromkeys(("y", "yr", "year", "years"), 365.25),
}


def _freshness(document: dict[str, Any], columns: tuple[Column, ...], file: Path) -> Freshness | None:
    """The promise of latency or freshness; one at most, because it becomes one rule."""
    promised: Freshness | None = None
    for position, promise in enumerate(document.get("slaProperties") or []):
        if promise.get("property") not in ("latency", "freshness"):
            continue
        place = ("slaProperties", position)
        if promised is not None:
            raise mistake(
                file, f"a second promise of how fresh the table is ({promise['property']})", place,
                expected="one property latency or freshness",
            )  # fmt: skip
        element = str(promise.get("element") or "").split(".")[-1]
        unit = str(promise.get("unit") or "d").strip().lower()
        if element not in {c.name for c in columns} or unit not in _DAYS:
            raise mistake(
                file, f"the promise of {promise['property']} names '{promise.get('element')}' in '{unit}'", place,
                expected="element: a column of this table; unit: minutes, hours, days, weeks, months or years",
            )  # fmt: skip
        promised = Freshness(element, float(promise["value"]) * _DAYS[unit])
    return promised
