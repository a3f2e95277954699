"""Reads the tables a contender left behind, to detect those that did different work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_SILVER = "meter_code, epoch_us(read_at), CAST(energy_kwh AS DECIMAL(9,3)), status_code, read_month"
_GOLD = (
    "meter_code, read_month, CAST(consumption_kwh AS DECIMAL(18,3)), CAST(peak_kwh AS DECIMAL(9,3)),"
    " CAST(hours_read AS BIGINT), CAST(days_read AS BIGINT), CAST(estimated_hours AS BIGINT)"
)


@dataclass(frozen=True)
class Outcome:
    """Counts and checksums of the four tables; equal for contenders that did the same work."""

    landed: int
    good: int
    good_sum: str
    quarantined: dict[str, int]
    duplicates: int
    product: int
    product_sum: str

    def __str__(self) -> str:
        """All of it in one line."""
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


def outcome(lake: Path) -> Outcome:
    """Read the tables under a lake's folder, each at ``<layer>`` or in the one folder below it."""
    import duckdb

    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        landed = _one(database, _rows(lake, "bronze"), "count(*)")[0]
        good, good_sum = _one(database, _rows(lake, "silver"), f"count(*), sum(hash({_SILVER})::HUGEINT)::VARCHAR")
        product, product_sum = _one(database, _rows(lake, "gold"), f"count(*), sum(hash({_GOLD})::HUGEINT)::VARCHAR")
        refused = f"SELECT rule, count(*) FROM {_rows(lake, 'quarantine')} GROUP BY rule ORDER BY rule"
        quarantined = dict(database.execute(refused).fetchall())
    duplicates = landed - good - sum(quarantined.values())
    return Outcome(landed, good, good_sum, quarantined, duplicates, product, product_sum)


def _rows(lake: Path, layer: str) -> str:
    from deltalake import DeltaTable

    folder = lake / layer
    if not (folder / "_delta_log").is_dir():
        (folder,) = (log.parent for log in folder.glob("*/_delta_log"))
    files = DeltaTable(str(folder)).file_uris()
    return f"read_parquet({files}, hive_partitioning = true, hive_types_autocast = false)"


def _one(database: Any, rows: str, columns: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] = database.execute(f"SELECT {columns} FROM {rows}").fetchall()[0]
    return row
