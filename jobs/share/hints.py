"""Skips the files that a client's hints rule out: those of which no row can match."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from jobs.share.snapshot import SharedFile, SharedSnapshot

_INTEGERS = frozenset({"byte", "short", "integer", "long"})

# Writers truncate a timestamp's statistics to milliseconds, so the true maximum may be up to one millisecond later.
_CUT = timedelta(milliseconds=1)

_LAST_INSTANT = datetime.max.replace(tzinfo=UTC) - _CUT

# Deeper than any real predicate; what lies below is not evaluated.
_MAX_DEPTH = 100


@dataclass(frozen=True)
class _Outcome:
    """Whether a condition can be true, or false, for some row of a file; neither if it is null for every row."""

    true: bool
    false: bool


_UNKNOWN = _Outcome(True, True)
_NEVER = _Outcome(False, False)


@dataclass(frozen=True)
class _Bounds:
    """Bounds of a column's non-null values in one file. The bounds themselves need not occur."""

    lower: Any
    upper: Any


def select_files(
    snapshot: SharedSnapshot, *, predicate: str | None, limit: int | None, other_hints: bool
) -> list[SharedFile]:
    """Return the files that a query needs, given its hints.

    Args:
        snapshot: the version to read.
        predicate: ``jsonPredicateHints`` as received; ignored entirely if it is not JSON, and in part where an
            operation, type or value is unknown.
        limit: ``limitHint``; used only without predicates, because a file's row count does not say how many of its
            rows the client will keep.
        other_hints: whether the query has ``predicateHints``, which are not evaluated.
    """
    tree = _parse(predicate)
    if tree is not None:
        return [file for file in snapshot.files if _evaluate(tree, file, snapshot.types, _MAX_DEPTH).true]
    if limit is None or predicate is not None or other_hints:
        return list(snapshot.files)
    return _enough(snapshot.files, limit)


def _enough(files: Sequence[SharedFile], limit: int) -> list[SharedFile]:
    chosen: list[SharedFile] = []
    rows = 0
    for file in files:
        if rows >= limit:
            break
        chosen.append(file)
        rows += file.rows or 0
    return chosen


def _parse(predicate: str | None) -> dict[str, Any] | None:
    if predicate is None:
        return None
    try:
        tree = json.loads(predicate)
    except (ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None


def _evaluate(node: Any, file: SharedFile, types: dict[str, Any], depth: int) -> _Outcome:
    if not isinstance(node, dict) or depth == 0:
        return _UNKNOWN
    children = node.get("children")
    if not isinstance(children, list) or not children:
        return _UNKNOWN
    operation = node.get("op")
    if operation in ("and", "or", "not"):
        outcomes = [_evaluate(child, file, types, depth - 1) for child in children]
        return _combine(operation, outcomes)
    if operation == "isNull" and len(children) == 1:
        return _is_null(children[0], file)
    if isinstance(operation, str) and operation in _COMPARISONS and len(children) == 2:
        return _compare(operation, children[0], children[1], file, types)
    return _UNKNOWN


def _combine(operation: str, outcomes: list[_Outcome]) -> _Outcome:
    if operation == "and":
        return _Outcome(all(o.true for o in outcomes), any(o.false for o in outcomes))
    if operation == "or":
        return _Outcome(any(o.true for o in outcomes), all(o.false for o in outcomes))
    if len(outcomes) != 1:
        return _UNKNOWN
    return _Outcome(outcomes[0].false, outcomes[0].true)


def _is_null(child: Any, file: SharedFile) -> _Outcome:
    name = _column(child)
    if name is None:
        return _UNKNOWN
    if name in file.partition:
        empty = file.partition[name] in (None, "")
        return _Outcome(empty, not empty)
    nulls = file.nulls.get(name)
    if not isinstance(nulls, int) or file.rows is None:
        return _UNKNOWN
    return _Outcome(nulls > 0, nulls < file.rows)


def _compare(operation: str, left: Any, right: Any, file: SharedFile, types: dict[str, Any]) -> _Outcome:
    name, literal = _column(left), right
    if name is None:
        name, literal, operation = _column(right), left, _MIRRORED[operation]
    if name is None or not isinstance(literal, dict) or literal.get("op") != "literal":
        return _UNKNOWN
    kind = types.get(name)
    value = _value(literal, kind)
    if value is None:
        return _UNKNOWN
    if _all_null(name, file):
        return _NEVER
    bounds = _bounds(name, kind, file)
    return _UNKNOWN if bounds is None else _COMPARISONS[operation](bounds, value)


def _equal(bounds: _Bounds, value: Any) -> _Outcome:
    return _Outcome(bounds.lower <= value <= bounds.upper, not bounds.lower == value == bounds.upper)


_COMPARISONS: dict[str, Callable[[_Bounds, Any], _Outcome]] = {
    "equal": _equal,
    "lessThan": lambda b, v: _Outcome(b.lower < v, b.upper >= v),
    "lessThanOrEqual": lambda b, v: _Outcome(b.lower <= v, b.upper > v),
    "greaterThan": lambda b, v: _Outcome(b.upper > v, b.lower <= v),
    "greaterThanOrEqual": lambda b, v: _Outcome(b.upper >= v, b.lower < v),
}
_MIRRORED = {
    "equal": "equal",
    "lessThan": "greaterThan",
    "lessThanOrEqual": "greaterThanOrEqual",
    "greaterThan": "lessThan",
    "greaterThanOrEqual": "lessThanOrEqual",
}


def _column(node: Any) -> str | None:
    if not isinstance(node, dict) or node.get("op") != "column":
        return None
    name = node.get("name")
    return name if isinstance(name, str) else None


def _all_null(name: str, file: SharedFile) -> bool:
    if name in file.partition:
        return file.partition[name] in (None, "")
    return file.rows is not None and file.nulls.get(name) == file.rows


def _bounds(name: str, kind: Any, file: SharedFile) -> _Bounds | None:
    if name in file.partition:
        text = file.partition[name]
        value = None if text is None else _typed(text, kind, needs_zone=False)
        return None if value is None else _Bounds(value, value)
    lower, upper = file.lower.get(name), file.upper.get(name)
    if lower is None or upper is None:
        return None
    if kind != "timestamp":
        return _Bounds(lower, upper)
    return _Bounds(lower, upper + _CUT) if upper < _LAST_INSTANT else None


def _value(literal: dict[str, Any], kind: Any) -> Any:
    """Read a literal as a value of its column's type; None where they do not fit."""
    declared, text = literal.get("valueType"), literal.get("value")
    fits = {"int": _INTEGERS, "long": _INTEGERS, "string": {"string"}, "date": {"date"}, "bool": {"boolean"}}
    fits["timestamp"] = {"timestamp"}
    if not isinstance(text, str) or not isinstance(declared, str) or kind not in fits.get(declared, ()):
        return None
    return _typed(text, kind, needs_zone=True)


def _typed(text: str, kind: Any, *, needs_zone: bool) -> Any:
    # No floating point: NaN sorts above every number but does not appear in statistics.
    try:
        if kind in _INTEGERS:
            return int(text)
        if kind == "date":
            return date.fromisoformat(text)
        if kind == "boolean":
            return {"true": True, "false": False}.get(text.lower())
        if kind == "timestamp":
            return _instant(text, needs_zone=needs_zone)
    except ValueError:
        return None
    return text if kind == "string" else None


def _instant(text: str, *, needs_zone: bool) -> datetime | None:
    # Without a zone, a client's timestamp is in a zone that only the client knows; a partition's is in UTC.
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        return None if needs_zone else moment.replace(tzinfo=UTC)
    return moment
