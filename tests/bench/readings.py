"""Writes hourly meter readings as a publisher would: mostly valid, with the usual faults."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

FIRST_HOUR = datetime(2025, 1, 1)
METERS = 5_000
COLUMNS = ("meter", "read_at", "kwh", "status")
_HOURS_AT_ONCE = 24
# One row in this many has the fault.
_FAULTS = {
    "text_in_number": 5_000,
    "negative": 5_000,
    "missing": 10_000,
    "unknown_date": 5_000,
    "unknown_status": 10_000,
    "unknown_meter": 20_000,
}
_COPIED, _CONTRADICTED = 10_000, 50_000


@dataclass(frozen=True)
class Written:
    """A file of readings; `rows` does not count the header."""

    path: Path
    rows: int
    bytes: int


def write_readings(
    path: Path, rows: int, *, meters: int = METERS, first: datetime = FIRST_HOUR, seed: int = 7, faults: bool = True
) -> Written:
    """Stream rows to a CSV file, hour by hour and meter by meter; the same arguments give the same bytes."""
    rng = np.random.default_rng(seed)
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    written, hour = 0, 0
    with path.open("wb") as file:
        file.write((",".join(COLUMNS) + "\n").encode())
        with pyarrow.csv.CSVWriter(file, schema, write_options=options) as writer:
            while written < rows:
                hours = min(_HOURS_AT_ONCE, -(-(rows - written) // meters))
                table = _hours(rng, first + timedelta(hours=hour), hours, meters, faults)
                table = table.slice(0, rows - written)
                writer.write_table(table)
                written, hour = written + table.num_rows, hour + hours
    return Written(path, written, path.stat().st_size)


def _hours(rng: np.random.Generator, first: datetime, hours: int, meters: int, faults: bool) -> pa.Table:
    count = hours * meters
    codes = pa.array([f"M{n:05d}" for n in range(meters)])
    times = pa.array([f"{first + timedelta(hours=n):%Y-%m-%d %H:%M:%S}" for n in range(hours)])
    milli = np.minimum(rng.gamma(1.3, 600.0, count).astype(np.int64), 90_000)
    milli[rng.random(count) < 0.01] = 0
    status = rng.choice(3, count, p=[0.96, 0.03, 0.01])
    whole, rest = np.divmod(milli, 1000)
    columns = {
        "meter": codes.take(pa.array(np.tile(np.arange(meters), hours))),
        "read_at": times.take(pa.array(np.repeat(np.arange(hours), meters))),
        "kwh": pc.binary_join_element_wise(
            pa.array(whole).cast(pa.string()), pc.utf8_lpad(pa.array(rest).cast(pa.string()), 3, "0"), "."
        ),
        "status": pa.array(["A", "E", "S"]).take(pa.array(status)),
    }
    if not faults:
        return pa.table(columns)
    places = {name: np.flatnonzero(rng.random(count) < 1 / often) for name, often in _FAULTS.items()}
    table = pa.table(_spoiled(columns, places))
    return _with_copies(rng, table, np.unique(np.concatenate(list(places.values()))))


def _spoiled(columns: dict[str, pa.Array], places: dict[str, np.ndarray]) -> dict[str, pa.Array]:
    return columns | {
        "kwh": _put(
            _put(_put(columns["kwh"], places["text_in_number"], "n/a"), places["negative"], "-1.500"),
            places["missing"],
            "",
        ),
        "read_at": _put(columns["read_at"], places["unknown_date"], "2025-02-30 07:00:00"),
        "status": _put(columns["status"], places["unknown_status"], "X"),
        "meter": _put(columns["meter"], places["unknown_meter"], "TEST"),
    }


def _put(column: pa.Array, places: np.ndarray, value: str) -> pa.Array:
    mask = np.zeros(len(column), dtype=bool)
    mask[places] = True
    return pc.if_else(pa.array(mask), value, column)


def _with_copies(rng: np.random.Generator, table: pa.Table, bad: np.ndarray) -> pa.Table:
    """Repeat some valid rows exactly, and some with another value: a contradicting key."""
    sound = np.setdiff1d(np.arange(table.num_rows), bad, assume_unique=True)
    copied = sound[rng.random(len(sound)) < 1 / _COPIED]
    contradicted = np.setdiff1d(sound[rng.random(len(sound)) < 1 / _CONTRADICTED], copied)
    other = table.take(pa.array(contradicted))
    other = other.set_column(2, "kwh", pa.array(["99.999"] * other.num_rows, pa.string()))
    return pa.concat_tables([table, table.take(pa.array(copied)), other])
