"""JSON lines and documents: values keep the publisher's own digits, and a broken record costs that record."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.bronze.formats import read
from jobs.bronze.formats.json import read as read_json_document
from jobs.bronze.formats.json_lines import read as read_json_lines
from jobs.bronze.formats.window import Bounds
from jobs.declared.format import JsonDocument, JsonLines
from jobs.errors import RefusedFile
from jobs.land.containers import Member
from tests.publishers import publisher_file


def lines_of(data: bytes, bounds: Bounds | None = None, **form: Any) -> list[dict[str, Any]]:
    bounds = bounds or Bounds()
    batches = read_json_lines(Member("x.jsonl", io.BytesIO(data)), JsonLines(**form), bounds)
    return [row for batch in batches for row in batch.to_pylist()]


def document_of(data: bytes, bounds: Bounds | None = None, **form: Any) -> list[dict[str, Any]]:
    bounds = bounds or Bounds()
    batches = read_json_document(Member("x.json", io.BytesIO(data)), JsonDocument(**form), bounds)
    return [row for batch in batches for row in batch.to_pylist()]


def rows_in(path: Path, **form: Any) -> list[dict[str, Any]]:
    return [row for batch in read(path, path.name, JsonDocument(**form)) for row in batch.to_pylist()]


def test_keys_that_were_renamed_are_one_column() -> None:
    columns = ("day", {"as": "rate", "published": ["Value", "rate"]})
    rows = lines_of(b'{"day":1,"Value":2}\n{"rate":3}\n{"Value":null,"rate":4}\n{"x":1}\n', columns=columns)
    assert [(row["day"], row["rate"]) for row in rows[:2]] == [("1", "2"), (None, "3")]
    assert [row["_refused"] for row in rows[2:]] == [
        "two_names: Value and rate are declared as names of one column, rate", "no_declared_column: found x",
    ]  # fmt: skip


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
records = st.lists(st.fixed_dictionaries({"a": values}, optional={"b": values, "ü.x": values}), max_size=8)


def expected_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@settings(max_examples=150)
@given(table=records, encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030"]), escaped=st.booleans())
def test_what_the_json_module_writes_is_read_back(table: list[dict[str, object]], encoding: str, escaped: bool) -> None:
    expected = [(expected_text(row["a"]), expected_text(row.get("b"))) for row in table]
    document = json.dumps({"u": [[{}]], "r": {"list": table}, "z": 1.50}, ensure_ascii=escaped, indent=1)
    rows = document_of(
        document.encode(encoding), Bounds(block=200), columns=("a", "b"), record_path="r.list", encoding=encoding
    )
    assert [(row["a"], row["b"]) for row in rows] == expected
    assert [row["_row"] for row in rows] == list(range(1, len(table) + 1))
    lines = "".join(json.dumps(row, ensure_ascii=escaped) + "\r\n" for row in table)
    if table:
        rows = lines_of(lines.encode(encoding), columns=("a", "b"), encoding=encoding)
        assert [(row["a"], row["b"]) for row in rows] == expected
        assert [json.loads(row["_extra"]) if row["_extra"] else {} for row in rows] == [
            {key: kept for key, kept in row.items() if key == "ü.x"} for row in table
        ]


def test_numbers_keep_their_digits() -> None:
    data = b'{"a": 1.10, "b": 123456789012345678901234567890, "c": -0, "d": 1E5, "e": [1.0, {"x": 2.50}], "f": true}\n'
    row = lines_of(data, columns=("a", "b", "c", "d", "e", "f"))[0]
    assert [row[name] for name in "abcdef"] == [
        "1.10", "123456789012345678901234567890", "-0", "1E5", '[1.0,{"x":2.50}]', "true",
    ]  # fmt: skip


def test_broken_lines_are_refused_and_the_others_read() -> None:
    data = b'{"a":1}\n\n{"a":\n[1]\n{"z":1}\n{"a":"\xff"}\n{"a":"\\ud800"}\n' + b"[" * 100_000 + b'\n{"a":2}'
    rows = lines_of(data, columns=("a",))
    assert [(row["_row"], row["a"]) for row in rows if not row["_refused"]] == [(1, "1"), (9, "2")]
    assert [(row["_row"], row["_refused"]) for row in rows if row["_refused"]] == [
        (3, "not_json: Expecting value at character 6"),
        (4, "not_an_object: found an array"),
        (5, "no_declared_column: found z"),
        (6, "undecodable: not utf-8 at byte 6 (0xff)"),
        (7, "undecodable: a string holds half a character (a lone surrogate)"),
        (8, "not_json: nested too deeply"),
    ]


def test_an_endless_line_is_refused() -> None:
    data = b'{"a":1}\n{"a":"' + b"x" * 5000 + b'"}\n{"a":2}\n'
    rows = lines_of(data, Bounds(block=1000), columns=("a",))
    assert [row["_row"] for row in rows if not row["_refused"]] == [1, 3]
    assert [row["_refused"] for row in rows if row["_refused"]] == ["record_too_long: expected at most 1000 bytes"]


@pytest.mark.parametrize(
    ("data", "path", "message"),
    [
        (b"", "", "an empty file"),
        (b" \n", "", "an empty file"),
        (b"<html><title>Busy</title>", "", "an HTML page, title 'Busy'"),
        (b'{"status": "error", "message": "quota", "x": [1]}', "result.records", 'status: "error", message: "quota"'),
        (b'{"result": {"total": 3}}', "result.records", "result has no key 'records', only total: 3"),
        (b'{"result": null}', "result", "result is null"),
        (b'{"a": [1]}', "", "the document is an object with a: an array"),
        (b"[1]", "a", "the document is an array; expected an object with the key 'a'"),
        (b'[{"a": 1}, {"a": 2', "", "may be truncated"),
        (b'[{"a": 1}', "", "the document is truncated"),
        (b'{"r": [{"a": 1}]', "r", "the document is truncated"),
        (b'{"q": {"s": "}", "r": [{"a": 1}]', "r", "the document is truncated"),
        (b'[{"a": 1} {"a": 2}]', "", "not JSON: found '{' at character 11"),
        (b'[{"a": 1}]\n[{"a": 2}]', "", "text after the end of the document"),
        (b"[" * 100_000, "", "nested too deeply"),
        (b"a,b\n1,2\n", "", "not JSON"),
    ],
)  # fmt: skip
def test_content_that_is_not_the_declared_document_is_refused_by_name(data: bytes, path: str, message: str) -> None:
    with pytest.raises(RefusedFile) as caught:
        document_of(data, columns=("a",), record_path=path)
    assert message in str(caught.value)


def test_a_document_spread_over_lines_is_not_json_lines() -> None:
    with pytest.raises(RefusedFile, match="declare type: json"):
        lines_of(b'[\n  {"a": 1}\n]', columns=("a",))


def test_records_that_are_not_objects_are_refused() -> None:
    rows = document_of(b'[1, {"a": "x"}, "\xff", {"a": "\xfe"}, {"b": null}]', columns=("a",))
    assert [(row["_row"], row["_refused"], row["_raw"]) for row in rows if row["_refused"]] == [
        (1, "not_an_object: found a number", "1"),
        (3, "not_an_object: found a string", '"\\xff"'),
        (4, "undecodable: a string holds half a character (a lone surrogate)", '{"a": "\\xfe"}'),
        (5, "no_declared_column: found b", '{"b": null}'),
    ]


def test_a_long_document_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    piece = ",".join(json.dumps({"a": number, "b": "x" * 2000}) for number in range(1_000)).encode()
    with path.open("wb") as file:
        file.write(b'{"before": [' + piece)
        for _ in range(9):
            file.write(b"," + piece)
        file.write(b'], "rows": [' + piece)
        for _ in range(9):
            file.write(b"," + piece)
        file.write(b"]}")
    tracemalloc.start()
    counted = sum(
        batch.num_rows for batch in read(path, path.name, JsonDocument(columns=("a", "b"), record_path="rows"))
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 40_000_000
    assert counted == 10_000
    assert peak < 80_000_000


def test_a_published_list_of_companies_is_read() -> None:
    path = publisher_file("finance/hkex-listings/hk-listings.2026-01-27.json")
    published = json.loads(path.read_bytes())
    rows = rows_in(path, columns=("symbol", "engName", "zhName", "url"))
    assert [(row["symbol"], row["zhName"]) for row in rows] == [
        (str(row["symbol"]), row.get("zhName")) for row in published
    ]


def test_published_comtrade_responses_are_read() -> None:
    folder = publisher_file("government/un-comtrade/api-v1")
    counts = []
    for path in sorted(folder.glob("*.json")):
        published = json.loads(path.read_bytes())
        if isinstance(published.get("data"), list):
            columns = tuple(published["data"][0]) if published["data"] else ("refYear",)
            rows = rows_in(path, columns=columns, record_path="data")
            assert len(rows) == len(published["data"])
            assert not [row for row in rows if row["_refused"]]
            counts.append(len(rows))
    assert max(counts) >= 4
    assert min(counts) == 0


def test_a_published_api_error_is_reported() -> None:
    path = publisher_file("government/ckan-api/read_packages_by_invalid_group.0.json")
    with pytest.raises(RefusedFile) as caught:
        rows_in(path, columns=("id",), record_path="result.results")
    assert "has no key 'result" in str(caught.value) or "result is" in str(caught.value)


TWICE = b'{"a": 1.5, "b": {"x": 1}, "a": 99.5}'


def test_an_object_that_names_a_key_twice_is_refused_alone() -> None:
    lines = [b'{"a": 1}', TWICE, b'{"a": {"k": [{"x": 1, "y": 2, "x": 3}]}}', b'{"a": 2}']
    expected = [("1", None), (None, "duplicate_key: 'a'"), (None, "duplicate_key: 'x'"), ("2", None)]
    by_line = sorted(lines_of(b"\n".join(lines), columns=("a",)), key=lambda row: row["_row"])
    assert [(row["a"], row["_refused"]) for row in by_line] == expected
    assert by_line[1]["_raw"] == TWICE.decode()
    document = b"[" + b",".join(lines) + b"]"
    for block in (20, 1000):
        rows = sorted(document_of(document, Bounds(block=block), columns=("a",)), key=lambda row: row["_row"])
        assert [(row["a"], row["_refused"]) for row in rows] == expected


@settings(max_examples=200)
@given(
    data=st.one_of(
        st.binary(max_size=60),
        st.text('{}[]",:\\ue+-.0129naNtruI \n', max_size=60).map(str.encode),
        st.builds(lambda n, end: b'[{"a":' + b"[" * n + b"1" + end, st.sampled_from([1, 5000]), st.binary(max_size=3)),
        st.integers(1, 6000).map(lambda n: b'{"a": ' + b"9" * n + b"}"),
    ),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-32", "gb18030"]),
)
def test_any_bytes_are_rows_or_refusals(data: bytes, encoding: str) -> None:
    for rows_of in (lines_of, document_of):
        try:
            rows = rows_of(data, columns=("a",), encoding=encoding)
        except RefusedFile:
            continue
        assert all((row["_refused"] is None) == (row["_raw"] is None) for row in rows)
