"""Rows computed by their distinct texts are those that the engine computes one by one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from jobs import lake
from jobs.bronze.step import published_rows
from jobs.declared.catalog import load_catalog
from jobs.declared.contract import load_contract
from jobs.lake import by_text, connect
from jobs.silver import typed
from jobs.silver.split import Split
from jobs.silver.texts import plan_of
from tests.lake.trial import FIRST, Source, Trial

_PUBLISHED = ("Code", "a b", "n.m", "x", "at", "day", "flag", "note", "y")
_CONTRACT: dict[str, Any] = {
    "code": {"physicalType": "STRING", "logicalTypeOptions": {"pattern": "^[A-Z]", "maxLength": 4}},
    "tiny": {"physicalType": "TINYINT", "transformLogic": "try_cast(`a b` AS TINYINT)"},
    "small": {"physicalType": "SMALLINT", "transformLogic": "try_cast(round(try_cast(`a b` AS DOUBLE)) AS SMALLINT)"},
    "big": {"physicalType": "BIGINT", "transformLogic": "try_cast(`n.m` AS BIGINT)"},
    "amount": {"physicalType": "DECIMAL(9,3)", "transformLogic": "try_cast(x AS DECIMAL(9,3))", "required": True},
    "wide": {"physicalType": "DECIMAL(38,10)", "transformLogic": "try_cast(x AS DECIMAL(38,10))"},
    "single": {"physicalType": "FLOAT", "transformLogic": "try_cast(`n.m` AS FLOAT)"},
    "ratio": {
        "physicalType": "DOUBLE", "transformLogic": "try_cast(y AS DOUBLE)", "logicalTypeOptions": {"maximum": 1000},
    },
    "seen_at": {"physicalType": "TIMESTAMP", "transformLogic": "try_cast(`at` AS TIMESTAMP)"},
    "month": {"physicalType": "STRING", "transformLogic": "date_format(try_cast(`at` AS TIMESTAMP), 'yyyy-MM')"},
    "seen_on": {"physicalType": "DATE", "transformLogic": "try_cast(day AS DATE)"},
    "ok": {"physicalType": "BOOLEAN", "transformLogic": "try_cast(flag AS BOOLEAN)"},
    "unit": {"physicalType": "STRING", "transformLogic": "'kWh'"},
    "label": {"physicalType": "STRING", "transformLogic": "coalesce(note, 'none')", "enum": [
        {"value": "none"}, {"value": "A"}, {"value": "é"},
    ]},
    "both": {"physicalType": "STRING", "transformLogic": "concat(coalesce(flag, ''), '/', coalesce(day, ''))"},
}  # fmt: skip
_QUALITY = [{
    "name": "in_order", "type": "sql", "dimension": "consistency", "description": "the amount is below the ratio",
    "query": "SELECT count(*) FROM ${table} WHERE NOT (amount <= ratio + 500)", "mustBe": 0,
}]  # fmt: skip
_NUMBERS = st.one_of(
    st.sampled_from(["0", "-0", "1", "1.0", "1.00", " 7 ", "007", "1e2", "12.3456", "1e400", "NaN", "", "-", "128"]),
    st.integers(-40_000, 40_000).map(str),
    st.floats(-2000, 2000, allow_subnormal=False).map(repr),
    st.decimals(-1000, 1000, places=3).map(str),
)
_DAYS = st.one_of(st.dates().map(str), st.sampled_from(["2024", "2024-02-30", "2024-1-5", "", "0000-01-01"]))
_INSTANTS = st.one_of(
    st.datetimes().map(str), st.sampled_from(["2024-05-01 10:00", "2024-05-01T10:00:00Z", "10:00", "2024-05-01"])
)
_WORDS = st.one_of(st.sampled_from(["A", "Ab", "b", "é", "none", "n/a", "", " ", "ABCDE"]), st.text(max_size=6))
_FLAGS = st.sampled_from(["true", "FALSE", "1", "no", "2", "on", ""])
_TEXTS = dict(
    zip(_PUBLISHED, (_WORDS, _NUMBERS, _NUMBERS, _NUMBERS, _INSTANTS, _DAYS, _FLAGS, _WORDS, _NUMBERS), strict=True)
)


def _cell(strategy: st.SearchStrategy[str]) -> st.SearchStrategy[str | None]:
    return st.one_of(st.none(), strategy.filter(lambda text: "\0" not in text))


_ROW = st.tuples(*(_cell(_TEXTS[name]) for name in _PUBLISHED), st.sampled_from([None, None, None, "columns: 3"]))
# Rows by landing; most repeat what few have.
_LANDINGS = st.lists(
    st.tuples(st.lists(_ROW, min_size=1, max_size=6), st.lists(st.integers(0, 5), max_size=30)), min_size=1, max_size=3
)

_GOOD = ("A", "1", "1", "1.5", "2024-05-01 10:00", "2024-05-01", "true", "A", "1", None)
_FEW: Any = [
    ([_GOOD, (*_GOOD[:3], "-0.0001", None, "2024", "FALSE", "n/a", "1e2", None)], [0, 1, 0, 0]),
    ([(*_GOOD[:-1], "columns: 3")], []),
    ([(None,) * 10, ("é", "", "NaN", "700", "10:00", "", "on", " ", "1", None), _GOOD], [2, 2, 1]),
]


@pytest.fixture
def trial(exchange: Trial) -> Source:
    source = exchange.source(
        _CONTRACT, ["code"], published=_PUBLISHED, quality=_QUALITY,
        format={"type": "delimited", "columns": list(_PUBLISHED), "null_values": ["", "n/a"]},
    )  # fmt: skip
    source.take([["A", "1", "1", "1", "2024-05-01 10:00", "2024-05-01", "1", "A", "1"]])
    return source


def _load(source: Source, landings: list[Any]) -> list[str]:
    """Replace bronze's rows; returns the landings' tags."""
    columns: dict[str, list[Any]] = {name: [] for name in lake.columns_at(f"bronze.{source.name}")}
    names = list(columns)[: len(_PUBLISHED)]
    for number, (distinct, more) in enumerate(landings):
        chosen = [*distinct, *(distinct[i % len(distinct)] for i in more)]
        for row, cells in enumerate(chosen, 2):
            values = dict(zip((*names, "_refused"), cells, strict=True))
            values |= {"_landing_sha256": f"landing {number}", "_file": "f.csv", "_row": row, "_run_id": "r"}
            values["_logical_date"] = FIRST
            for name, column in columns.items():
                column.append(values.get(name))
    types = {"_row": pa.int64(), "_logical_date": pa.timestamp("us", "UTC")}
    rows = pa.table({name: pa.array(column, types.get(name, pa.string())) for name, column in columns.items()})
    lake.overwrite(f"bronze.{source.name}", connect().createDataFrame(rows))
    return [f"landing {number}" for number in range(len(landings))]


def _outcome(source: Source, tags: list[str], *, whole: bool) -> tuple[Any, ...]:
    """Schema, good rows, refused rows and counts, computed one way or the other."""
    landings: list[Any] = [SimpleNamespace(tag=tag) for tag in tags]
    declared = load_catalog().source(source.name)
    with lake.workspace(source.name, str(whole)) as work:
        split = Split(declared, load_contract(source.table), work)
        work.show("bronze", published_rows(declared, "true"))
        with pytest.MonkeyPatch.context() as patch:
            if whole:
                patch.setattr(typed, "plan_of", lambda _: None)
            rows = typed.type_rows(split, landings, {})
        frame = connect().sql(rows.good)
        good, refused = frame.toArrow(), connect().sql(rows.refused_rows).toArrow()
        schema = [(f.name, f.dataType) for f in frame.schema.fields]
        assert good.num_rows == rows.rows
        return schema, _sorted(good), _sorted(refused), (rows.rows, rows.refused, rows.dropped)


def _sorted(rows: pa.Table) -> list[str]:
    # As text, because NaN differs from itself, and zero equals minus zero.
    return sorted(map(repr, (tuple(row.values()) for row in rows.to_pylist())))


def _compare(source: Source, patch: pytest.MonkeyPatch, phases: tuple[Phase, ...]) -> None:
    calls = []
    patch.setattr(by_text, "_FROM_ROWS", 1)
    patch.setattr(by_text, "_pays", lambda found, plan: calls.append((found, plan)) or True)

    @settings(max_examples=100, phases=phases, suppress_health_check=list(HealthCheck))
    @example(_FEW, 5, 120)
    @given(_LANDINGS, st.sampled_from([1, 40, 1 << 22]), st.sampled_from([1_200_000, 120, -10_000]))
    def agree(landings: list[Any], window: int, dictionary: int) -> None:
        patch.setattr(by_text, "_WINDOW_ROWS", window)
        patch.setattr(by_text, "_DICTIONARY_BYTES", dictionary)
        tags = _load(source, landings)
        assert _outcome(source, tags, whole=False) == _outcome(source, tags, whole=True)

    agree()
    assert calls


def test_rows_are_the_same_by_their_texts(trial: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(Split(load_catalog().source(trial.name), load_contract(trial.table), SimpleNamespace()))
    assert plan is not None
    assert sorted(unit.reads for unit in plan.units) == [
        ("Code",), ("a b",), ("at",), ("day", "flag"), ("n.m",), ("note",), ("x", "y"),
    ]  # fmt: skip
    _compare(trial, monkeypatch, (Phase.explicit,))


@pytest.mark.long
def test_rows_are_the_same_by_their_texts_in_many_cases(trial: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    _compare(trial, monkeypatch, (Phase.generate,))
