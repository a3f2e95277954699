"""Landing, bronze, typing, keys, quarantine and counts of one source, on real files and the real engine."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

from trial import Exchange, balanced

READINGS = {"meter": "STRING", "read_on": "DATE", "kwh": "DECIMAL(8,2)"}


def test_first_landing(exchange: Exchange) -> None:
    source = exchange.source(READINGS, ["meter", "read_on"])
    landed = source.land([("m1", "2026-01-01", "1.5"), ("m2", "2026-01-01", "2")], at=3)
    assert (landed.status, landed.message) == ("succeeded", "1 file offered, 1 new")
    assert source.build(3).rows == 2
    assert source.rows() == [("m1", date(2026, 1, 1), Decimal("1.50")), ("m2", date(2026, 1, 1), Decimal("2.00"))]
    assert balanced(source.last("silver"))
