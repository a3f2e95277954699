"""An error in a contract is reported with file, line and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.declared.compile import compile_rules
from jobs.declared.contract import load_contract
from jobs.errors import DeclarationError
from tests.unit.contracts import readings, write


@pytest.fixture(autouse=True)
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path))
    return tmp_path


def mistake(root: Path, document: dict[str, Any] | str) -> tuple[DeclarationError, str]:
    """The error that loading and compiling a contract raises, and the text of the line it names."""
    file = write(root, document)
    with pytest.raises(DeclarationError) as caught:
        compile_rules(load_contract("silver.readings"))
    assert caught.value.file == file
    lines = file.read_text("utf-8").splitlines()
    return caught.value, lines[caught.value.line - 1] if caught.value.line else ""


def test_a_contract_gives_columns_key_and_a_digest_of_its_terms(catalogue: Path) -> None:
    document = readings(
        slaProperties=[{"property": "latency", "value": 36, "unit": "hours", "element": "readings.read_at"}]
    )
    write(catalogue, document)
    contract = load_contract("silver.readings")
    assert contract.key == ("meter_code", "read_at")
    assert [c.required for c in contract.columns] == [True, True, False, False, False]
    assert contract.columns[2].unit == "kWh"
    assert contract.freshness is not None
    assert contract.freshness.days == pytest.approx(1.5)
    reordered = dict(reversed(document.items()))
    write(catalogue, reordered)
    assert load_contract("silver.readings").digest == contract.digest
    reordered["version"] = "1.0.1"
    write(catalogue, reordered)
    assert load_contract("silver.readings").digest != contract.digest


def test_a_missing_contract_is_reported_with_its_expected_path(catalogue: Path) -> None:
    with pytest.raises(DeclarationError, match="has no contract") as caught:
        load_contract("gold.nothing")
    assert caught.value.file == catalogue / "expectations" / "gold" / "nothing.yaml"


@pytest.mark.parametrize(
    ("changes", "field", "line", "message"),
    [
        ({"status": 7}, "status", "status: 7", "not of type 'string'"),
        ({"energy_kwh": {"physicalType": "VARCHAR(9)"}}, "schema.0.properties.2.physicalType", "VARCHAR(9)", "VARCHAR"),
        *(
            ({"energy_kwh": {"physicalType": kind}}, "schema.0.properties.2.physicalType", "physicalType", "s <= p")
            for kind in ("DECIMAL(18,2)) AS x, (SELECT 1", "DECIMAL(39,2)", "DECIMAL(5,6)", "DECIMAL(0,0)", "INT\n")
        ),
        ({"note": {"classification": "secret"}}, "schema.0.properties.4.classification", "secret", "class 'secret'"),
        ({"note": {"name": "Read_At"}}, "schema.0.properties.4", "name: Read_At", "a second column"),
        ({"note": {"name": "_note"}}, "schema.0.properties.4", "name: _note", "underscore"),
        (
            {"note": {"logicalType": "number", "logicalTypeOptions": {"minimum": 1}}},
            "schema.0.properties.4.logicalTypeOptions.minimum", "minimum: 1", "minimum does not apply to the STRING",
        ),
        (
            {"energy_kwh": {"logicalTypeOptions": {"minimum": 9, "maximum": 1}}},
            "schema.0.properties.2.logicalTypeOptions.minimum", "minimum: 9", "above",
        ),
        (
            {"slaProperties": [{"property": "latency", "value": 1, "unit": "m", "element": "readings.read_at"}]},
            "slaProperties.0", "property: latency", "in 'm'",
        ),
        (
            {"slaProperties": [{"property": p, "value": 1, "element": "read_at"} for p in ("latency", "freshness")]},
            "slaProperties.1", "property: freshness", "a second promise",
        ),
        (
            {"slaProperties": [{"property": "latency", "value": 1, "unit": "d", "element": "readings.seen_at"}]},
            "slaProperties.0", "property: latency", "seen_at",
        ),
        (
            {"note": {"quality": [{"type": "text", "description": "looks nice"}]}},
            "schema.0.properties.4.quality.0.type", "type: text", "type 'text'",
        ),
        (
            {"note": {"quality": [{"metric": "nullValues", "mustBe": 0, "severity": "fatal"}]}},
            "schema.0.properties.4.quality.0.severity", "severity: fatal", "severity 'fatal'",
        ),
        (
            {"note": {"quality": [{"metric": "invalidValues", "mustBe": 0}]}},
            "schema.0.properties.4.quality.0", "metric: invalidValues", "without arguments",
        ),
        (
            {"quality": [{"metric": "rowCount"}]}, "schema.0.quality.0", "metric: rowCount", "a rule without a limit",
        ),
        (
            {"quality": [{"metric": "rowCont", "mustBe": 1}]},
            "schema.0.quality.0.metric", "metric: rowCont", "the metric 'rowCont'; expected one of: nullValues",
        ),
        (
            {"note": {"quality": [{"type": "sql", "query": "SELECT COUNT(*) FROM ${table} WHERE NOT (note = 'a')"}]}},
            "schema.0.properties.4.quality.0", "type: sql", "a rule without a limit; expected one of: mustBe,",
        ),
        (
            {"quality": [{"metric": "rowCount", "mustBeLessThan": 9, "mustBeGreaterThan": 1}]},
            "schema.0.quality.0", "metric: rowCount", "a rule with 2 limits: mustBeLessThan, mustBeGreaterThan",
        ),
        (
            {"quality": [{"type": "sql", "query": "SELECT sum(ghost) FROM ${table}", "mustBe": 0}]},
            "schema.0.quality.0.query", "ghost", "no column ghost",
        ),
        (
            {"quality": [{"metric": "duplicateValues", "mustBe": 0, "arguments": {"properties": ["ghost"]}}]},
            "schema.0.quality.0.arguments", "arguments:", "no column ghost",
        ),
        (
            {"quality": [{"type": "sql", "query": "SELECT COUNT(*) FROM ${table} WHERE NOT (ghost > 1)", "mustBe": 0}]},
            "schema.0.quality.0.query", "ghost", "no column ghost",
        ),
        (
            {"quality": [{"type": "sql", "query": "SELECT COUNT(*) FROM ${table} WHERE NOT (note >)", "mustBe": 0}]},
            "schema.0.quality.0.query", "note >", "does not parse",
        ),
        (
            {"quality": [{"type": "sql", "query": "SELECT 1", "mustBe": 0}]},
            "schema.0.quality.0.query", "SELECT 1", "does not read ${table}",
        ),
        (
            {"quality": [{"type": "custom", "engine": "soda", "implementation": "x"}]},
            "schema.0.quality.0", "type: custom", "engine that is not supported",
        ),
    ],
)  # fmt: skip
def test_a_contract_error_names_line_and_field(
    catalogue: Path, changes: dict[str, Any], field: str, line: str, message: str
) -> None:
    error, shown = mistake(catalogue, readings(**changes))
    assert error.field == field
    assert line in shown
    assert message in str(error)
    assert error.expected or error.next_step


def test_invalid_yaml_is_reported_with_its_line(catalogue: Path) -> None:
    error, line = mistake(catalogue, "apiVersion: v3.1.0\nkind: DataContract\nschema: [a, b\nid: x\n")
    assert "id: x" in line or "schema" in line
    assert "valid YAML" in str(error)


def test_the_contract_of_another_table_is_refused(catalogue: Path) -> None:
    document = readings()
    document["schema"][0]["name"] = "rates"
    error, line = mistake(catalogue, document)
    assert error.field == "schema.0.name"
    assert "rates" in line
