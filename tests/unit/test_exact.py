"""Expressions whose digits differ between engines are detected in queries; default products have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.declared.catalog import load_products
from jobs.gold.determinism import inexact

PRODUCTS = sorted(load_products().products)


@pytest.mark.parametrize("product", PRODUCTS)
def test_queries_of_default_products_give_the_same_digits_on_every_engine(product: str) -> None:
    assert inexact(load_products().product(product).query_file) == ()


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("sum(energy_kwh) / max(energy_kwh)", "quotient of decimals"),
        ("100.0 * count(*) / max(utc_offset_hours)", "quotient of decimals"),
        ("avg(energy_kwh)", "mean of decimals"),
        ("avg(CAST(energy_kwh AS DOUBLE))", "depends on their order"),
        ("sum(sqrt(energy_kwh))", "depends on their order"),
        ("round(stddev(utc_offset_hours), 2)", "depend on their order"),
        ("ln(max(energy_kwh))", "round it"),
        ("1e2 * count(*) / max(utc_offset_hours)", ""),
        ("CAST(sum(energy_kwh) AS DOUBLE) / max(energy_kwh)", ""),
        ("count(*) / max(utc_offset_hours)", ""),
        ("sum(CAST(round(1000000 * sqrt(energy_kwh)) AS BIGINT))", ""),
        ("round(ln(max(energy_kwh)), 8)", ""),
    ],
)
def test_an_expression_that_depends_on_the_engine_is_reported(expression: str, why: str, tmp_path: Path) -> None:
    query = tmp_path / "query.sql"
    query.write_text(f"WITH x AS (SELECT {expression} AS y FROM silver.smart_meter_readings) SELECT y FROM x")
    warnings = inexact(query)
    assert len(warnings) == bool(why)
    assert all(why in warning for warning in warnings)
