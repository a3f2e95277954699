"""Proposals of `source new` and `product new` run unedited, on real publishers' files and on awkward text."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.declared.catalog import load_products, load_sources
from jobs.declared.contract import Contract, load_contract
from jobs.errors import DeclarationError, ExchangeError, NotFound, RefusedFile
from jobs.flow import run_step
from jobs.scaffold import new_product, new_source
from jobs.settings import settings
from tests.declaring import write
from tests.lake.trial import Trial, day, runs, table_rows
from tests.publishers import publisher_file

# File, expected key, number of good rows if known, expected encoding.
REAL = [
    ("finance/ecb-eurofxref/eurofxref-hist.*.zip", ("observed_on",), None, "utf-8"),
    ("finance/hkex-listings/hk-listings.2026-01-19.json", ("symbol",), None, "utf-8"),
    ("finance/hkex-listings/derived-encodings/*.big5hkscs.csv", ("symbol",), None, "big5hkscs"),
    ("finance/fred-exchange-rates/monthly.2026-03-09a.csv", ("observed_on", "country"), 10680, "utf-8"),
    ("government/cn-customs-by-city/derived-encodings/*.gb18030.csv", ("di_qu", "shi_jian"), 234, "gb18030"),
    ("government/cn-customs-by-city/derived-encodings/*.utf16.csv", ("di_qu", "shi_jian"), 234, "utf-16"),
    ("government/world-bank-gdp/gdp.2024-03-22.csv", ("country_code", "year"), 13365, "utf-8"),
    ("government/un-comtrade/reference/reporter.2026-03-04.csv", ("id",), 255, "utf-8"),
    ("utility/eia-natural-gas/daily.2026-08-06.csv", ("observed_on",), None, "utf-8"),
    ("utility/shenzhen-ev-charging/inf.2025-01-20.csv", ("station_id",), 1362, "utf-8"),
]


def proposed(sample: Path, name: str) -> Contract:
    """Write a proposal from a sample, and load the sample with it."""
    new_source("utility", name, str(sample))
    folder = settings().drop / name
    folder.mkdir(parents=True)
    shutil.copy(sample, folder)
    for step in ("land", "bronze", "silver", "check"):
        result = run_step(step, name, day(0), "r")
        assert result.status == "succeeded", f"{step}: {result.message}"
    return load_contract(f"silver.{name}")


def types(contract: Contract) -> dict[str, str]:
    return {c.name: c.type for c in contract.columns}


@pytest.mark.parametrize(("glob", "key", "rows", "encoding"), REAL)
@pytest.mark.usefixtures("exchange")
def test_a_proposal_from_a_real_file_loads_all_its_rows(
    glob: str, key: tuple[str, ...], rows: int | None, encoding: str, request: pytest.FixtureRequest
) -> None:
    name = f"real_{request.node.callspec.indices['glob']}"
    contract = proposed(publisher_file(glob), name)
    built = runs(name, "silver")[-1]
    assert contract.key == key
    assert load_sources().source(name).declared.format.encoding == encoding
    assert built.rows_out == built.rows_in
    assert rows is None or built.rows_out == rows


AWKWARD: dict[str, tuple[str, dict[str, str]]] = {
    "plain": ("id,start,value\n1,2026-01-02 03:04,1.5\n2,2026-01-02 03:05,2.25\n",
              {"id": "STRING", "start_at": "TIMESTAMP", "value": "DECIMAL(18,6)"}),
    "semicolons": ("code;Peak (MWh);seen\nA;1;true\nB;2;false\n",
                   {"code": "STRING", "peak_mwh": "INT", "is_seen": "BOOLEAN"}),
    "days": ("station,date,count\nx,31/01/2026,5\ny,01/02/2026,6\n",
             {"station": "STRING", "observed_on": "DATE", "count": "INT"}),
    "american": ("station,date\nx,01/31/2026\ny,02/01/2026\n", {"station": "STRING", "observed_on": "DATE"}),
    "packed": ("day,n\n20260131,5\n20260201,6\n", {"observed_on": "DATE", "n": "INT"}),
    "preamble": ("Data of,someone\nmade on a day\n\na,b,c\nx,1,2\ny,3,4\nz,5,6\n",
                 {"a": "STRING", "b": "INT", "c": "INT"}),
    "headless": ("x1,5,2026-01-01\nx2,6,2026-01-02\nx3,7,2026-01-03\n",
                 {"column_1": "STRING", "column_2": "INT", "column_3_on": "DATE"}),
    "reserved": ("_id,name\n1,a\n2,b\n", {"id": "STRING", "name": "STRING"}),
    "twice": ("a,a\n1,x\n2,y\n", {"a": "INT", "a_2": "STRING"}),
    "years": ("country,1960,1961\nA,1.5,2.5\nB,3.5,4.5\n",
              {"country": "STRING", "value_1960": "DECIMAL(18,6)", "value_1961": "DECIMAL(18,6)"}),
    "nothing": ("k,amount\na,1.5\nb,N/A\nc,-\nd,\n", {"k": "STRING", "amount": "DECIMAL(18,6)"}),
    "namibia": ("country_code,n\nNA,1\nZA,2\n", {"country_code": "STRING", "n": "INT"}),
    "zeros": ("symbol,lot\n00001,500\n00700,100\n", {"symbol": "STRING", "lot": "INT"}),
    "thousands": ('k,amount\na,"1,234,567"\nb,"89"\n', {"k": "STRING", "amount": "BIGINT"}),
    "huge": ("k,n\na,123456789012345678901234567890\nb,2\n", {"k": "STRING", "n": "STRING"}),
    "floats": ("k,n\na,30.531000137329098\nb,1e-7\n", {"k": "STRING", "n": "DOUBLE"}),
    "quotes": ('k,text\na,"with, comma and ""quotes"""\nb,"two\nlines"\n', {"k": "STRING", "text": "STRING"}),
    "crlf": ("\ufeffk,n\r\na,1\r\nb,2\r\n", {"k": "STRING", "n": "INT"}),
    "tabs": ("time\tn\n2026-01-01T00:00:00Z\t1\n2026-01-01T01:00:00Z\t2\n", {"observed_at": "TIMESTAMP", "n": "INT"}),
    "times": ("when,n\n2026-01-01 00:00:00,1\n2026-01-01 01:00:00,1\n", {"when_at": "TIMESTAMP", "n": "INT"}),
    "word": ("select,from,order\na,b,1\nc,d,2\n", {"select": "STRING", "from": "STRING", "order": "INT"}),
    "gaps": ("a,b\n,1\n,2\n", {"a": "STRING", "b": "INT"}),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(AWKWARD))
@pytest.mark.usefixtures("exchange")
def test_awkward_text_is_understood_without_losing_a_row(case: str, tmp_path: Path) -> None:
    text, expected = AWKWARD[case]
    contract = proposed(write(tmp_path / f"{case}.csv", text), f"text_{case}")
    built = runs(f"text_{case}", "silver")[-1]
    assert types(contract) == expected
    assert (built.rows_out, built.rows_quarantined) == (built.rows_in, 0)


@pytest.mark.usefixtures("exchange")
def test_values_are_read_as_their_author_meant_them(tmp_path: Path) -> None:
    text = 'country_code,n,day,amount\nNA,1,31/01/2026,N/A\nZA,2,01/02/2026,"1,234.5"\n'
    proposed(write(tmp_path / "meant.csv", text), "meant")
    rows = table_rows("silver.meant", "country_code", "n", "observed_on", "amount")
    assert [tuple(map(str, r)) for r in rows] == [
        ("NA", "1", "2026-01-31", "None"), ("ZA", "2", "2026-02-01", "1234.500000"),
    ]  # fmt: skip


@pytest.mark.usefixtures("exchange")
def test_few_values_become_an_enum_and_columns_with_gaps_are_optional(tmp_path: Path) -> None:
    lines = [f"{n},{'on' if n % 3 else 'off'},{n if n % 7 else ''}" for n in range(400)]
    contract = proposed(write(tmp_path / "few.csv", "reading_id,state,level\n" + "\n".join(lines) + "\n"), "few")
    columns = {c.name: c for c in contract.columns}
    assert columns["state"].enum == ("off", "on")
    assert columns["state"].required
    assert not columns["level"].required
    assert contract.key == ("reading_id",)


@pytest.mark.usefixtures("exchange")
def test_exact_copies_do_not_prevent_a_key(tmp_path: Path) -> None:
    text = "site,read_on,amount\na,2026-01-01,1\na,2026-01-02,1\nb,2026-01-01,1\nb,2026-01-01,1\n"
    assert proposed(write(tmp_path / "copies.csv", text), "copies").key == ("site", "read_on")


RECORDS = [{"id": n, "name": f"n{n}", "_secret": 1, "at": f"2026-01-0{n}T00:00:00Z"} for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("case", "text", "path"),
    [
        ("document", json.dumps({"result": {"records": RECORDS, "other": [{"a": 1}]}}, indent=1), "result.records"),
        ("list", json.dumps(RECORDS), ""),
        ("one_line", json.dumps({"count": 3, "data": RECORDS}), "data"),
        ("lines", "\n".join(map(json.dumps, RECORDS)) + "\n", None),
        ("one_record", json.dumps(RECORDS[0]) + "\n", None),
    ],
)
@pytest.mark.usefixtures("exchange")
def test_records_are_found_in_any_json_around_them(case: str, text: str, path: str | None, tmp_path: Path) -> None:
    contract = proposed(write(tmp_path / f"{case}.json", text), f"json_{case}")
    form = load_sources().source(f"json_{case}").declared.format
    assert getattr(form, "record_path", None) == path
    assert types(contract) == {"id": "STRING", "name": "STRING", "secret": "INT", "observed_at": "TIMESTAMP"}
    assert runs(f"json_{case}", "silver")[-1].rows_out == (1 if case == "one_record" else 3)


def zipped(members: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return out.getvalue()


def tarred(members: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


PARTS = {"data/a.csv": "k,n\na,1\nb,2\n", "data/b.csv": "k,n\nc,3\n", "README.txt": "read me", "__MACOSX/._a.csv": "x"}


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("one.zip", zipped({"only.csv": "k,n\na,1\nb,2\n"}), 2),
        ("many.zip", zipped(PARTS), 3),
        ("unlike.zip", zipped(PARTS | {"data/b.csv": "other,columns,here\n1,2,3\n" * 2}), None),
        ("many.tar.gz", tarred({k: v for k, v in PARTS.items() if "MACOSX" not in k}), 3),
        ("plain.csv.gz", gzip.compress(b"k,n\na,1\nb,2\n"), 2),
    ],
)
@pytest.mark.usefixtures("exchange")
def test_the_data_in_an_archive_is_chosen_as_the_sample(
    name: str, content: bytes, rows: int | None, tmp_path: Path
) -> None:
    own = "packed_" + name.split(".")[0] + ("_tar" if "tar" in name else "")
    proposed(write(tmp_path / name, content), own)
    assert rows is None or runs(own, "silver")[-1].rows_out == rows


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "empty"),
        ("<!DOCTYPE html><html><title>Sign in</title></html>", "HTML page"),
        ("<?xml version='1.0'?><a/>", "XML"),
        ("a,b\n", "no record"),
        ('{"a": 1, "b": [', "not"),
        ('{"error": "no such table"\n}', "no array"),
        (zipped({"a.pdf": "%PDF-", "b.pdf": "%PDF-"}), "no data file"),
        (zipped(PARTS)[:-30], "truncated"),
        ("a,b\n,\n,\n", "nulls"),
    ],
)
@pytest.mark.usefixtures("exchange")
def test_a_sample_without_data_is_refused_and_nothing_is_written(
    content: str | bytes, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ExchangeError, match=reason):
        new_source("utility", "nothing", str(write(tmp_path / "sample.csv", content)))
    assert not (tmp_path / "catalogue").exists() or not list((tmp_path / "catalogue").rglob("*.yaml"))


@pytest.mark.usefixtures("exchange")
def test_nothing_is_overwritten(tmp_path: Path) -> None:
    sample = str(write(tmp_path / "s.csv", "k,n\na,1\n"))
    new_source("utility", "mine", sample)
    written = {f: f.read_text() for f in (tmp_path / "catalogue").rglob("*.yaml")}
    with pytest.raises(ExchangeError, match="already"):
        new_source("finance", "mine", sample)
    (tmp_path / "catalogue/dags/sources/utility/mine/source.yaml").unlink()
    with pytest.raises(ExchangeError, match="already"):
        new_source("utility", "mine", sample)
    assert {f: f.read_text() for f in (tmp_path / "catalogue").rglob("*.yaml")}.items() <= written.items()


@pytest.mark.usefixtures("exchange")
def test_findings_and_next_steps_are_reported(tmp_path: Path) -> None:
    sample = write(tmp_path / "s.csv", "Time;Demand (MW)\n2026-01-01 00:00;1\n")
    output = "\n".join(new_source("utility", "told", str(sample)))
    for part in ("source.yaml", "delimiter ';'", "key observed_at", "read as UTC", "redistribution is unknown"):
        assert part in output
    assert "exchange land told" in output
    declared = load_sources().source("told").declared
    assert (declared.rights.redistribution, declared.licence.id) == ("unknown", "unknown")


DICTIONARY = """\
columns:
  - {name: meter, type: STRING, classification: personal, description: The meter}
  - {name: kwh, type: "DECIMAL(22,3)", unit: kWh, description: Energy drawn}
  - {name: last_on, type: DATE, description: Day of the last reading}
  - {name: year, type: INT, description: Calendar year}
  - {name: persons, type: BIGINT, unit: persons, description: Number of persons}
  - {name: area_code, type: STRING, description: Code of the area}
"""


def written_columns(table: str) -> dict[str, dict[str, Any]]:
    """The columns of a contract as written, before the dictionary completes them."""
    document = yaml.safe_load(load_contract(table).file.read_text("utf-8"))
    return {p["name"]: p for p in document["schema"][0]["properties"]}


def test_a_sample_takes_meaning_type_and_unit_from_the_column_dictionary(exchange: Trial, tmp_path: Path) -> None:
    write(exchange.root / "expectations/columns.yaml", DICTIONARY)
    text = "AreaCode,Year,Persons,Mood\n17,2020,1200,good\n18,2020,3,bad\n"
    contract = proposed(write(tmp_path / "people.csv", text), "people")
    assert types(contract) == {"area_code": "STRING", "year": "INT", "persons": "BIGINT", "mood": "STRING"}
    assert [(c.description, c.unit) for c in contract.columns[:3]] == [
        ("Code of the area", None), ("Calendar year", None), ("Number of persons", "persons"),
    ]  # fmt: skip
    columns = written_columns("silver.people")
    for name in ("area_code", "year", "persons"):
        assert not {"description", "physicalType", "logicalType", "customProperties"} & set(columns[name])
    assert "to be written" in columns["mood"]["description"]
    assert [tuple(map(str, r)) for r in table_rows("silver.people", "area_code", "year", "persons")] == [
        ("17", "2020", "1200"), ("18", "2020", "3"),
    ]  # fmt: skip


def test_values_that_do_not_fit_the_column_dictionary_are_named(exchange: Trial, tmp_path: Path) -> None:
    write(exchange.root / "expectations/columns.yaml", DICTIONARY)
    text = "meter,year,kwh\nm1,2020,1.5\nm2,2020/21,2.5\nm3,2021,3.0001\n"
    lines = new_source("utility", "unfit", str(write(tmp_path / "unfit.csv", text)))
    assert "meaning, type and unit from the column dictionary: meter, year, kwh" in lines
    (year,) = [line for line in lines if line.startswith("look at year:")]
    assert "1 of 3 distinct values do not fit INT, its type in the column dictionary ('2020/21', for example)" in year
    assert any("look at kwh: 1 of 3 distinct values do not fit DECIMAL(22,3)" in line for line in lines)
    assert load_contract("silver.unfit").columns[0].classification == "personal"


@pytest.mark.usefixtures("exchange")
def test_an_absent_sample_is_not_found() -> None:
    with pytest.raises(NotFound):
        new_source("utility", "absent", "/nowhere/at/all.csv")
    with pytest.raises(ExchangeError, match="pickle"):
        new_source("utility", "absent", "package:something==1.0#data.pkl")


def checked_meters(exchange: Trial) -> str:
    source = exchange.source(
        {"meter": {"physicalType": "STRING", "classification": "personal"}, "read_on": "DATE", "kwh": "DECIMAL(12,3)"},
        ("meter", "read_on"),
    )
    source.land([("a", "2026-01-01", 1), ("a", "2026-01-02", 2), ("b", "2026-01-01", 3)])
    for step in ("bronze", "silver", "check"):
        source.step(step)
    return source.table


def test_a_product_from_a_query_is_built_and_checked_unedited_and_released_when_finished(
    exchange: Trial, tmp_path: Path
) -> None:
    table = checked_meters(exchange)
    text = f"SELECT m.meter, sum(m.kwh) AS kwh, max(m.read_on) AS last_on FROM {table} AS m GROUP BY m.meter;"
    query = write(tmp_path / "q.sql", text)
    output = "\n".join(new_product("scaffold_sums", query, None))
    contract = load_contract("gold.scaffold_sums")
    assert contract.key == ("meter",)
    assert types(contract) == {"meter": "STRING", "kwh": "DECIMAL(22,3)", "last_on": "DATE"}
    # A column that keeps its name keeps its class; one computed from personal columns may be personal.
    assert [c.classification for c in contract.columns] == ["personal", "general", "personal"]
    assert "personal" in output
    assert load_products().product("scaffold_sums").declared.licence.id == "CC-BY-4.0"
    for step in ("gold", "check"):
        assert run_step(step, "scaffold_sums", day(1), "r").status == "succeeded"
    held = run_step("release", "scaffold_sums", day(1), "r")
    assert (held.status, held.outcome.release) == ("unchanged", None)
    assert "(question): 'to be written, what a buyer pays to know'" in str(held.message)
    for file in (exchange.root / "dags/products/scaffold_sums/product.yaml", contract.file):
        text = file.read_text().replace("to be written", "written").replace("status: draft", "status: active")
        write(file, text)
    for step in ("gold", "check", "release"):
        assert run_step(step, "scaffold_sums", day(1), "r").status == "succeeded"
    assert [tuple(map(str, r)) for r in table_rows("gold.scaffold_sums")] == [
        ("a", "3.000", "2026-01-02"), ("b", "3.000", "2026-01-01"),
    ]  # fmt: skip


def test_a_product_takes_types_and_descriptions_from_the_column_dictionary(exchange: Trial, tmp_path: Path) -> None:
    table = checked_meters(exchange)
    dictionary = DICTIONARY.replace("(22,3)", "(12,3)").replace("The meter", "the meter")
    write(exchange.root / "expectations/columns.yaml", dictionary.replace("Energy drawn", "the kwh"))
    text = f"SELECT m.meter, sum(m.kwh) AS kwh, max(m.read_on) AS last_on FROM {table} AS m GROUP BY m.meter"
    lines = new_product("scaffold_known", write(tmp_path / "q.sql", text), None)
    assert written_columns("gold.scaffold_known")["meter"] == {
        "name": "meter", "primaryKey": True, "primaryKeyPosition": 1,
    }  # fmt: skip
    assert types(load_contract("gold.scaffold_known")) == {"meter": "STRING", "kwh": "DECIMAL(12,3)", "last_on": "DATE"}
    (cast,) = [line for line in lines if line.startswith("look at kwh")]
    assert "returns DECIMAL(22,3), the column dictionary says DECIMAL(12,3)" in cast
    assert run_step("gold", "scaffold_known", day(1), "r").rows == 2


def test_digits_that_depend_on_the_engine_are_reported(exchange: Trial, tmp_path: Path) -> None:
    text = f"SELECT meter, avg(kwh) AS mean_kwh FROM {checked_meters(exchange)} GROUP BY meter"
    lines = new_product("scaffold_mean", write(tmp_path / "q.sql", text), None)
    (digits,) = [line for line in lines if line.startswith("look at the digits")]
    assert "AVG(" in digits


def test_a_product_from_a_table_starts_with_its_columns(exchange: Trial) -> None:
    table = checked_meters(exchange)
    new_product("scaffold_copy", None, table)
    assert load_contract("gold.scaffold_copy").key == ("meter", "read_on")
    assert run_step("gold", "scaffold_copy", day(1), "r").rows == 3


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT 1 AS n", "reads no table"),
        ("DROP TABLE {t}", "not exactly one SELECT"),
        ("SELECT * FROM bronze.x", "bronze.x"),
        ("SELECT * FROM silver.nowhere", "is not declared"),
        ("SELECT nowhere FROM {t}", "rejected the query"),
        ("SELECT count(*) FROM {t}", "usable name"),
        ("SELECT array(meter) AS meters FROM {t}", "array"),
        ("SELECT 1 AS n FROM {t}", "duplicates"),
        ("SELECT meter FROM {t} WHERE false", "no rows"),
        ("SELECT FROM WHERE", "parse"),
    ],
)
def test_a_query_that_cannot_be_a_product_is_refused_and_nothing_is_written(
    exchange: Trial, query: str, reason: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "q.sql", query.format(t=checked_meters(exchange)))
    with pytest.raises(ExchangeError, match=reason):
        new_product("scaffold_bad", file, None)
    assert not (exchange.root / "dags" / "products").exists()


def test_an_input_without_a_checked_version_is_named(exchange: Trial, tmp_path: Path) -> None:
    source = exchange.source({"a": "STRING"}, ("a",))
    with pytest.raises(NotFound, match=f"{source.table} has no checked version"):
        new_product("scaffold_early", write(tmp_path / "q.sql", f"SELECT a FROM {source.table}"), None)


@pytest.mark.usefixtures("exchange")
def test_proposals_are_yaml_that_a_person_can_edit(tmp_path: Path) -> None:
    new_source("utility", "edited", str(write(tmp_path / "s.csv", 'k: #,"it\'s ""a"" name"\n1,2\n3,4\n')))
    file = tmp_path / "catalogue/expectations/silver/edited.yaml"
    document = yaml.safe_load(file.read_text())
    document["schema"][0]["properties"][1]["description"] = "what it means"
    file.write_text(yaml.safe_dump(document))
    assert load_contract("silver.edited").columns[1].description == "what it means"
    with pytest.raises((DeclarationError, RefusedFile)):
        write(file, "kind: [")
        load_contract("silver.edited")


FIELD = {
    "comma": ("k;price;share;n\na;1.355,90;5%;١٢\nb;12,50;6,5%;٣\n",
        [("a", "1355.900000", "5.000000", "12"), ("b", "12.500000", "6.500000", "3")]),
    "blanks": ("k,n,day,note\na,\u00a012\u3000, 2024-01-03,\u00a0x\nb,\t13 ,\t2024-01-04, \n",
        [("a", "12", "2024-01-03", "x"), ("b", "13", "2024-01-04", "None")]),
    "exact": ("k,amount,n\na,1.123456789012345678,1E2\nb,250000.000000000000000001,9007199254740993\n",
        [("a", "1.123456789012345678", "100.000000"), ("b", "250000.000000000000000001", "9007199254740993.000000")]),
    "ragged": ("\ufeffsite,kwh,flag,\n1,10\n\ufeffsite,kwh,flag,\n2,11,Y,\n3,12,N\n",
        [("1", "10", "None"), ("2", "11", "Y"), ("3", "12", "N")]),
    "places": ("a,b\n,1\nx,\n,1\n",
        [("None", "1", "places.csv", "2"), ("None", "1", "places.csv", "4"), ("x", "None", "places.csv", "3")]),
}  # fmt: skip


@pytest.mark.usefixtures("exchange")
def test_what_a_proposal_reads_out_of_awkward_text_is_what_silver_holds(tmp_path: Path) -> None:
    for name, (text, expected) in FIELD.items():
        names = proposed(write(tmp_path / f"{name}.csv", text), name).names
        held = sorted(tuple(map(str, row)) for row in table_rows(f"silver.{name}", *names))
        assert held == expected, name


@pytest.mark.usefixtures("exchange")
def test_undeclared_cells_can_be_read_by_transform_logic(tmp_path: Path) -> None:
    sample = write(tmp_path / "extra.json", '[{"id": 1, "n": 5}, {"id": 2, "n": "x"}]')
    new_source("utility", "extra", str(sample))
    file = tmp_path / "catalogue/dags/sources/utility/extra/source.yaml"
    write(file, file.read_text().replace('[id, "n"]', "[id]"))
    terms = tmp_path / "catalogue/expectations/silver/extra.yaml"
    logic = "try_cast(get_json_object(_extra, '$.n') as int)"
    reads = f'logicalType: integer, physicalType: INT, transformLogic: "{logic}"'
    write(terms, terms.read_text().replace("logicalType: string, physicalType: STRING, required: true", reads))
    folder = settings().drop / "extra"
    folder.mkdir(parents=True)
    shutil.copy(sample, folder)
    for step in ("land", "bronze", "silver"):
        assert run_step(step, "extra", day(0), "r").status == "succeeded"
    assert [tuple(map(str, row)) for row in table_rows("silver.extra", "id", "n")] == [("1", "5")]
    (refused,) = table_rows("quarantine.extra", "rule", "value", "record")
    assert (refused[0], refused[1]) == ("n.type", '{"n":"x"}')
