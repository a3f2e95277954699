"""Lets several workers read one large file at once: each reads it whole, and hands on the rows of its own stripes.

To cut a file where a record begins takes reading it up to there, and to find records takes a fraction of what an engine
needs to take their rows in and write them. Which stripe a row belongs to follows from its number alone, so that every
row is handed on by one worker and no more, however each of them happens to cut the file into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

# Of a smaller one nobody takes a share: to start a worker's Python costs more.
_LARGE_BYTES = 16 << 20
# As many as fall alike to one, two, three, four, six or twelve workers; who gets several reads the file once for all.
_SHARES = 12
# Rows of a stripe: many of them to a share, so that shares are alike.
_STRIPE = 1 << 12


@dataclass(frozen=True)
class Shares:
    """Which rows of a file are handed on: those of the stripes whose number, modulo `of`, is among `own`."""

    own: frozenset[int]
    of: int

    @property
    def has_first(self) -> bool:
        """Whether the first share is among them, whose worker says what is to be said once of a file."""
        return 0 in self.own

    def rows(self, records: pa.RecordBatch) -> pa.RecordBatch:
        """Those of a batch's rows, told apart by the number in their column ``_row``."""
        import numpy as np
        import pyarrow as pa

        if len(self.own) == self.of:
            return records
        share = records.column("_row").to_numpy() // _STRIPE % self.of
        return records.filter(pa.array(np.isin(share, list(self.own))))


def shares_of(size: int) -> int:
    """Into how many shares a file of so many bytes is parted."""
    return _SHARES if size >= _LARGE_BYTES else 1
