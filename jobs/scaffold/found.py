"""What is found of a sample's form, besides the ``format:`` block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobs.declared.format import Delimited, JsonDocument, JsonLines

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Found:
    """A sample's form.

    Attributes:
        doubts: what the engineer should review.
        units: what a row of units says of published columns.
        drop: the source's ``drop:`` block, for rows that are no records: totals, footers, repeated headers.
        by_place: why columns are bound by their place, if the format has no header.
    """

    form: Delimited | JsonLines | JsonDocument
    doubts: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    drop: tuple[Mapping[str, Any], ...] = ()
    by_place: str = "no usable header"

    def kept(self, table: pa.Table) -> pa.Array:
        """Which rows of the sample are not dropped."""
        import pyarrow as pa
        import pyarrow.compute as pc

        dropped: Any = pa.array([False] * table.num_rows)
        for rule in self.drop:
            cells = table.column(rule["column"]).combine_chunks()
            dropped = pc.or_(dropped, pc.is_in(cells, value_set=pa.array(rule["values"], pa.string())))
        return pc.invert(dropped)
