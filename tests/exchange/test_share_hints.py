"""A hint skips only files without a matching row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.registry import engine
from jobs.share.hints import select_files
from jobs.share.snapshot import SharedSnapshot, shared_snapshot
from tests.exchange.wares import build, release

Row = dict[str, Any]

_START = datetime(2026, 1, 1, tzinfo=UTC)
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "equal": lambda a, b: a == b,
    "lessThan": lambda a, b: a < b,
    "lessThanOrEqual": lambda a, b: a <= b,
    "greaterThan": lambda a, b: a > b,
    "greaterThanOrEqual": lambda a, b: a >= b,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A released table of seven files with nulls, NaN, long texts, and instants more precise than their statistics."""
    patch = pytest.MonkeyPatch()
    patch.setenv("EXCHANGE_HOME", str(tmp_path_factory.mktemp("hints")))
    # Before the tables: an empty registry beside tables is refused.
    engine()
    for part in range(7):
        numbers = range(part * 4, part * 4 + 4)
        build(
            "facts",
            pa.table(
                {
                    "n": pa.array([None if n % 9 == 5 else n - 10 for n in numbers], pa.int64()),
                    "small": pa.array([n % 3 for n in numbers], pa.int16()),
                    "text": pa.array(["é" * 90 + str(n) if n % 5 else f"t{n}" for n in numbers]),
                    "on": pa.array([date(2026, 1, 1) + timedelta(days=n) for n in numbers]),
                    "at": pa.array([_START + timedelta(seconds=n, microseconds=999) for n in numbers]),
                    "ratio": pa.array([math.nan if n % 4 == 1 else n / 2 for n in numbers], pa.float64()),
                    "flag": pa.array([n < 14 for n in numbers]),
                    "empty": pa.array([None if part == 3 else n for n in numbers], pa.int64()),
                    "half": pa.array([None if part == 6 else part % 2 for _ in numbers], pa.int32()),
                }
            ),
            partition_by=["half"],
        )
    released = release("facts", "1.0.0")
    state = shared_snapshot(released.id)
    rows: dict[str, list[Row]] = {}
    for file in state.files:
        read = pq.ParquetFile(state.folder / file.path).read().to_pylist()
        half = file.partition["half"]
        rows[file.path] = [row | {"half": None if half is None else int(half)} for row in read]
    assert len(rows) == 7
    yield state, rows
    patch.undo()


def _holds(node: dict[str, Any], row: Row) -> bool | None:
    """Evaluate a predicate on one row as SQL does; NaN is larger than every number, as in Spark."""
    operation, children = node["op"], node["children"]
    if operation == "not":
        inner = _holds(children[0], row)
        return None if inner is None else not inner
    if operation in ("and", "or"):
        results = [_holds(child, row) for child in children]
        decisive = operation == "or"
        return decisive if decisive in results else None if None in results else not decisive
    if operation == "isNull":
        return row[children[0]["name"]] is None
    left, right = (_term(child, row) for child in children)
    return None if left is None or right is None else _OPERATORS[operation](left, right)


def _term(node: dict[str, Any], row: Row) -> Any:
    if node["op"] == "column":
        value = row[node["name"]]
        return math.inf if isinstance(value, float) and math.isnan(value) else value
    kinds: dict[str, Callable[[str], Any]] = {
        "long": int,
        "int": int,
        "string": str,
        "date": date.fromisoformat,
        "timestamp": datetime.fromisoformat,
        "double": float,
        "bool": lambda text: text == "true",
    }
    return kinds[node["valueType"]](node["value"])


def _leaf(name: str, kind: str, values: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    column = {"op": "column", "name": name, "valueType": kind}
    literal = values.map(lambda value: {"op": "literal", "value": value, "valueType": kind})
    compared = st.tuples(st.sampled_from(sorted(_OPERATORS)), literal, st.booleans()).map(
        lambda parts: {"op": parts[0], "children": [column, parts[1]] if parts[2] else [parts[1], column]}
    )
    return compared | st.just({"op": "isNull", "children": [column]})


_NUMBERS = st.integers(-14, 30)
_INSTANTS = st.integers(-2, 30).flatmap(
    lambda n: st.sampled_from([0, 998, 999, 1000]).map(lambda us: _START + timedelta(seconds=n, microseconds=us))
)
_LEAVES = st.one_of(
    _leaf("n", "long", _NUMBERS.map(str)),
    _leaf("small", "int", _NUMBERS.map(str)),
    _leaf("empty", "long", _NUMBERS.map(str)),
    _leaf("half", "int", st.integers(-1, 2).map(str)),
    _leaf("text", "string", _NUMBERS.map(lambda n: "é" * 90 + str(n)) | _NUMBERS.map(lambda n: f"t{n}") | st.text()),
    _leaf("on", "date", _NUMBERS.map(lambda n: (date(2026, 1, 1) + timedelta(days=n)).isoformat())),
    _leaf("at", "timestamp", _INSTANTS.map(datetime.isoformat)),
    _leaf("ratio", "double", _NUMBERS.map(str)),
    _leaf("flag", "bool", st.sampled_from(["true", "false"])),
)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda children: {"op": "and", "children": children}),
        st.lists(inner, min_size=2, max_size=3).map(lambda children: {"op": "or", "children": children}),
        inner.map(lambda child: {"op": "not", "children": [child]}),
    ),
    max_leaves=6,
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(tree=_TREES)
def test_no_matching_row_is_lost(world: tuple[SharedSnapshot, dict[str, list[Row]]], tree: dict[str, Any]) -> None:
    state, rows = world
    selected = {file.path for file in select_files(state, predicate=json.dumps(tree), limit=1, other_hints=False)}
    for path, content in rows.items():
        if path not in selected:
            assert not any(_holds(tree, row) for row in content)


def _compare(name: str, operation: str, value: str, kind: str) -> dict[str, Any]:
    return {
        "op": operation,
        "children": [
            {"op": "column", "name": name, "valueType": kind},
            {"op": "literal", "value": value, "valueType": kind},
        ],
    }


@pytest.mark.parametrize(
    ("tree", "files"),
    [
        (_compare("n", "equal", "0", "long"), 1),
        (_compare("n", "lessThan", "-10", "long"), 0),
        (_compare("n", "greaterThanOrEqual", "10", "long"), 2),
        (_compare("on", "lessThanOrEqual", "2026-01-04", "date"), 1),
        (_compare("at", "greaterThan", "2026-01-01T00:00:20Z", "timestamp"), 2),
        (_compare("flag", "equal", "false", "bool"), 4),
        (_compare("half", "equal", "1", "int"), 3),
        ({"op": "isNull", "children": [{"op": "column", "name": "half", "valueType": "int"}]}, 1),
        ({"op": "isNull", "children": [{"op": "column", "name": "n", "valueType": "long"}]}, 3),
        (_compare("empty", "greaterThan", "-100", "long"), 6),
        ({"op": "not", "children": [_compare("half", "equal", "1", "int")]}, 3),
        ({"op": "and", "children": [_compare("half", "equal", "1", "int"), _compare("n", "lessThan", "0", "long")]}, 1),
        # Undecidable predicates keep every file: unknown columns, operations and types, and instants without a zone.
        (_compare("nosuch", "equal", "0", "long"), 7),
        (_compare("n", "in", "0", "long"), 7),
        (_compare("n", "equal", "zero", "long"), 7),
        (_compare("n", "equal", "0", "string"), 7),
        (_compare("ratio", "greaterThan", "1e9", "double"), 7),
        (_compare("at", "greaterThan", "2027-01-01 00:00:00", "timestamp"), 7),
        ({"op": "not", "children": []}, 7),
        ({"op": "equal", "children": [{"op": ["x"]}, {"op": {}}]}, 7),
        ({"op": ["and"], "children": [1, None, "x"]}, 7),
    ],
)
def test_a_predicate_keeps_the_files_that_may_match(
    world: tuple[SharedSnapshot, dict[str, list[Row]]], tree: dict[str, Any], files: int
) -> None:
    assert len(select_files(world[0], predicate=json.dumps(tree), limit=None, other_hints=False)) == files


def test_limits_count_rows_only_where_all_rows_count(world: tuple[SharedSnapshot, dict[str, list[Row]]]) -> None:
    state = world[0]
    for limit, files in ((0, 0), (1, 1), (4, 1), (5, 2), (28, 7), (1000, 7)):
        assert len(select_files(state, predicate=None, limit=limit, other_hints=False)) == files
    assert len(select_files(state, predicate=None, limit=1, other_hints=True)) == 7
    assert len(select_files(state, predicate="not json", limit=1, other_hints=False)) == 7


def test_a_very_deep_predicate_is_handled(world: tuple[SharedSnapshot, dict[str, list[Row]]]) -> None:
    tree = _compare("n", "equal", "0", "long")
    for _ in range(300):
        tree = {"op": "not", "children": [tree]}
    assert len(select_files(world[0], predicate=json.dumps(tree), limit=None, other_hints=False)) == 7
    deep = '{"op":"not","children":[' * 50_000
    assert len(select_files(world[0], predicate=deep, limit=None, other_hints=False)) == 7


def test_the_files_of_a_release_must_be_those_of_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.errors import Tampered

    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path))
    engine()
    build("facts", pa.table({"n": [1, 2]}))
    released = release("facts", "1.0.0")
    for path in ("other.parquet", "../facts/../../../etc/passwd", "/etc/passwd"):
        from jobs.registry import transaction
        from jobs.registry.models import Release

        wrong = dict(released.manifest) | {"files": [released.manifest["files"][0] | {"path": path}]}
        with transaction() as session:
            session.add(
                Release(
                    product="facts",
                    major=9,
                    minor=0,
                    patch=hash(path) % 10**6,
                    delta_version=0,
                    credential="",
                    manifest_sha256="0" * 64,
                    manifest=wrong,
                    rows=2,
                    bytes=1,
                    grade="A",
                    licence="x",
                    released_at=_START,
                )
            )
            session.flush()
            number = session.query(Release.id).order_by(Release.id.desc()).first()[0]
        with pytest.raises(Tampered):
            shared_snapshot(number)
