"""A draft is told from a declaration that may be published, and each place that is unfinished is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jobs.declared.catalog import Licence, find_product
from jobs.declared.contract import load_contract
from jobs.declared.drafts import NO_ADDRESS, TO_BE_WRITTEN, is_written, names_terms, unfinished
from tests import declaring
from tests.declaring import declare_contract, declare_product

TERMS = "https://example.org/terms"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path))

    def declared(product: dict[str, Any], columns: dict[str, Any], contract: dict[str, Any]) -> list[str]:
        declare_product(tmp_path, "load", declaring.product(**product), "SELECT * FROM silver.meters")
        columns = {"meter": "STRING"} | columns
        declare_contract(tmp_path, "gold.load", declaring.contract("load", columns, ("meter",), **contract))
        return [str(m) for m in unfinished(find_product("load"), load_contract("gold.load"))]

    return declared


@pytest.mark.parametrize(
    ("product", "columns", "contract", "place"),
    [
        ({"status": "draft"}, {}, {}, "(status): the product is a draft"),
        ({"title": "To be written"}, {}, {}, "(title)"),
        ({"question": f"{TO_BE_WRITTEN}, what a buyer pays to know"}, {}, {}, "(question)"),
        ({"buyers": ["lenders", TO_BE_WRITTEN]}, {}, {}, "(buyers.1)"),
        ({"cautions": ["limits TO BE WRITTEN"]}, {}, {}, "(cautions.0)"),
        ({"owner": " "}, {}, {}, "has no owner"),
        ({"owner": TO_BE_WRITTEN}, {}, {}, "(owner)"),
        ({"licence": {"id": "unknown", "url": TERMS}}, {}, {}, "(licence): the licence 'unknown'"),
        ({"licence": {"id": "CC0-1.0", "url": NO_ADDRESS}}, {}, {}, "(licence)"),
        ({}, {}, {"status": "draft"}, "(status): the contract's status is draft"),
        ({}, {}, {"status": "Proposed"}, "the contract's status is proposed"),
        ({}, {}, {"status": "retired"}, "the contract's status is retired"),
        ({}, {}, {"description": {"usage": TO_BE_WRITTEN}}, "(description.usage)"),
        ({}, {"kwh": {"physicalType": "INT", "description": TO_BE_WRITTEN}}, {}, "(schema.0.properties.1.description)"),
    ],
)  # fmt: skip
def test_each_unfinished_place_is_named(
    places: Any, product: dict[str, Any], columns: dict[str, Any], contract: dict[str, Any], place: str
) -> None:
    (found,) = places(product, columns, contract)
    assert place in found
    assert re.match(r"\S+\.yaml:\d+ ", found), "with its file and line"


def test_a_finished_product_has_no_such_place(places: Any) -> None:
    assert places({"status": "active"}, {}, {}) == []
    assert places({}, {"kwh": "INT"}, {"status": "deprecated"}) == [], "deprecated tables are still sold"


@pytest.mark.parametrize(
    ("identifier", "url", "names"),
    [
        ("CC-BY-4.0", TERMS, True),
        ("ECB-free-reuse", "https://invalid.example.org/terms", True),
        (" None ", TERMS, False),
        ("TBD", TERMS, False),
        ("To be written", TERMS, False),
        ("CC0-1.0", "https://anything.invalid:443/terms", False),
    ],
)
def test_a_placeholder_is_no_licence(identifier: str, url: str, *, names: bool) -> None:
    assert names_terms(Licence(id=identifier, url=url)) is names


def test_a_placeholder_is_not_written_text() -> None:
    assert is_written("its terms, section 3")
    assert not is_written(" ") and not is_written("To be written by legal")
