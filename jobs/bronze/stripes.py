"""Lets several workers load one large file: each reads all of it and passes on the rows of its own stripes.

Finding where a record begins means reading the file up to there, and finding records costs a fraction of what the
engine spends on receiving and writing their rows. A row's number alone decides its stripe, so exactly one worker passes
it on, however each of them cuts the file into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

# Smaller files are not split: starting another Python worker costs more than it saves.
_LARGE_BYTES = 16 << 20
# Divides evenly among 1, 2, 3, 4, 6 or 12 workers; a worker with several shares still reads the file once.
_SHARES = 12
# Rows per stripe; small enough that each share has many stripes, so that shares are of similar size.
_STRIPE = 1 << 12


@dataclass(frozen=True)
class Shares:
    """The rows of a file that a worker passes on: those of the stripes whose number modulo `of` is in `own`."""

    own: frozenset[int]
    of: int

    @property
    def has_first(self) -> bool:
        """Whether this worker has the first share, and so reports what is reported once per file."""
        return 0 in self.own

    def rows(self, records: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of a batch that belong to these shares, by the number in their column ``_row``."""
        import numpy as np
        import pyarrow as pa

        if len(self.own) == self.of:
            return records
        share = records.column("_row").to_numpy() // _STRIPE % self.of
        return records.filter(pa.array(np.isin(share, list(self.own))))


def shares_of(size: int) -> int:
    """The number of shares that a file of ``size`` bytes is split into."""
    return _SHARES if size >= _LARGE_BYTES else 1
