"""Tells the distinct texts of Arrow columns apart, and puts values in their rows' order by index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# Combinations of several columns are numbered in 64 bits.
_MOST_COMBINATIONS = 1 << 62
# Texts of units of about the same number are computed by one query.
_SIMILAR = 3


@dataclass(frozen=True)
class Texts:
    """A unit's distinct texts in a window, and each row's place among them; None if each row has its own."""

    columns: Mapping[str, pa.Array]
    index: np.ndarray[Any, Any] | None
    count: int


def texts_of(reads: Sequence[str], rows: pa.Table) -> Texts:
    """The distinct texts, or combinations of texts, of some columns."""
    import numpy as np
    import pyarrow as pa

    columns = {name: _one(rows[name]) for name in reads}
    own = Texts({name: plain(column) for name, column in columns.items()}, None, rows.num_rows)
    if not all(pa.types.is_dictionary(column.type) for column in columns.values()):
        return own
    each = {name: _told_apart(column) for name, column in columns.items()}
    if len(each) == 1:
        ((name, (texts, index)),) = each.items()
        return Texts({name: texts}, index, len(texts))
    combined, combinations = np.zeros(rows.num_rows, np.int64), 1
    for texts, index in each.values():
        combinations *= len(texts)
        if combinations > _MOST_COMBINATIONS:
            return own
        combined = combined * len(texts) + index
    coded = pa.array(combined).dictionary_encode()
    codes = coded.dictionary.to_numpy()
    if 2 * len(codes) > rows.num_rows:
        return own
    found: dict[str, pa.Array] = {}
    for name, (texts, _) in reversed(each.items()):
        codes, place = np.divmod(codes, len(texts))
        found[name] = texts.take(pa.array(place))
    return Texts(found, coded.indices.to_numpy(), len(coded.dictionary))


def _told_apart(column: pa.DictionaryArray) -> tuple[pa.Array, np.ndarray[Any, Any]]:
    """The texts that rows have, null perhaps among them, and the place of each row's."""
    import numpy as np
    import pyarrow as pa

    texts, index = column.dictionary, column.indices
    if index.null_count:
        index = index.fill_null(len(texts))
        texts = pa.concat_arrays([texts, pa.nulls(1, texts.type)])
    places = index.to_numpy()
    # A dictionary may have texts of rows that were left out; a text that no row has must not be computed.
    used = np.bincount(places, minlength=len(texts)) > 0
    if used.all():
        return texts, places
    return texts.filter(pa.array(used)), (np.cumsum(used) - 1).astype(np.int32)[places]


def similar(counts: Sequence[int]) -> list[list[int]]:
    """Places of numbers in groups of about the same size."""

    def size(n: int) -> int:
        return counts[n].bit_length() // _SIMILAR

    return [list(group) for _, group in groupby(sorted(range(len(counts)), key=size), key=size)]


def placed(values: pa.Table, index: np.ndarray[Any, Any] | None, at: np.ndarray[Any, Any]) -> pa.Array:
    """The values of some rows, with a dictionary if they repeat texts."""
    import pyarrow as pa

    whole = _one(values)
    if index is None:
        return whole.take(pa.array(at))
    if not pa.types.is_string(whole.type):
        return whole.take(pa.array(index[at]))
    coded = whole.dictionary_encode()
    return pa.DictionaryArray.from_arrays(coded.indices.take(pa.array(index[at])), coded.dictionary)


def _one(column: pa.ChunkedArray) -> pa.Array:
    import pyarrow as pa

    if column.num_chunks == 1:
        return column.chunk(0)
    return column.combine_chunks() if column.num_chunks else pa.nulls(0, column.type)


def as_kind(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A column as a type."""
    return column if column.type == kind else column.cast(kind)


def plain(column: Any) -> Any:
    """A column without a dictionary."""
    import pyarrow as pa

    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def constant(value: str | None, count: int) -> pa.Array:
    """A column of one value."""
    import numpy as np
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value], pa.string()))
