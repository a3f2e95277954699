"""What `source new` proposes for awkward samples, and that it never refuses, drops or changes cells unseen."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from jobs.bronze.formats import read
from jobs.declared.catalog import load_sources
from jobs.declared.contract import load_contract
from jobs.errors import ExchangeError, RefusedFile
from jobs.scaffold import new_source
from jobs.scaffold.encoding import encoding_of
from jobs.scaffold.kinds import fits, kind_of
from jobs.scaffold.layout import form_of
from jobs.scaffold.names import words_of
from jobs.scaffold.numerals import Commas
from jobs.scaffold.sample import sample_of
from jobs.scaffold.texts import applied
from tests.declaring import write

_CASES = Path(os.environ.get("EXCHANGE_TEST_CASES", Path(__file__).resolve().parents[3] / "shared" / "cases"))


@pytest.fixture(autouse=True)
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "catalogue"))


@dataclass(frozen=True)
class Proposed:
    """A proposal: the lines shown, and what was written."""

    lines: str
    types: dict[str, str]
    key: tuple[str, ...]
    form: Any
    units: dict[str, str | None]


def proposed(sample: Path, name: str = "sample") -> Proposed:
    lines = "\n".join(new_source("utility", name, str(sample)))
    contract = load_contract(f"silver.{name}")
    return Proposed(
        lines,
        {c.name: c.type for c in contract.columns},
        contract.key,
        load_sources().source(name).declared.format,
        {c.name: c.unit for c in contract.columns if c.unit},
    )


def case(name: str) -> Path:
    """A small input from the field; skips the test, and says so, on a machine that has none."""
    if not (_CASES / name).is_file():
        pytest.skip(f"the inputs from the field are absent: {_CASES / name}")
    return _CASES / name


def cells(sample: Path, form: Any) -> tuple[list[tuple[str | None, ...]], list[str]]:
    """The rows that a format reads, and the reasons for those that it refuses."""
    rows = [row for batch in read(sample, sample.name, form) for row in batch.to_pylist()]
    good = sorted((r for r in rows if r["_refused"] is None), key=lambda r: r["_row"])
    return [tuple(r[c] for c in form.columns) for r in good], [r["_refused"] for r in rows if r["_refused"]]


FIELD: list[tuple[str, dict[str, str], tuple[str, ...], tuple[str, ...]]] = [
    ("blank-after-comma/obs.csv", {"observed_on": "DATE", "observed_at": "TIMESTAMP", "is_ok": "BOOLEAN"}, (), ()),
    ("bom-in-the-middle/headers.csv", {"code": "STRING", "value": "INT", "observed_on": "DATE"}, (),
     ("header, delimiter", "4 rows read", "repeated_header")),
    ("bom-in-the-middle/nohead.csv", {"column_1_on": "DATE", "column_2": "DECIMAL(18,6)"}, (), ("3 rows read",)),
    ("decimal-comma/prezzi.csv", {"prezzo": "DECIMAL(18,6)"}, ("impianto", "carburante", "data_on"), ("1,789",)),
    ("decimal-comma/betraege.csv", {"betrag": "DECIMAL(18,6)"}, (), ("decimal points",)),
    ("json-oddities/rows.jsonl", {"v": "STRING", "n": "DECIMAL(38,6)"}, ("id",), ("duplicate_key: 'v'", "Infinity")),
    ("json-shapes/worldbank.json", {"value": "BIGINT"}, (), ("3 rows read",)),
    ("json-shapes/socrata_rows.json", {"sid": "STRING", "cost": "DECIMAL(18,6)"}, (), ("3 rows read",)),
    ("json-shapes/columns.json", {}, (), ("one record whose values are arrays",)),
    ("json-shapes/dict_of_records.json", {}, (), ("one record whose values are objects",)),
    ("long-ids/accounts.csv", {"account": "STRING"}, (), ("20 digits",)),
    ("long-ids/ledger.csv", {"amount_idr": "DECIMAL(38,6)"}, (), ()),
    ("long-ids/parcels_excel.csv", {"parcel": "STRING"}, (), ("spreadsheet", "8.94410023456781E+17", "line 3")),
    ("long-ids/tokens.csv", {"amount": "DECIMAL(38,18)"}, (), ()),
    ("past-the-sample/sample.csv", {"read_on": "DATE", "taken_at": "TIMESTAMP", "n": "INT"}, ("id",), ()),
    ("past-the-sample/later.csv", {"read_on": "STRING"}, (), ("look like dates",)),
    ("quotes/backslash.csv", {"title": "STRING", "v": "INT"}, ("id",), ("escapes", "5 rows read")),
    ("quotes/newlines.csv", {"note": "STRING", "v": "INT"}, ("id",), ("3 rows read",)),
    ("quotes/stray.csv", {"size": "STRING"}, ("id",), ("2 records would go to quarantine",)),
    ("real-duplicates/payments.csv", {}, ("paid_on", "supplier", "purpose"), ("2 of 4 rows are copies",)),
    ("trailing-delimiter/bbg.csv", {"a": "INT", "b": "INT", "c": "INT"}, (), ("3 rows read", "a delimiter too many")),
    ("trailing-delimiter/header_only.csv", {"a": "INT", "b": "INT", "c": "INT"}, (), ("2 rows read",)),
    ("trailing-delimiter/short_rows.csv", {"site": "STRING", "flag": "STRING"}, ("site",), ("lack cells",)),
    ("underscore-id/ckan_dump.csv", {"id": "STRING", "reading": "DECIMAL(18,6)"}, ("id",), ("3 rows read",)),
    ("underscore-id/es_hits.json", {"id": "STRING"}, ("id",), ("2 rows read",)),
    ("underscore-id/mongo.jsonl", {"id": "STRING", "station": "STRING"}, ("id",), ("4 rows read",)),
    ("revert-a-b-a/a.csv", {"value": "DECIMAL(18,6)"}, ("series", "period"), ()),
    ("file-names/READINGS_FEB.CSV", {"v": "INT"}, ("id",), ()),
    ("file-names/readings mar #1 100%.csv", {"v": "INT"}, ("id",), ()),
    ("file-names/readings_apr.csv.gz", {"v": "INT"}, ("id",), ()),
    ("file-names/読み.csv", {"v": "INT"}, ("id",), ()),
]  # fmt: skip


@pytest.mark.parametrize(("name", "types", "key", "told"), FIELD, ids=[f[0] for f in FIELD])
def test_inputs_from_the_field_are_understood(
    name: str, types: dict[str, str], key: tuple[str, ...], told: tuple[str, ...]
) -> None:
    found = proposed(case(name))
    assert types.items() <= found.types.items()
    assert not key or found.key == key
    assert [part for part in told if part not in found.lines] == []
    assert "would be refused" not in found.lines


TABLES: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "titles padded with delimiters": ("Report of May,,\n,,\nname,kwh,day\na,1,2024-01-01\nb,2,2024-01-02\n",
        {"name": "STRING", "kwh": "INT", "observed_on": "DATE"}, ("preamble", "Report of May")),
    "two header rows": (",2023,,2024,\nregion,q1,q2,q1,q2\nA,1,2,3,4\nB,5,6,7,8\n",
        {"region": "STRING", "value_2023_q1": "INT", "value_2024_q2": "INT"}, ("put together",)),
    "a row of units": ("site,load,volt\n,MW,kV\nA,1.5,220\nB,2.5,110\n",
        {"site": "STRING", "load": "DECIMAL(18,6)", "volt": "INT"}, ("taken for units",)),
    "sep=": ("sep=;\na;b\n1,5;x\n2,25;y\n", {"a": "DECIMAL(18,6)", "b": "STRING"}, ()),
    "data rows with less cells first": ("x1,5\nx2,6,2026-01-01\nx3,7,2026-01-03\nx4,8,2026-01-04\n",
        {"column_1": "STRING", "column_2": "INT", "column_3_on": "DATE"}, ("lack cells",)),
    "times are not two columns": ("start\n12:30\n13:45\n14:00\n", {"start": "STRING"}, ()),
    "colons among commas": ("at,site\n12:30:00,a:b\n12:31:00,c:d\n", {"at": "STRING", "site": "STRING"}, ()),
    "apostrophes around cells": ("id,name\n'1','a, b'\n'2','c, d'\n'3','e'\n",
        {"id": "STRING", "name": "STRING"}, ("apostrophes",)),
    "blank before a quote": ('id, name, n\n1, "a, b", 5\n2, "c", 6\n', {"id": "STRING", "name": "STRING", "n": "INT"},
        ("blanks around quoted cells",)),
    "names that differ in case": ("Value,value\n1.5,a\n2.5,b\n", {"value": "DECIMAL(18,6)", "value_2": "STRING"}, ()),
    "accents": ("año,Größe\n2020,1.5\n2021,2.5\n", {"ano": "INT", "grosse": "DECIMAL(18,6)"}, ('published as \\"año',)),
    "chinese": ("地区,时间,数量\n北京,2024-01-01,5\n上海,2024-01-01,6\n",
        {"di_qu": "STRING", "shi_jian_on": "DATE", "shu_liang": "INT"}, ()),
    "digits of another script": ("k,n\na,١٢\nb,٣٤\n", {"n": "INT"}, ("another script",)),
    "currency": ("k,price\na,$5.00\nb,$6.50\n", {"price": "STRING"}, ("currency",)),
    "percent": ("k,share\na,5%\nb,6.5%\n", {"share": "DECIMAL(18,6)"}, ("5% is 5",)),
    "percent among numbers": ("k,share\na,5%\nb,6.5\n", {"share": "STRING"}, ("percentages among",)),
    "blanks of every kind": ("k,n\na,\u00a012\u3000\nb,\t13 \n", {"n": "INT"}, ()),
    "thousands by blanks": ("k;n\na;1 234,5\nb;12\u202f345,25\n", {"n": "DECIMAL(18,6)"}, ("between thousands",)),
    "a comma either way": ('k,n\na,"1,234"\nb,"5,678"\n', {"n": "STRING"}, ("may be decimal",)),
    "indian groups": ('k,n\na,"12,34,567"\nb,"1,234"\n', {"n": "BIGINT"}, ("between thousands",)),
    "a power as a name": ("site,²\na,5\nb,6\n", {"site": "STRING", "value_2": "INT"}, ()),
    "totals": ("site,day,kwh\na,2024-01-01,5\nb,2024-01-01,6\nTotal,,11\n",
        {"site": "STRING", "observed_on": "DATE", "kwh": "INT"}, ("rows with 'Total' in site are dropped",)),
    "a total that is a value": ("sex,n\nmale,5\nfemale,6\nTotal,11\n", {"sex": "STRING", "n": "INT"}, ("3 rows read",)),
    "a note below": ("day,site,kwh\n2024-01-01,a,5\n2024-01-02,b,6\nSource: us,,\n",
        {"observed_on": "DATE", "kwh": "INT"}, ("a note below the table",)),
    "one letter is no unit": ("k,reading_m,t\na,1,2\nb,2,3\n", {"reading_m": "INT", "t": "INT"}, ()),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_awkward_tables_are_understood(name: str, tmp_path: Path) -> None:
    text, types, told = TABLES[name]
    found = proposed(write(tmp_path / "sample.csv", text))
    written = found.lines + (tmp_path / "catalogue/expectations/silver/sample.yaml").read_text("utf-8")
    assert types.items() <= found.types.items()
    assert [part for part in told if part not in written] == []
    assert "would be refused" not in found.lines
    assert "to quarantine" not in found.lines


def test_a_unit_comes_from_a_row_of_units_and_from_no_letter(tmp_path: Path) -> None:
    assert proposed(write(tmp_path / "u.csv", TABLES["a row of units"][0])).units == {"load": "MW", "volt": "kV"}
    assert proposed(write(tmp_path / "m.csv", TABLES["one letter is no unit"][0]), "other").units == {}


KEYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "one day of many stations": ("station,observed_on,mw\n" + "".join(f"s{n},2024-01-01,{n % 7}\n" for n in range(80)),
        ("station", "observed_on")),
    "calendar parts": ("year,month,day,mw\n" + "".join(f"2024,{n % 12 + 1},{n % 28 + 1},{n % 5}\n" for n in range(20)),
        ("year", "month", "day")),
    "a name that follows from a code": ("code,name,day,v\n" + "".join(
        f"c{n % 5},Name {n % 5},2024-01-{n // 5 + 1:02},{n % 3}.5\n" for n in range(100)), ("code", "observed_on")),
    "nothing names a row": ("a,b\n,1\nx,\n,1\ny,2\n", ("source_file", "source_row")),
    "an id": ("id,day,v\n" + "".join(f"{n},2024-01-{n % 28 + 1:02},{n % 3}\n" for n in range(100)), ("id",)),
    "instants that differ by chance": ("at,account,amount\n" + "".join(
        f"2024-01-01T{n // 60:02}:{n % 60:02}:{n * 37 % 60:02}Z,acc{n % 7},{n % 3}.5\n" for n in range(100)),
        ("observed_at", "account")),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_a_key_is_what_names_a_row(name: str, tmp_path: Path) -> None:
    text, key = KEYS[name]
    assert proposed(write(tmp_path / "sample.csv", text)).key == key


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, 2, 3]", "no array of records"),
        ("[[1, 2], [3]]", "1 to 2 values"),
        ('{"error": "gone"\n}', "no array of records"),
        ("[" * 100_000, "does not parse"),
    ],
)
def test_json_without_records_says_why(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match=told):
        proposed(write(tmp_path / "sample.json", text))


def test_arrays_with_a_header_are_read_by_its_names(tmp_path: Path) -> None:
    sample = write(tmp_path / "census.json", json.dumps([["NAME", "POP"], ["A", "5"], ["B", "6"]]))
    found = proposed(sample)
    assert cells(sample, found.form) == ([("A", "5"), ("B", "6")], [])
    assert found.types == {"name": "STRING", "pop": "INT"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_wide_encodings_are_told_with_and_without_a_mark(encoding: str, tmp_path: Path) -> None:
    text = "name,n\nMünchen,1\n上海,2\n"
    sample = write(tmp_path / "wide.csv", text.encode(encoding))
    found = proposed(sample)
    assert cells(sample, found.form) == ([("München", "1"), ("上海", "2")], [])


def test_a_legacy_encoding_with_little_evidence_is_a_doubt_with_its_line(tmp_path: Path) -> None:
    found = proposed(write(tmp_path / "thin.csv", "name,n\nabc,1\nCafé,2\n".encode("cp1252")))
    assert "tell the encoding" in found.lines
    assert "line 3" in found.lines


@pytest.mark.parametrize(
    ("words", "encoding"),
    [
        ("Año Niño Málaga", "cp1252"), ("Élève Forêt Nîmes garçon", "cp1252"), ("5€ 7€", "cp1252"),
        ("Łódź Gdańsk Wrocław Częstochowa", "iso8859_2"), ("Příbram Plzeň Třebíč", "cp1250"),
        ("Şanlıurfa Çanakkale Eskişehir Muğla", "cp1254"), ("Москва Потребление Регион", "koi8_r"),
        ("Температура Станция Область", "cp1251"), ("Ημερομηνία Σταθμός Χανιά", "cp1253"),
        ("東京都 大阪府 観測日 気温 降水量", "shift_jis"), ("北京市 上海市 进出口 日期 数量", "gb18030"),
        ("臺北市 觀測日期 用電量", "big5"), ("서울특별시 관측일 기온 전력", "euc_kr"),
    ],
)  # fmt: skip
def test_a_legacy_encoding_is_told_by_the_words_of_one_language(words: str, encoding: str) -> None:
    data = ("id,name,n\n" + "".join(f"{n},{word},{n}\n" for n, word in enumerate(words.split()))).encode(encoding)
    name, doubt = encoding_of(data, whole=True)
    assert data.decode(name) == data.decode(encoding)
    assert doubt is not None


def test_one_broken_line_does_not_change_the_encoding(tmp_path: Path) -> None:
    lines = "".join(f"Zürich{n},{n}\n" for n in range(30)).encode() + b"Z\xfcrich,31\n"
    found = proposed(write(tmp_path / "one.csv", b"name,n\n" + lines))
    assert found.form.encoding == "utf-8"
    assert "1 lines are not UTF-8" in found.lines


def test_words_of_other_scripts_are_transliterated() -> None:
    assert [words_of(n) for n in ("地区", "Дата", "año", "Prix (€)", "MWh", "_id", "℃")] == [
        ["di", "qu"], ["data"], ["ano"], ["prix", "eur"], ["mwh"], ["id"], ["celsius"],
    ]  # fmt: skip


def test_names_and_words_are_yaml_that_reads_back(tmp_path: Path) -> None:
    names = ["a  b", "null", "1e3", "x: y", "#c", "ü\u0085z", "\x7fdel", "it's", 'q"q', "yes", "~", "é\u200b", "[x]"]
    out = io.StringIO()
    csv.writer(out).writerows([names, ["v"] * len(names), *[[str(n)] * len(names) for n in range(3)]])
    found = proposed(write(tmp_path / "names.csv", out.getvalue()))
    assert found.form.columns == tuple(names)


numbers = st.one_of(
    st.integers(-(10**22), 10**22).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, max_value=10**12, min_value=-(10**12)).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"[0-9]{1,3}(,[0-9]{3}){0,2}(\.[0-9]{1,2})?|[0-9]{1,3}(\.[0-9]{3}){0,2}(,[0-9]{1,2})?|[0-9]{1,4}%",
                  fullmatch=True),
)  # fmt: skip


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(numbers, min_size=1, max_size=5, unique=True), delimiter=st.sampled_from([",", ";", None]))
def test_no_type_refuses_a_value_that_it_was_read_off(values: list[str], delimiter: str | None) -> None:
    kind = kind_of(values, ("n",), Commas(None, delimiter))
    assert [v for v in values if not fits(v, kind)] == []
    if kind.type == "DOUBLE":
        assert [v for v in values if float(repr(float(applied(kind.steps, v)))) != float(applied(kind.steps, v))] == []


headers = st.text(st.characters(codec="utf-8", categories=["L", "N", "Zs", "Pc"]), min_size=1, max_size=8)
kinds = st.sampled_from(["words", "integers", "decimals", "dates"])
words = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cf"], exclude_characters="\ufeff"), max_size=8
)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]


def column(kind: str, rows: int) -> st.SearchStrategy[list[str]]:
    of = {
        "words": words,
        "integers": st.integers(-(10**6), 10**6).map(str),
        "decimals": st.decimals(-1000, 1000, places=2).map(str),
        "dates": st.dates().map(str),
    }
    return st.lists(of[kind], min_size=rows, max_size=rows)


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    rows = draw(st.integers(2, 6))
    columns = [draw(column(draw(kinds), rows)) for _ in range(draw(st.integers(2, 5)))]
    names = draw(st.lists(headers, min_size=len(columns), max_size=len(columns)))
    return [names, *map(list, zip(*columns, strict=True))]


def filled(rows: Any) -> list[list[str]]:
    """The cells without the blanks around them, and without blank rows and columns."""
    stripped = [[(c or "").strip() for c in row] for row in rows]
    kept = [i for i in range(len(stripped[0])) if any(row[i] for row in stripped)] if stripped else []
    return [[row[i] for i in kept] for row in stripped if any(row)]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    table=tables(),
    delimiter=st.sampled_from(",;\t|"),
    quote=st.sampled_from("\"'"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    encoding=st.sampled_from(ENCODINGS),
)
def test_no_cell_of_a_random_table_is_lost_or_changed_untold(
    table: list[list[str]], delimiter: str, quote: str, quoting: Any, encoding: str, tmp_path_factory: Any
) -> None:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quotechar=quote, quoting=quoting, lineterminator="\n").writerows(table)
    sample = tmp_path_factory.mktemp("random") / "sample.csv"
    sample.write_bytes(out.getvalue().encode(encoding))
    assume(any(c.strip() for row in table[1:] for c in row))
    # One cell of apostrophes among bare ones, such as '''', is as well text as a quoted apostrophe.
    assume(quote == '"' or quoting != csv.QUOTE_MINIMAL or not any(quote in c for row in table for c in row))
    with sample_of(str(sample)) as opened:
        found = form_of(opened)
    rows, refused = cells(sample, found.form)
    is_read = filled(rows) in (filled(table), filled(table[1:]))
    assert is_read or refused or found.doubts, (found, rows)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"[Content_Types].xml": "", "xl/workbook.xml": "", "xl/notes.txt": "a,b"}, "an Excel workbook (xlsx)"),
        ({"[Content_Types].xml": "", "word/document.xml": ""}, "a Word document (docx)"),
        ({"mimetype": "application/vnd.oasis.opendocument.spreadsheet", "content.xml": ""}, "spreadsheet (ods)"),
    ],
)
def test_a_document_is_named_for_what_it_is(members: dict[str, str], told: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "sample.csv", "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    with pytest.raises(RefusedFile) as caught:
        proposed(tmp_path / "sample.csv")
    assert told in str(caught.value)
    assert "CSV" in str(caught.value)


def test_a_key_that_only_late_records_have_is_told(tmp_path: Path) -> None:
    lines = "".join(f'{{"id": {n}, "text": "{"x" * 1000}"}}\n' for n in range(4300)) + '{"id": 4300, "late": 1}\n'
    assert "'late' come later in the file" in proposed(write(tmp_path / "late.jsonl", lines)).lines
