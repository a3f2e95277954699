"""Implementations of the same work: text rows with origin, typed and keyed rows, refused rows, checks."""

from __future__ import annotations

from typing import Final

# In the order in which they run, round after round.
NAMES: Final = ("ours", "duckdb", "polars", "dlt", "spark")
ON_CLUSTER: Final = ("ours_on_cluster", "spark_on_cluster")
