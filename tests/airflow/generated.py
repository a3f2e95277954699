"""Generates a catalogue of any number of sources and products that can be parsed or run."""

from __future__ import annotations

from pathlib import Path

from tests.declaring import contract, declare_contract, declare_product, declare_source, product, source

_QUERY = """\
-- Energy per area, and how it compares with the mean of all areas.
WITH drawn AS (
    SELECT area_code, sum(amount_kwh) AS drawn_kwh, count(*) AS days_read
    FROM silver.source_{i}
    WHERE amount_kwh IS NOT NULL
    GROUP BY area_code
),
compared AS (
    SELECT d.area_code, d.drawn_kwh, d.days_read, avg(d.drawn_kwh) OVER () AS mean_kwh
    FROM drawn AS d
)
SELECT
    c.area_code,
    c.drawn_kwh,
    c.days_read,
    CASE
        WHEN c.drawn_kwh > c.mean_kwh THEN 'above'
        WHEN c.drawn_kwh < c.mean_kwh THEN 'below'
        ELSE 'equal'
    END AS level_code
FROM compared AS c
"""

_LICENCE = {"id": "CC0-1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
_KWH = [{"property": "unit", "value": "kWh"}]
_SILVER = {
    "read_on": {"physicalType": "DATE", "transformLogic": "try_cast(day as date)"},
    "area_code": {"physicalType": "STRING", "transformLogic": "area"},
    "amount_kwh": {
        "physicalType": "DOUBLE", "required": True, "transformLogic": "try_cast(amount as double)",
        "customProperties": _KWH,
    },
}  # fmt: skip
_POSITIVE = {
    "name": "amounts_positive", "type": "sql", "dimension": "accuracy", "description": "no amount is below zero",
    "query": "SELECT count(*) FROM ${table} WHERE NOT (amount_kwh >= 0)", "mustBeLessOrEqualTo": 1,
}  # fmt: skip
_GOLD = {
    "area_code": "STRING",
    "drawn_kwh": {"physicalType": "DOUBLE", "required": True, "customProperties": _KWH},
    "days_read": {"physicalType": "BIGINT", "required": True},
    "level_code": {"physicalType": "STRING", "required": True},
}


def declare(root: Path, count: int) -> None:
    """Declare ``count`` drop sources, and as many products, each reading the source of the same number."""
    for i in range(count):
        source_document = source(
            ("day", "area", "amount"), title=f"Generated source {i}", owner="data-engineering",
            publisher={"name": f"Publisher {i}", "url": f"https://example.org/{i}"}, licence=_LICENCE,
            connector={"type": "drop", "files": ["*.csv"]}, format={"delimiter": ","}, tags=["generated"],
        )  # fmt: skip
        product_document = product(
            title=f"Generated product {i}", owner="product-desk",
            question="How much was drawn per area, compared with the mean of all areas?",
            licence=_LICENCE, tags=["generated"],
        )  # fmt: skip
        silver = contract(f"source_{i}", _SILVER, ("read_on", "area_code"), quality=[_POSITIVE])
        declare_source(root, f"source_{i}", source_document)
        declare_product(root, f"product_{i}", product_document, _QUERY.format(i=i))
        declare_contract(root, f"silver.source_{i}", silver)
        declare_contract(root, f"gold.product_{i}", contract(f"product_{i}", _GOLD, ("area_code",)))


def drop(home: Path, i: int, name: str, rows: list[tuple[str, str, str]]) -> None:
    """Write rows of (day, area, amount) to a file in the drop folder of source ``i``."""
    file = home / "drop" / f"source_{i}" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("day,area,amount\n" + "".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
