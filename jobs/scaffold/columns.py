"""Proposes a contract's columns from text: names in house style, types, required columns, enums and a key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING

from jobs.declared.columns import ColumnDictionary, ColumnEntry
from jobs.declared.sql import literal, quote

if TYPE_CHECKING:
    import pyarrow as pa

PLACEHOLDERS = frozenset({
    "", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "---", ".", "..", "...", "n.a.", "\\n", "missing",
})  # fmt: skip
_INTEGER = re.compile(r"^[+-]?\d{1,18}$")
_DECIMAL = re.compile(r"^[+-]?(\d+(\.\d*)?|\.\d+)$")
_FLOAT = re.compile(r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$")
_GROUPED = re.compile(r"^[+-]?\d{1,3}(,\d{3})*(\.\d+)?$")
_ISO_DATE = re.compile(r"^\d{4}-\d{2}-\d{2}$")
_ISO_MOMENT = re.compile(r"^\d{4}-\d{2}-\d{2}([ T]|$)")
_ISO_INSTANT = re.compile(r"^\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?$")
# Date and time notations other than ISO 8601: (regex, Python's pattern, Spark's pattern, whether it has a time).
_WRITTEN = tuple(
    (re.compile(look), python, spark, timed)
    for look, python, spark, timed in (
        (r"^(19|20)\d{6}$", "%Y%m%d", "yyyyMMdd", False),
        (r"^(19|20)\d{12}$", "%Y%m%d%H%M%S", "yyyyMMddHHmmss", True),
        (r"^\d{4}/\d{1,2}/\d{1,2}$", "%Y/%m/%d", "yyyy/M/d", False),
        (r"^\d{1,2}/\d{1,2}/\d{4}$", "%d/%m/%Y", "d/M/yyyy", False),
        (r"^\d{1,2}/\d{1,2}/\d{4}$", "%m/%d/%Y", "M/d/yyyy", False),
        (r"^\d{1,2}-\d{1,2}-\d{4}$", "%d-%m-%Y", "d-M-yyyy", False),
        (r"^\d{1,2}\.\d{1,2}\.\d{4}$", "%d.%m.%Y", "d.M.yyyy", False),
        (r"^\d{1,2}-[A-Z][a-z]{2}-\d{4}$", "%d-%b-%Y", "d-MMM-yyyy", False),
        (r"^\d{4}/\d{1,2}/\d{1,2} \d{1,2}:\d{2}$", "%Y/%m/%d %H:%M", "yyyy/M/d H:mm", True),
        (r"^\d{4}/\d{1,2}/\d{1,2} \d{1,2}:\d{2}:\d{2}$", "%Y/%m/%d %H:%M:%S", "yyyy/M/d H:mm:ss", True),
        (r"^\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}$", "%d/%m/%Y %H:%M", "d/M/yyyy H:mm", True),
        (r"^\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}$", "%m/%d/%Y %H:%M", "M/d/yyyy H:mm", True),
        (r"^\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}:\d{2}$", "%d/%m/%Y %H:%M:%S", "d/M/yyyy H:mm:ss", True),
        (r"^\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}:\d{2}$", "%m/%d/%Y %H:%M:%S", "M/d/yyyy H:mm:ss", True),
    )
)
_CAPITALS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_UNITS = {
    "mw": "MW", "kw": "kW", "gw": "GW", "mwh": "MWh", "kwh": "kWh", "gwh": "GWh", "twh": "TWh", "mj": "MJ", "gj": "GJ",
    "usd": "USD", "eur": "EUR", "hkd": "HKD", "cny": "CNY", "rmb": "CNY", "gbp": "GBP", "jpy": "JPY", "km": "km",
    "percent": "percent", "pct": "percent", "m": "m", "kg": "kg", "t": "t", "celsius": "°C", "hours": "hours",
    "minutes": "minutes", "seconds": "seconds", "days": "days", "years": "years", "persons": "persons",
    "bytes": "bytes",
}  # fmt: skip
_CODES = frozenset(
    {
        "id",
        "code",
        "no",
        "key",
        "ref",
        "cik",
        "isbn",
        "isin",
        "fips",
        "zip",
        "postcode",
        "phone",
        "sku",
        "symbol",
        "ticker",
    }
)
_COUNTERS = frozenset({
    "year", "month", "quarter", "week", "day", "hour", "minute", "age", "number", "rank", "index", "line", "row",
})  # fmt: skip
_TIME_WORDS = frozenset({"date", "day", "time", "datetime", "timestamp", "at", "on"})
_INTEGER_BITS = {"TINYINT": 7, "SMALLINT": 15, "INT": 31, "BIGINT": 63}
_FEW = 12
_LONGEST_KEY = 4
_KEY_CANDIDATES = 12


@dataclass(frozen=True)
class Proposal:
    """One proposed column.

    Attributes:
        published: the publisher's name for it.
        transform: SQL that converts the published text; None if name and text need no change.
        doubt: what the engineer should review; None if nothing.
        entry: the column dictionary's entry for the name; None if it has none.
    """

    published: str
    name: str
    type: str
    transform: str | None
    required: bool
    enum: tuple[str, ...] = ()
    unit: str | None = None
    doubt: str | None = None
    entry: ColumnEntry | None = None


@dataclass(frozen=True)
class _Kind:
    type: str
    expression: str = "{}"
    doubt: str | None = None


def proposals(
    table: pa.Table, names: Sequence[str], dictionary: ColumnDictionary | None = None
) -> tuple[Proposal, ...]:
    """Propose a contract column for each named text column of a table.

    Args:
        table: the sample; every column is text.
        names: the published names of the columns to propose.
        dictionary: the catalogue's column dictionary, which decides type and unit of the names in it.
    """
    entries = dictionary.entries if dictionary else {}
    proposed: list[Proposal] = []
    for name in names:
        taken = [p.name for p in proposed]
        proposed.append(_proposal(name, table.column(name), table.num_rows, taken, entries))
    return tuple(proposed)


def key_of(table: pa.Table, columns: Sequence[Proposal]) -> tuple[str, ...]:
    """Return the smallest combination of columns that identifies each distinct row; codes are tried first.

    Measures come last, as they are unique only by chance. Empty if no combination identifies a row: the key is then all
    columns without nulls.
    """
    import pyarrow as pa

    names = [c.published for c in columns]
    distinct = table.select(names).group_by(names, use_threads=False).aggregate([])
    numbers = {n: distinct.column(n).combine_chunks().dictionary_encode() for n in names}
    candidates = [c for c in columns if c.required and c.type not in ("DOUBLE", "BOOLEAN")]
    rows = distinct.num_rows
    codes = pa.table({n: numbers[n].indices for n in names})

    def identifies_rows(chosen: Sequence[Proposal]) -> bool:
        picked = [c.published for c in chosen]
        if prod(len(numbers[n].dictionary) for n in picked) < rows:
            return False
        return bool(codes.select(picked).group_by(picked).aggregate([]).num_rows == rows)

    dimensions = sorted((c for c in candidates if not is_measure(c)), key=lambda c: not _is_code(c))[:_KEY_CANDIDATES]
    for among in (dimensions, (dimensions + [c for c in candidates if is_measure(c)])[:_KEY_CANDIDATES]):
        for size in range(1, min(_LONGEST_KEY, len(among)) + 1):
            for chosen in combinations(among, size):
                if identifies_rows(chosen):
                    return tuple(c.name for c in columns if c in chosen)
    return ()


def _is_code(column: Proposal) -> bool:
    return column.name.rsplit("_", 1)[-1] in _CODES


def is_measure(column: Proposal) -> bool:
    """Whether a column is a figure, whose values identify a row only by chance."""
    if column.type.startswith("DECIMAL"):
        return True
    return column.type in ("INT", "BIGINT") and not _COUNTERS & set(column.name.split("_"))


def _proposal(
    published: str, values: pa.ChunkedArray, rows: int, taken: Sequence[str], entries: Mapping[str, ColumnEntry]
) -> Proposal:
    import pyarrow.compute as pc

    counted = {r["values"]: r["counts"] for r in pc.value_counts(values).to_pylist()}
    absent = counted.pop(None, 0) + counted.pop("", 0)
    placeholders = sorted(v for v in counted if v.strip().lower() in PLACEHOLDERS)
    values_present = [v for v in counted if v not in placeholders]
    words = _words(published)
    kind = _kind(values_present, words)
    plain = "_".join(words)
    name = plain if plain in entries and plain not in taken else _name(words, kind.type, taken)
    entry = entries.get(name)
    if entry:
        kind = _as_declared(entry, kind, values_present)
    if kind.type == "STRING":
        placeholders = []
    required = rows > 0 and absent == 0 and not placeholders
    enum = _enum(kind, counted, rows) if not placeholders else ()
    return Proposal(
        published,
        name,
        kind.type,
        _transform(published, name, kind, placeholders),
        required,
        enum,
        entry.unit if entry else _unit(name, kind),
        kind.doubt,
        entry,
    )


def _as_declared(entry: ColumnEntry, kind: _Kind, values: Sequence[str]) -> _Kind:
    """Convert the text to the type in the column dictionary, with a doubt about values that do not fit."""
    if entry.type == kind.type:
        return kind
    misfits = [v for v in values if not fits(v, entry.type, kind.expression)]
    if misfits:
        shown = f" ({misfits[0]!r}, for example)" if entry.classification in (None, "general") else ""
        doubt = (
            f"{len(misfits)} of {len(values)} distinct values do not fit {entry.type}, its type in the column "
            f"dictionary{shown}; correct transformLogic, or give the column another name"
        )
        return _Kind(entry.type, doubt=doubt)
    if entry.type == "STRING":
        return _Kind(entry.type)
    return _Kind(entry.type, kind.expression, kind.doubt)


def fits(value: str, kind: str, expression: str = "{}") -> bool:
    """Whether a text can be read as a value of a column type.

    Args:
        value: the text as published.
        kind: a column type in plain form, like ``DECIMAL(18,6)``.
        expression: the SQL that converts the column's values, like ``try_to_timestamp({}, 'd/M/yyyy')``.
    """
    text = value.strip()
    if kind == "STRING":
        return True
    if kind == "BOOLEAN":
        return text.lower() in ("true", "false")
    if kind in ("DATE", "TIMESTAMP"):
        if "try_to_timestamp" in expression:
            # A date can be read as an instant at midnight, but an instant not as a date.
            return kind == "TIMESTAMP" or "H" not in expression
        look = _ISO_DATE if kind == "DATE" else _ISO_MOMENT
        return bool(look.match(text)) and _all_iso([text])
    if "replace" in expression:
        text = text.replace(",", "")
    return _is_number_of(text, kind)


def _is_number_of(text: str, kind: str) -> bool:
    if kind in _INTEGER_BITS:
        return bool(_INTEGER.match(text)) and -(2 ** _INTEGER_BITS[kind]) <= int(text) < 2 ** _INTEGER_BITS[kind]
    if not _FLOAT.match(text):
        return False
    if kind in ("FLOAT", "DOUBLE"):
        return True
    precision, scale = map(int, kind.removeprefix("DECIMAL(").removesuffix(")").split(","))
    _, digits, exponent = Decimal(text).as_tuple()
    significant = "".join(map(str, digits)).rstrip("0")
    places = -int(exponent) - (len(digits) - len(significant))
    return not significant or (places <= scale and len(significant.lstrip("0")) - places <= precision - scale)


def _transform(published: str, name: str, kind: _Kind, placeholders: Sequence[str]) -> str | None:
    plain = kind.expression == "{}" and not placeholders
    if plain and published.lower() == name:
        return None
    text = quote(published)
    for word in placeholders:
        text = f"nullif({text}, {literal(word)})"
    if kind.type == "STRING":
        return text
    return f"try_cast({kind.expression.format(text)} as {kind.type.lower()})"


def _kind(values: Sequence[str], words: Sequence[str]) -> _Kind:
    if not values:
        return _Kind("STRING", doubt="no value in the sample")
    stripped = [v.strip() for v in values]
    moment = _moment(stripped, words)
    if moment:
        return moment
    if all(_DECIMAL.match(v) for v in stripped):
        return _number(stripped, words)
    if all(_FLOAT.match(v) for v in stripped):
        return _Kind("DOUBLE", "trim({})")
    if all(_GROUPED.match(v) for v in stripped):
        inner = _number([v.replace(",", "") for v in stripped], words)
        return _Kind(inner.type, "replace(trim({}), ',', '')", "thousands separators (commas) are removed")
    if {v.lower() for v in stripped} <= {"true", "false"}:
        return _Kind("BOOLEAN")
    return _Kind("STRING")


_ROOMY_SCALE = 6


def _number(values: Sequence[str], words: Sequence[str]) -> _Kind:
    digits = [v.lstrip("+-") for v in values]
    if any(len(d) > 1 and d[0] == "0" and d[1] != "." for d in digits):
        return _Kind("STRING", doubt="has leading zeros, so it is kept as a code")
    if all(_INTEGER.match(v) for v in values):
        if words and words[-1] in _CODES:
            return _Kind("STRING")
        return _Kind("INT" if max(abs(int(v)) for v in values) < 1_000_000 else "BIGINT")
    exponents = [Decimal(v).as_tuple().exponent for v in values]
    scale = max(-e for e in exponents if isinstance(e, int))
    whole = max(len(d.split(".")[0]) for d in digits)
    if scale > 6 or whole + scale > 16:
        # That many decimal places come from floating point, not from a publisher; codes of many digits are text.
        return _Kind("DOUBLE") if scale > 0 else _Kind("STRING")
    # More places than the sample shows: later figures may have them, and would be rounded silently.
    return _Kind(f"DECIMAL(18,{max(scale, min(_ROOMY_SCALE, 16 - whole))})")


def _moment(values: Sequence[str], words: Sequence[str]) -> _Kind | None:
    if all(_ISO_DATE.match(v) for v in values) and _all_parse(values, "%Y-%m-%d"):
        return _Kind("DATE")
    if all(_ISO_INSTANT.match(v) for v in values) and _all_iso(values):
        zoned = all(v.endswith("Z") or v[-6] in "+-" for v in values)
        return _Kind("TIMESTAMP", doubt=None if zoned else "times without an offset are read as UTC")
    fitting = [w for w in _WRITTEN if all(w[0].match(v) for v in values) and _all_parse(values, w[1])]
    if not fitting:
        return None
    _, _, pattern, timed = fitting[0]
    if pattern.startswith("yyyyMMdd") and not _TIME_WORDS & set(words) and len(pattern) == 8:
        return None
    doubts = []
    if len(fitting) > 1:
        doubts.append(f"day and month are ambiguous in the sample; read as {pattern}")
    if timed:
        doubts.append("times without an offset are read as UTC")
    read = f"try_to_timestamp(trim({{}}), '{pattern}')"
    return _Kind("TIMESTAMP" if timed else "DATE", read, "; ".join(doubts) or None)


def _all_parse(values: Iterable[str], pattern: str) -> bool:
    try:
        for value in values:
            datetime.strptime(value, pattern)
    except ValueError:
        return False
    return True


def _all_iso(values: Iterable[str]) -> bool:
    try:
        for value in values:
            datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _enum(kind: _Kind, counted: dict[str, int], rows: int) -> tuple[str, ...]:
    few = 2 <= len(counted) <= _FEW and rows >= 50 * len(counted)
    if kind.type != "STRING" or not few or any(len(v) > 40 or v != v.strip() for v in counted):
        return ()
    return tuple(sorted(counted))


def _words(published: str) -> list[str]:
    """Split a published name into lower-case ASCII words."""
    text = published.replace("%", " percent ").encode("ascii", "ignore").decode()
    words: list[str] = []
    for word in re.split(r"[^A-Za-z0-9]+", text):
        # A unit with inner capitals is one word: MWh, kW.
        parts = [word] if word.lower() in _UNITS else _CAPITALS.sub(" ", word).split()
        words += [part.lower() for part in parts]
    return [word for word in words if word]


def _name(words: Sequence[str], kind: str, taken: Sequence[str]) -> str:
    parts = list(words)
    unit = next((w for w in parts[:-1] if w in _UNITS and len(w) > 1), None)
    if unit:
        parts.remove(unit)
        parts.append(unit)
    ending = {"DATE": "on", "TIMESTAMP": "at"}.get(kind)
    if ending:
        parts = [w for w in parts if w not in _TIME_WORDS] or ["observed"]
        parts.append(ending)
    if kind == "BOOLEAN" and parts[:1] not in (["is"], ["has"]):
        parts.insert(0, "is")
    name = "_".join(parts) or f"column_{len(taken) + 1}"
    if not name[0].isalpha():
        name = f"value_{name}"
    name = name[:60]
    while name in taken:
        name = f"{name}_{len(taken) + 1}"
    return name


def _unit(name: str, kind: _Kind) -> str | None:
    return _UNITS.get(name.rsplit("_", 1)[-1]) if kind.type not in ("STRING", "BOOLEAN", "DATE", "TIMESTAMP") else None
