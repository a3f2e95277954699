"""Shares of a file together hold every row exactly once, however workers cut the file."""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from jobs.bronze import stripes
from jobs.bronze.stripes import Shares, shares_of

NUMBERS = st.lists(st.integers(0, 100 * stripes._STRIPE), max_size=60).map(sorted)


def batches(numbers: list[int], cuts: list[int]) -> list[pa.RecordBatch]:
    """Rows of these numbers, cut into blocks."""
    edges = sorted({0, len(numbers), *(cut % (len(numbers) + 1) for cut in cuts)})
    parts = [numbers[begin:end] for begin, end in pairwise(edges)]
    return [pa.RecordBatch.from_pydict({"_row": pa.array(part, pa.int64())}) for part in parts]


@given(NUMBERS, st.integers(1, 12), st.data())
def test_each_row_is_in_one_share(numbers: list[int], of: int, data: st.DataObject) -> None:
    owners = data.draw(st.lists(st.integers(0, 2), min_size=of, max_size=of))
    rows: list[int] = []
    for worker in range(3):
        own = Shares(frozenset(share for share in range(of) if owners[share] == worker), of)
        for batch in batches(numbers, data.draw(st.lists(st.integers(0, 60), max_size=5))):
            rows += own.rows(batch).column("_row").to_pylist()
    assert sorted(rows) == numbers


def test_a_worker_with_all_shares_passes_batches_on_unchanged() -> None:
    (batch,) = batches([1, 2, 3], [])
    assert Shares(frozenset((0, 1)), 2).rows(batch) is batch


def test_only_large_files_are_split() -> None:
    assert [shares_of(size) for size in (0, stripes._LARGE_BYTES - 1)] == [1, 1]
    assert shares_of(stripes._LARGE_BYTES) == shares_of(10**12) == 12


def test_only_one_share_is_the_first() -> None:
    assert [Shares(frozenset((share,)), 3).has_first for share in range(3)] == [True, False, False]
