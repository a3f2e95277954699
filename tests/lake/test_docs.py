"""The documentation shows every contract and its checks, and loads nothing from the network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jobs.check import evidence
from jobs.check.evaluate import RuleOutcome
from jobs.declared.contract import load_contract
from jobs.errors import Tampered
from jobs.portal.tables import SHOWN_CHECKS, build_docs
from jobs.registry.checks import add_check
from jobs.registry.models import Check
from jobs.settings import settings
from tests.declaring import declare_product, product
from tests.lake.test_evaluate import NOW, Table, good
from tests.lake.trial import Trial


class Recorded(Table):
    """A table whose checks the registry lists."""

    def check(self, *rows: dict[str, Any], scope: str | None = None) -> RuleOutcome:
        outcome = super().check(*rows, scope=scope)
        add_check(
            Check(
                table_name="gold.profile", delta_version=7, contract_digest=load_contract("gold.profile").digest,
                suite_digest=outcome.suite_digest, result_sha256=outcome.result_sha256, passed=outcome.passed,
                score=outcome.score, grade=outcome.grade, dimensions=outcome.dimensions, scope=None, run_id="r1",
                checked_at=NOW,
            )
        )  # fmt: skip
        return outcome


@pytest.fixture
def table(exchange: Trial) -> Table:
    return Recorded(exchange.root)


def pages(index: Path) -> list[Path]:
    return sorted((index.parent / "gx" / "validations").rglob("*.html"))


@pytest.mark.usefixtures("table")
def test_an_empty_exchange_has_an_index() -> None:
    index = build_docs()
    assert index == settings().home / "docs" / "index.html"
    assert pages(index) == []


def test_columns_rules_and_checks_are_shown_and_linked(table: Table) -> None:
    energy = table.document["schema"][0]["properties"][3]
    energy["description"] = "energy <b>used</b>"
    energy["customProperties"] = [{"property": "unit", "value": "kWh"}]
    table.check(*good(5))
    table.check(*good(5), {"meter_code": "x9"}, {"meter_code": "m9", "quality_code": "<script>alert(1)</script>"})
    index = build_docs()
    text = index.read_text("utf-8")
    for shown in (
        "gold.profile",
        "energy_kwh",
        "energy &lt;b&gt;used&lt;/b&gt;",
        "kWh",
        "personal",
        "meter_code.pattern",
    ):
        assert shown in text
    assert "passed" in text
    assert "failed" in text
    links = [index.parent / link for link in re.findall(r'href="(gx/[^"]*)"', text)]
    assert sorted(links) == pages(index)
    assert len(links) == 2
    for page in links:
        for link in re.findall(r'href="(\.\./[^"#]*)', page.read_text("utf-8")):
            assert (page.parent / link).resolve().exists()
    failing = next(p for p in links if "&lt;script&gt;alert(1)" in p.read_text("utf-8"))
    assert "***" in failing.read_text("utf-8")
    assert "x9" not in failing.read_text("utf-8")


def test_no_page_loads_resources_or_runs_scripts(table: Table) -> None:
    table.check(*good(2))
    index = build_docs()
    for page in (index, *pages(index)):
        text = page.read_text("utf-8")
        assert "default-src 'none'" in text
        assert not re.search(r"<script|<link|<img|src=|url\(", text)


def test_a_table_shows_its_last_checks_and_a_broken_contract_its_error(table: Table) -> None:
    for number in range(1, SHOWN_CHECKS + 3):
        table.check(*good(number))
    # What the registry does not list among them is not even read.
    oldest = settings().evidence / f"{next(evidence.digests())}.json"
    oldest.write_bytes(b"")
    assert len(pages(build_docs())) == SHOWN_CHECKS
    (table.root / "expectations" / "gold" / "torn.yaml").write_text("kind: [", "utf-8")
    assert "torn.yaml:" in build_docs().read_text("utf-8")


def test_checks_still_work_after_building_the_site_in_the_same_process(table: Table) -> None:
    first = table.check(*good(3))
    build_docs()
    assert table.check(*good(3)).result_sha256 == first.result_sha256


def test_a_product_shows_its_cautions(table: Table) -> None:
    table.check(*good(1))
    document = product(question="How much does a meter draw?", cautions=["Times are those of <UTC>."])
    declare_product(table.root, "profile", document, "SELECT * FROM silver.meters")
    text = build_docs().read_text("utf-8")
    assert "How much does a meter draw?" in text
    assert "<li>Times are those of &lt;UTC&gt;.</li>" in text


def test_no_site_is_built_from_tampered_evidence(table: Table) -> None:
    table.check(*good(2))
    index = build_docs()
    before = index.read_text("utf-8")
    file = settings().evidence / f"{next(evidence.digests())}.json"
    file.write_bytes(file.read_bytes().replace(b'"passed":true', b'"passed":null'))
    with pytest.raises(Tampered):
        build_docs()
    assert index.read_text("utf-8") == before
    assert [p.name for p in index.parent.parent.iterdir() if p.name.startswith(".docs")] == []
