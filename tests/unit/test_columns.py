"""The column dictionary completes contracts and refuses contradictions."""

from __future__ import annotations

import os
import re
from copy import deepcopy
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobs.airflow.mistakes import find_mistakes
from jobs.declared.catalog import load_catalog
from jobs.declared.columns import TYPES, ColumnDictionary, ColumnEntry, load_dictionary, logical_type
from jobs.declared.contract import load_contract
from jobs.errors import DeclarationError
from jobs.scaffold.kinds import fits
from jobs.scaffold.numerals import Kind
from jobs.scaffold.texts import Replace
from tests.unit.contracts import readings, write

REPOSITORY = Path(__file__).parents[2]

DICTIONARY = """\
columns:
  - {name: meter_code, type: STRING, classification: personal, description: The meter}
  - {name: read_at, type: TIMESTAMP, description: "Beginning of the interval, in UTC"}
  - {name: energy_kwh, type: "decimal(12, 6)", unit: kWh, description: Energy drawn in the interval}
  - {name: quality_code, type: STRING, description: How the reading was taken}
  - {name: note, type: STRING, description: What the reader of the meter wrote}
"""
WRITTEN_IN_FULL: dict[str, dict[str, Any]] = {
    "meter_code": {"description": "The meter", "classification": "personal"},
    "read_at": {"description": "Beginning of the interval, in UTC"},
    "energy_kwh": {"physicalType": "DECIMAL(12,6)", "description": "Energy drawn in the interval"},
    "quality_code": {"description": "How the reading was taken"},
    "note": {"description": "What the reader of the meter wrote"},
}
LEFT_OUT = ("logicalType", "physicalType", "description", "classification", "customProperties")


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path))
    return tmp_path


def dictionary(root: Path, text: str = DICTIONARY) -> Path:
    """Write a column dictionary; returns the file."""
    file = root / "expectations" / "columns.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def full() -> dict[str, Any]:
    """A contract that repeats everything in the dictionary."""
    return readings(**deepcopy(WRITTEN_IN_FULL))


def short(*fields: str) -> dict[str, Any]:
    """The same contract without these fields of its columns."""
    document = full()
    for column in document["schema"][0]["properties"]:
        for field in fields:
            column.pop(field, None)
    return document


def test_a_contract_may_leave_out_what_the_dictionary_says(catalogue: Path) -> None:
    dictionary(catalogue)
    write(catalogue, full())
    in_full = load_contract("silver.readings")
    write(catalogue, short(*LEFT_OUT))
    left_out = load_contract("silver.readings")
    assert left_out.digest == in_full.digest
    assert left_out.columns == in_full.columns
    assert left_out.columns[0].classification == "personal"
    assert (left_out.columns[2].type, left_out.columns[2].unit) == ("DECIMAL(12,6)", "kWh")


def test_the_text_of_a_contract_needs_no_dictionary(catalogue: Path) -> None:
    file = dictionary(catalogue)
    write(catalogue, short(*LEFT_OUT))
    contract = load_contract("silver.readings")
    file.unlink()
    write(catalogue, contract.text)
    assert load_contract("silver.readings").digest == contract.digest


def test_a_full_contract_needs_no_dictionary(catalogue: Path) -> None:
    write(catalogue, full())
    alone = load_contract("silver.readings")
    dictionary(catalogue)
    assert load_contract("silver.readings").digest == alone.digest
    (catalogue / "expectations/columns.yaml").unlink()
    write(catalogue, short("physicalType"))
    with pytest.raises(DeclarationError, match="has the type 'None'; expected one of: STRING"):
        load_contract("silver.readings")


def test_editing_only_the_dictionary_reloads_the_contract(catalogue: Path) -> None:
    file = dictionary(catalogue)
    write(catalogue, short("description"))
    before = load_contract("silver.readings")
    assert load_contract("silver.readings") is before
    dictionary(catalogue, DICTIONARY.replace("The meter}", "A meter}"))
    os.utime(file, ns=(1, 1))
    after = load_contract("silver.readings")
    assert after.columns[0].description == "A meter"
    assert after.digest != before.digest


@pytest.mark.parametrize(
    ("changes", "field", "line", "message"),
    [
        (
            {"energy_kwh": {"physicalType": "DOUBLE"}}, "schema.0.properties.2.physicalType", "DOUBLE",
            "has the physicalType 'DOUBLE', which contradicts {file}:4; expected 'DECIMAL(12,6)'. Next: leave",
        ),
        (
            {"energy_kwh": {"logicalType": "integer"}}, "schema.0.properties.2.logicalType", "integer",
            "expected 'number'",
        ),
        (
            {"note": {"description": "Anything"}}, "schema.0.properties.4.description", "Anything",
            "has the description 'Anything', which contradicts {file}:6; expected 'What the reader",
        ),
        (
            {"energy_kwh": {"customProperties": [{"property": "unit", "value": "MWh"}]}},
            "schema.0.properties.2.customProperties.0.value", "MWh",
            "has the unit 'MWh', which contradicts {file}:4; expected 'kWh'",
        ),
        (
            {"note": {"customProperties": [{"property": "unit", "value": "words"}]}},
            "schema.0.properties.4.customProperties.0.value", "words", "expected no unit",
        ),
        (
            {"meter_code": {"classification": "general"}}, "schema.0.properties.0.classification", "general",
            "expected 'personal'",
        ),
        (
            {"note": {"name": "notes"}}, "schema.0.properties.4", "name: notes",
            "column 'notes' has no description, and no entry in the column dictionary; did you mean 'note'?",
        ),
    ],
)  # fmt: skip
def test_a_contract_that_contradicts_the_dictionary_is_refused(
    catalogue: Path, changes: dict[str, Any], field: str, line: str, message: str
) -> None:
    file = dictionary(catalogue)
    document = short("description")
    for column in document["schema"][0]["properties"]:
        column.update(changes.get(column["name"], {}))
    contract = write(catalogue, document)
    with pytest.raises(DeclarationError) as caught:
        load_contract("silver.readings")
    error = caught.value
    assert (error.file, error.field) == (contract, field)
    assert error.line and line in contract.read_text("utf-8").splitlines()[error.line - 1]
    assert message.format(file=file) in str(error)
    assert error.expected and error.next_step


def test_a_column_without_an_entry_may_be_declared_in_full(catalogue: Path) -> None:
    dictionary(catalogue)
    document = short(*LEFT_OUT)
    tariff = {"name": "tariff", "logicalType": "integer", "physicalType": "INT", "description": "Its tariff"}
    document["schema"][0]["properties"].append(tariff)
    write(catalogue, document)
    assert load_contract("silver.readings").columns[-1].type == "INT"


def test_a_contract_may_classify_a_column_if_its_entry_does_not(catalogue: Path) -> None:
    dictionary(catalogue)
    write(catalogue, readings(energy_kwh={"physicalType": "DECIMAL(12,6)", "classification": "personal"}))
    assert load_contract("silver.readings").columns[2].classification == "personal"


@pytest.mark.parametrize(
    ("before", "after", "line", "field", "message"),
    [
        ("{name: note, type", "{name: note, typ", 6, "columns.4.typ", "no such field 'typ', did you mean 'type'?"),
        ("type: TIMESTAMP", "type: DATETIME", 3, "columns.1.type", "not a column type, one of: STRING"),
        ("type: TIMESTAMP, ", "", 3, "columns.1.type", "a required field is missing; expected a value for 'type'"),
        ("name: note", "name: read_at", 6, "columns.4.name", "a second entry for 'read_at'; expected one entry"),
        ("name: note", "name: Note", 6, "columns.4.name", "pattern"),
        ("description: The meter", "description: 7", 2, "columns.0.description", "valid string (found 7)"),
        ("classification: personal", "classification: secret", 2, "columns.0.classification", "'personal'"),
        ("columns:", "names:", 1, "names", "no such field 'names'"),
        ("columns:", "columns: [", 2, None, "expected"),
    ],
)
def test_a_broken_dictionary_names_line_and_field(
    catalogue: Path, before: str, after: str, line: int, field: str | None, message: str
) -> None:
    file = dictionary(catalogue, DICTIONARY.replace(before, after, 1))
    write(catalogue, full())
    with pytest.raises(DeclarationError) as caught:
        load_contract("silver.readings")
    assert (caught.value.file, caught.value.field) == (file, field)
    assert caught.value.line == line
    assert message in str(caught.value)
    assert caught.value.next_step


def test_a_broken_dictionary_is_one_error_of_the_whole_catalogue(catalogue: Path) -> None:
    file = dictionary(catalogue, "columns: 7")
    (mistake,) = find_mistakes(load_catalog())
    assert mistake.file == file


SHAPELESS = (
    "schema: 7",
    "schema: [7]",
    "schema: [{properties: 7}]",
    "schema: [{properties: [7, {name: 7}, {name: note, customProperties: 7}]}]",
)


@pytest.mark.parametrize("document", SHAPELESS)
def test_a_document_of_the_wrong_shape_is_refused(catalogue: Path, document: str) -> None:
    dictionary(catalogue)
    write(catalogue, f"apiVersion: v3.1.0\n{document}\n")
    with pytest.raises(DeclarationError, match=r"readings\.yaml"):
        load_contract("silver.readings")


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
_ENTRIES = st.lists(
    st.builds(
        ColumnEntry,
        name=st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True),
        type=st.sampled_from([*TYPES, "DECIMAL(18,6)"]),
        description=_TEXT,
        unit=st.none() | _TEXT,
        classification=st.none() | st.sampled_from(["general", "personal"]),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda entry: entry.name,
)


@given(entries=_ENTRIES, own=st.sampled_from([{}, {"required": True}, {"classification": "internal"}]))
def test_completing_a_shortened_contract_restores_it(entries: list[ColumnEntry], own: dict[str, Any]) -> None:
    column_dictionary = ColumnDictionary(Path("columns.yaml"), {e.name: e for e in entries})
    columns = []
    for entry in entries:
        column: dict[str, Any] = {"name": entry.name, **own, **entry.fields}
        if entry.unit:
            column["customProperties"] = [{"property": "unit", "value": entry.unit}]
        columns.append(column)
    document = {"schema": [{"properties": columns}]}
    shortened = {"schema": [{"properties": [column_dictionary.shorten(c) for c in columns]}]}
    assert column_dictionary.complete(document, Path("x.yaml")) == document
    assert column_dictionary.complete(shortened, Path("x.yaml")) == document
    assert all("description" not in c for c in shortened["schema"][0]["properties"])


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9))
def test_a_number_fits_a_decimal_that_has_room_for_it(number: Decimal) -> None:
    assert fits(str(number), Kind("DECIMAL(13,4)")) == (abs(number) < 10**9)
    assert fits(str(number), Kind("DECIMAL(12,3)")) == (number == round(number, 3) and abs(number) < 10**9)
    assert fits(str(number), Kind("BIGINT")) == ("." not in str(number))
    assert fits(str(number), Kind("DOUBLE")) and fits(str(number), Kind("STRING"))


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("127", Kind("TINYINT"), True), ("128", Kind("TINYINT"), False), ("-128", Kind("TINYINT"), True),
        ("1e3", Kind("DOUBLE"), True), ("1e3", Kind("DECIMAL(6,2)"), True), ("1e999999", Kind("DECIMAL(6,2)"), False),
        ("1,250", Kind("INT", (Replace(","),)), True), ("1,250", Kind("INT"), False),
        ("True", Kind("BOOLEAN"), True), ("1", Kind("BOOLEAN"), False), ("", Kind("INT"), False),
        ("2026-02-28", Kind("DATE"), True), ("2026-02-30", Kind("DATE"), False), ("20260228", Kind("DATE"), False),
        ("2026-02-28 01:00", Kind("DATE"), False), ("2026-02-28", Kind("TIMESTAMP"), True),
        ("28/2/2026", Kind("DATE", pattern="d/M/yyyy"), True),
        ("28/2/2026 1:00", Kind("DATE", pattern="d/M/yyyy H:mm"), False),
    ],
)  # fmt: skip
def test_a_text_fits_its_type_or_not(value: str, kind: Kind, expected: bool) -> None:
    assert fits(value, kind) is expected


# The default catalogue.

# Published under these names before the rule; renaming them would break readers.
UNIT_NOT_LAST = {
    "rate", "hours_read", "age_from", "tone", "mean_tone", "lowest_tone", "article_length", "actor1_offset",
    "actor2_offset", "action_offset",
}  # fmt: skip


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> ColumnDictionary:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(REPOSITORY))
    loaded = load_dictionary()
    assert loaded is not None
    return loaded


def default_columns() -> dict[str, list[str]]:
    """Names of the columns in each contract of the default catalogue."""
    files = sorted((REPOSITORY / "expectations").glob("*/*.yaml"))
    read = {f"{f.parent.name}.{f.stem}": yaml.safe_load(f.read_text("utf-8")) for f in files}
    return {table: [p["name"] for p in d["schema"][0]["properties"]] for table, d in read.items()}


def test_every_default_column_has_an_entry_and_every_entry_a_column(default: ColumnDictionary) -> None:
    used = {name for names in default_columns().values() for name in names}
    assert used == set(default.entries)


def test_a_column_name_means_the_same_in_all_default_contracts(default: ColumnDictionary) -> None:
    meanings: dict[str, set[tuple[str, ...]]] = {}
    for table in default_columns():
        for column in load_contract(table).columns:
            meanings.setdefault(column.name, set()).add((column.type, column.description, column.unit or ""))
    assert {name: output for name, output in meanings.items() if len(output) > 1} == {}
    assert len(meanings) == len(default.entries)


def test_the_default_contracts_leave_out_what_the_dictionary_says(default: ColumnDictionary) -> None:
    for table in default_columns():
        document = yaml.safe_load(load_contract(table).file.read_text("utf-8"))
        for column in document["schema"][0]["properties"]:
            assert column == default.shorten(column), table


def test_default_column_names_follow_the_rules(default: ColumnDictionary) -> None:
    for entry in default.entries.values():
        name = entry.name
        assert name.endswith("_on") == (entry.type == "DATE"), name
        assert name.endswith("_at") == (entry.type == "TIMESTAMP"), name
        assert name.startswith(("is_", "has_")) == (entry.type == "BOOLEAN"), name
        assert not name.endswith("_code") or entry.type == "STRING", name
        assert logical_type(entry.type) in ("integer", "number") or entry.unit is None, name
    without = {e.name for e in default.entries.values() if e.unit and not _ends_in_unit(e.name, e.unit)}
    assert without == UNIT_NOT_LAST


def _ends_in_unit(name: str, unit: str) -> bool:
    """``mean_price_hkd`` in HKD, ``rate_per_eur`` in "currency units per EUR", ``persons`` in persons."""
    words = re.findall(r"[a-z0-9]+", unit.lower())
    ends = ["_".join(words), "_".join(words[-2:]), *(words if len(words) == 1 else ())]
    return any(name == end or name.endswith(f"_{end}") for end in ends)
