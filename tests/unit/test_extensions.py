"""An installed package extends the exchange by name, and a type in YAML can load nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from jobs.bronze.formats import read
from jobs.cli.program import run
from jobs.declared.compile import compile_rules
from jobs.declared.connector import AnyConnector, Connector
from jobs.declared.contract import load_contract
from jobs.declared.format import AnyFormat, Format
from jobs.errors import DeclarationError, ExchangeError
from jobs.land.connectors import fetch
from jobs.steps import STEPS, all_steps, run_of, step_named, steps_of
from tests.lake.extending import CONNECTOR, FORMAT, RULE, STEP, Site, site_in
from tests.unit.contracts import readings, write

connectors: TypeAdapter[Connector] = TypeAdapter(AnyConnector)
formats: TypeAdapter[Format] = TypeAdapter(AnyFormat)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return site_in(tmp_path / "site", monkeypatch)


def test_a_package_adds_a_connector_with_two_files(site: Site, tmp_path: Path) -> None:
    assert len(site.install("exchange.connectors", "spelled", CONNECTOR)) <= 2
    block = connectors.validate_python({"type": "spelled", "lines": ["a", "b"]})
    (fetched,) = fetch(block, "readings", tmp_path)
    assert (fetched.path.read_text(), fetched.url) == ("a\nb", "spelled:readings")


def test_a_package_adds_a_format_with_two_files(site: Site, tmp_path: Path) -> None:
    assert len(site.install("exchange.formats", "fixed_width", FORMAT)) <= 2
    form = formats.validate_python({"type": "fixed_width", "columns": ["meter", "kwh"], "widths": [3, 4]})
    (tmp_path / "r.txt").write_text("m1  1.5\nshort\n")
    good, refused = read(tmp_path / "r.txt", "r.txt", form)
    assert good.select(["meter", "kwh", "_row"]).to_pylist() == [{"meter": "m1", "kwh": "1.5", "_row": 1}]
    assert refused.column("_refused").to_pylist() == ["wrong_length: 5"]


def test_every_field_of_an_added_model_is_dumped(site: Site) -> None:
    site.install("exchange.formats", "fixed_width", FORMAT)
    form = {"type": "fixed_width", "columns": ["meter"], "widths": [3]}
    assert formats.dump_python(formats.validate_python(form), mode="json")["widths"] == [3]


def test_mistakes_in_an_added_block_are_named_at_their_field(site: Site) -> None:
    site.install("exchange.formats", "fixed_width", FORMAT)
    with pytest.raises(ValidationError) as raised:
        formats.validate_python({"type": "fixed_width", "columns": ["meter"], "widths": ["wide"]})
    assert raised.value.errors()[0]["loc"] == ("widths", 0)
    with pytest.raises(ValidationError, match="expected one of: delimited, fixed_width, json, json_lines"):
        formats.validate_python({"type": "fixed_with", "columns": ["meter"]})


@pytest.mark.parametrize("name", ["os", "jobs.settings", "../x", "batches", "layout", "__init__", 5, None, ["drop"]])
def test_a_type_in_yaml_cannot_load_another_module(name: object) -> None:
    for adapter in (connectors, formats):
        with pytest.raises(ValidationError) as raised:
            adapter.validate_python({"type": name, "columns": ["a"], "files": ["*"]})
        assert raised.value.errors()[0]["loc"] == ("type",)


def test_a_package_cannot_replace_a_built_in_format(site: Site, tmp_path: Path) -> None:
    site.install("exchange.formats", "json", "raise RuntimeError('imported')")
    form = formats.validate_python({"type": "json", "columns": ["a"]})
    (tmp_path / "a.json").write_bytes(io.BytesIO(b'[{"a": 1}]').getvalue())
    (batch,) = read(tmp_path / "a.json", "a.json", form)
    assert batch.column("a").to_pylist() == ["1"]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("", "does not define `MODEL`"),
        ("MODEL = int", "MODEL is no subclass of Connector"),
        (CONNECTOR.replace('"spelled"', '"spelt"'), "does not have the type 'spelled' as its default"),
    ],
)
def test_a_broken_package_is_an_error_of_the_source_that_needs_it(site: Site, module: str, message: str) -> None:
    site.install("exchange.connectors", "spelled", module)
    with pytest.raises(ValidationError, match=message) as raised:
        connectors.validate_python({"type": "spelled", "lines": []})
    assert raised.value.errors()[0]["loc"] == ("type",)
    connectors.validate_python({"type": "drop", "files": ["*"]})


def test_two_packages_with_the_same_entry_point_are_refused(site: Site) -> None:
    site.install("exchange.connectors", "spelled", CONNECTOR)
    second = site.folder / "rival-1.0.dist-info" / "entry_points.txt"
    second.parent.mkdir()
    second.write_text("[exchange.connectors]\nspelled = rival\n")
    with pytest.raises(ValidationError, match="registered by two installed packages: partner_spelled, rival"):
        connectors.validate_python({"type": "spelled", "lines": []})


def test_a_package_without_the_required_function_is_refused(site: Site, tmp_path: Path) -> None:
    site.install("exchange.connectors", "spelled", CONNECTOR.replace("def fetch", "def bring"))
    block = connectors.validate_python({"type": "spelled", "lines": []})
    with pytest.raises(ExchangeError, match="'spelled' does not define `fetch`"):
        list(fetch(block, "readings", tmp_path))


def outliers(kind: str = "at_most_times_median", **parameters: object) -> dict[str, object]:
    """A contract with a rule of an added kind for energy_kwh."""
    entry = {"type": "custom", "engine": "exchange", "name": "outliers", "implementation": {"type": kind, **parameters}}
    return readings(energy_kwh={"quality": [entry]})


def test_a_package_adds_a_kind_of_rule_with_two_files(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path))
    assert len(site.install("exchange.rules", "at_most_times_median", RULE)) <= 2
    write(tmp_path, outliers(times=3))
    rule = {rule.id: rule for rule in compile_rules(load_contract("silver.readings"))}["energy_kwh.outliers"]
    assert (rule.kind.name, rule.columns, rule.severity) == ("at_most_times_median", ("energy_kwh",), "error")
    assert not rule.sends_to_quarantine


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (outliers(times="many"), "times many"),
        (outliers("at_most_mean", times=3), "unknown kind of rule 'at_most_mean'.*one of: at_most_times_median"),
        (outliers("os"), "unknown kind of rule 'os'"),
    ],
)
def test_a_mistake_in_a_rule_of_an_added_kind_is_named_at_its_line(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: dict[str, object], message: str
) -> None:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path))
    site.install("exchange.rules", "at_most_times_median", RULE)
    file = write(tmp_path, entry)
    with pytest.raises(DeclarationError, match=message) as raised:
        compile_rules(load_contract("silver.readings"))
    line = raised.value.line
    assert line
    assert str(file.read_text("utf-8").splitlines()[line - 1]).strip().startswith(("times:", "type:"))


def test_a_package_adds_a_step_with_two_files(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(site.install("exchange.steps", "tally", STEP)) <= 2
    assert [step.name for step in steps_of("source")] == ["land", "bronze", "silver", "check", "tally"]
    assert [step.name for step in steps_of("product")] == ["gold", "check", "release"]
    assert run_of(step_named("tally")).__module__ == "partner_tally"
    assert run(["tally", "--help"]) == 0
    assert "Count the rows that readers see." in capsys.readouterr().out


def test_every_built_in_step_has_a_module() -> None:
    assert [run_of(step).__module__ for step in STEPS] == [f"jobs.{step.name}.step" for step in STEPS]


@pytest.mark.parametrize(
    "module", [STEP.replace('after="check"', 'after="lunch"'), STEP.replace('"tally"', '"count"'), "STEP = 1"]
)
def test_an_invalid_step_names_its_package(site: Site, module: str) -> None:
    site.install("exchange.steps", "tally", module)
    with pytest.raises(ExchangeError, match="step 'tally' of an installed package is unusable; expected STEP = "):
        all_steps()


def test_an_unknown_step_lists_the_existing_ones() -> None:
    with pytest.raises(ExchangeError, match="unknown step 'os'; expected one of: land, bronze, silver, gold,"):
        step_named("os")
