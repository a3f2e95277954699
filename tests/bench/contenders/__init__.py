"""Ways to do the same work: text rows with their origin, typed and keyed rows beside refused ones, checks."""

from __future__ import annotations

from typing import Final

# The order in which they run, round after round.
NAMES: Final = ("ours", "duckdb", "polars", "dlt", "spark")
ON_CLUSTER: Final = ("ours_on_cluster", "spark_on_cluster")
