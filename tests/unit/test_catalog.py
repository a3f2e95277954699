"""Declarations: every error names its file, line and field, and invalidates only its own declaration."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.declared.catalog import find_source, load_catalog, load_products, load_sources
from jobs.declared.sql import columns_read, input_tables
from jobs.errors import DeclarationError, NotFound
from tests.declaring import declaration_text, declare_product, product, source, write

SOURCE = declaration_text(source(("meter", "day", "kwh"), title="Meters", cadence="@daily"))
# Written without quotes, as people do: YAML then reads a boolean.
SOURCE = SOURCE.replace("redistribution: 'yes'", "redistribution: yes")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path))
    write_source(tmp_path, "utility", "good", SOURCE)
    return tmp_path


def write_source(root: Path, sector: str, name: str, text: str) -> Path:
    return write(root / "dags/sources" / sector / name / "source.yaml", text)


def write_product(root: Path, name: str, query: str) -> Path:
    return declare_product(root, name, product(title="Load"), query)


@pytest.mark.parametrize(
    ("before", "after", "line", "field", "message"),
    [
        ("cadence: '@daily'", "cadence: hourly", 6, "cadence", "not a cron line"),
        ("cadence: '@daily'", "cadance: '@daily'", 6, "cadance", "did you mean 'cadence'"),
        ("owner: data\n", "", 1, "owner", "a required field is missing; expected a value for 'owner'"),
        ("mode: merge", "mode: upsert", 9, "silver.mode", "'append', 'merge', 'revisions' or 'snapshot'"),
        ("type: drop", "type: ftp", 7, "connector.type", "expected one of: drop, package"),
        ("redistribution: yes", "redistribution: perhaps", 5, "rights.redistribution", "unknown"),
        ("columns: [meter, day, kwh]", "columns: [meter, meter]", 8, "format.columns", "declared twice"),
        ("title: Meters", "title: [Meters", 2, None, "expected"),
        ("title: Meters", "title: \tMeters: x", 1, None, ""),
    ],
)
def test_an_error_names_its_line_and_field(
    root: Path, before: str, after: str, line: int, field: str | None, message: str
) -> None:
    assert before in SOURCE
    file = write_source(root, "utility", "broken", SOURCE.replace(before, after))
    loaded = load_sources()
    assert list(loaded.sources) == ["good"]
    (mistake,) = loaded.mistakes
    assert (mistake.file, mistake.line) == (file, line)
    assert mistake.field == field
    assert message in str(mistake)
    with pytest.raises(DeclarationError, match=r"source\.yaml"):
        find_source("broken")


def test_a_declaration_that_is_not_a_text_mapping_is_refused(root: Path) -> None:
    write_source(root, "utility", "broken", "- a list\n")
    write_source(root, "utility", "empty", "")
    binary = write_source(root, "utility", "binary", "")
    binary.write_bytes(b"title: \xff\xfe")
    output = {m.file.parent.name: str(m) for m in load_sources().mistakes}
    assert "not a mapping" in output["broken"]
    assert "not a mapping" in output["empty"]
    assert "not UTF-8 at byte 7" in output["binary"]


def test_names_are_taken_from_folders_and_checked(root: Path) -> None:
    write_source(root, "utility", "Bad-Name", SOURCE)
    write_source(root, "media", "good", SOURCE)
    output = [str(m) for m in load_sources().mistakes]
    assert len(output) == 2
    assert any("'Bad-Name' cannot name a table" in s for s in output)
    assert any("a second source named 'good'" in s for s in output)


def test_no_name_can_be_taken_for_revisions_or_a_release(root: Path) -> None:
    for name in ("good_revisions", "good_v1_0_0", "good_v10_22_3"):
        write_source(root, "utility", name, SOURCE)
        write_product(root, name, "SELECT * FROM silver.good")
    for name in ("good_v1_0", "revisions_of_good", "goods"):
        write_source(root, "utility", name, SOURCE)
    assert set(load_sources().sources) == {"good", "good_v1_0", "revisions_of_good", "goods"}
    output = [str(m) for m in load_catalog().mistakes]
    assert len(output) == 6
    assert all("cannot name a table" in text and "another ending" in text for text in output)


@pytest.mark.usefixtures("root")
def test_an_unknown_name_lists_the_existing_ones() -> None:
    with pytest.raises(NotFound, match="no source 'godo'; expected one of: good"):
        find_source("godo")
    assert find_source("good").dag_id == "ingest_utility_good"
    assert load_sources(only="ingest_utility_good").source("good").table == "silver.good"


def test_an_unpivot_keeps_columns_that_exist(root: Path) -> None:
    text = SOURCE + "reshape: {unpivot: {keep: [date], name: a, value: b}}\n"
    write_source(root, "utility", "wide", text)
    (mistake,) = load_sources().mistakes
    assert (mistake.line, mistake.field) == (10, "reshape.unpivot.keep")


def test_inputs_are_read_from_the_query(root: Path) -> None:
    query = "WITH good AS (SELECT * FROM silver.good) SELECT * FROM good JOIN gold.other AS o ON true"
    write_product(root, "load", query)
    write_product(root, "other", "SELECT 1 AS x FROM silver.Good")
    catalog = load_catalog()
    assert catalog.product("load").inputs == ("gold.other", "silver.good")
    assert catalog.product("other").inputs == ("silver.good",)
    assert catalog.mistakes == ()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT * FROM", "the SQL does not parse"),
        ("DELETE FROM silver.good", "not exactly one SELECT"),
        ("SELECT 1; SELECT 2", "not exactly one SELECT"),
        ("SELECT * FROM bronze.good", "expected only silver"),
        ("SELECT * FROM good", "expected only silver"),
        ("SELECT * FROM other.silver.good", "expected only silver"),
        ("SELECT 1 AS x", "reads no table"),
        ("", "not exactly one SELECT"),
    ],
)
def test_a_query_that_cannot_build_a_product_is_refused(root: Path, query: str, message: str) -> None:
    folder = write_product(root, "load", query)
    (mistake,) = load_products().mistakes
    assert mistake.file == folder / "query.sql"
    assert message in str(mistake)


def test_an_undeclared_input_is_refused(root: Path) -> None:
    write_product(root, "load", "SELECT * FROM silver.goood")
    (mistake,) = load_catalog().mistakes
    assert "silver.goood, which nothing declares; expected one of: gold.load, silver.good" in str(mistake)


def test_columns_of_an_expression_are_listed_in_order(tmp_path: Path) -> None:
    assert columns_read("coalesce(b, `a x`, b) + 1", tmp_path, "f") == ("b", "a x")
    with pytest.raises(DeclarationError, match="not an SQL expression"):
        columns_read("try_cast(", tmp_path, "f")


def test_a_missing_query_file_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "query.sql"
    with pytest.raises(DeclarationError, match="the file does not exist"):
        input_tables(file)
