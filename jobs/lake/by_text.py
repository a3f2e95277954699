"""Computes typed rows from the distinct texts of a table of texts, instead of from each of its rows.

Most columns repeat few texts: a year of hourly readings of a thousand meters has 8,760 instants and a thousand meters.
The engine still decides every value, but once per text; rows are then put together by index. Rows are handled in
windows of bounded size, so that memory does not grow with the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.lake.arrow.distinct import Texts, as_kind, constant, placed, plain, similar, texts_of
from jobs.lake.engine import connect
from jobs.lake.log import delta, files
from jobs.lake.place import address, is_embedded, location
from jobs.settings import settings

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from pyspark.sql import Column

    from jobs.lake.stages import Workspace

# Names that the queries of a plan use beside those of columns.
NUMBER, VERDICT = "_text_number", "_text_verdict"
# The verdict on a row that nothing refuses; a refusal has a smaller number.
GOOD = 65535
# Fewer rows are computed sooner than their texts are told apart.
_FROM_ROWS = 200_000
_WINDOW_ROWS = 1 << 22
_WINDOW_CELLS = 1 << 25
# A chunk of Parquet whose writer gave up its dictionary has this much beside the dictionary, or more than an index of
# 20 bits for each row: writers stop a dictionary at a mebibyte.
_DICTIONARY_BYTES = 1_200_000
_INDEX_BYTES = 2.6


@dataclass(frozen=True)
class Unit:
    """Published columns whose texts decide some columns of the result, and the verdict on a row as far as these go."""

    reads: tuple[str, ...]
    yields: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """How rows follow from texts.

    Attributes:
        units: all columns of the result, by what they read; no two units read the same column.
        query: SQL of the units of these numbers, over a view with their columns and NUMBER. It yields NUMBER, the
            units' columns, and for each unit its verdict, under the name VERDICT and its number.
        stored: the table's name of each published column.
        carried: columns of the table that the result has as they are.
        unreadable: column of the table that is not null in rows to leave out.
    """

    units: tuple[Unit, ...]
    query: Callable[[Sequence[int], str], str]
    stored: Mapping[str, str]
    carried: tuple[str, ...]
    unreadable: str


@dataclass(frozen=True)
class ByText:
    """Rows computed by their texts.

    Attributes:
        good: view of the good rows: the units' columns and the carried ones.
        refused: view of the refused rows, with published and carried columns; None if there are none.
        rows: number of good rows.
        refused_rows: number of refused rows.
    """

    good: str
    refused: str | None
    rows: int
    refused_rows: int


@dataclass(frozen=True)
class _RowGroup:
    file: Path
    number: int
    rows: int
    partition: tuple[tuple[str, str | None], ...]
    # Names of the stored columns that are there, and of those whose writer kept a dictionary.
    present: frozenset[str]
    repeating: frozenset[str]


def stage_by_text(
    work: Workspace, table: str, where: Mapping[str, set[str]], plan: Plan, *, constants: Mapping[str, Column]
) -> ByText | None:
    """Compute the rows of some partitions by their texts and keep them in a workspace.

    Args:
        work: the workspace; gets views `good` and `unread` (the refused rows).
        table: the table of texts.
        where: values of its partition column to read.
        plan: what to compute.
        constants: carried columns that are the same in all rows, as literals.

    Returns:
        The rows; None where the engine does as well with whole rows: there are few, or most texts differ.
    """
    if not is_embedded() or settings().is_remote or delta(table).protocol().min_reader_version > 1:
        return None
    found = _row_groups(table, where, plan)
    if not found or not _pays(found, plan):
        return None
    build = _Build(work, plan, constants, found)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for window in _windows(found, plan):
            build.add(window, pool)
    return build.shown()


def _row_groups(table: str, where: Mapping[str, set[str]], plan: Plan) -> list[_RowGroup] | None:
    """All row groups to read; None if a column is of another type than text."""
    from pyarrow import parquet

    folder, found = location(table), []
    for file in files(table):
        if any(dict(file.partition).get(name) not in values for name, values in where.items()):
            continue
        footer = parquet.read_metadata(folder / file.path)
        names = {footer.schema.column(i).name: i for i in range(len(footer.schema))}
        present = {stored: names[stored] for stored in plan.stored.values() if stored in names}
        if any(footer.schema.column(i).logical_type.type != "STRING" for i in present.values()):
            return None
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            most = _DICTIONARY_BYTES + _INDEX_BYTES * group.num_rows
            repeating = {name for name, i in present.items() if group.column(i).total_uncompressed_size <= most}
            found.append(
                _RowGroup(
                    folder / file.path, number, group.num_rows, file.partition,
                    frozenset(present), frozenset(repeating),
                )
            )  # fmt: skip
    return found


def _pays(found: list[_RowGroup], plan: Plan) -> bool:
    if sum(group.rows for group in found) < _FROM_ROWS:
        return False
    if max(group.rows for group in found) * len(plan.stored) > _WINDOW_CELLS:
        return False
    read = {plan.stored[name] for unit in plan.units for name in unit.reads}
    cells = sum(group.rows * len(read) for group in found)
    return 2 * sum(group.rows * len(group.repeating & read) for group in found) >= cells


def _windows(found: list[_RowGroup], plan: Plan) -> Iterator[list[_RowGroup]]:
    most = min(_WINDOW_ROWS, _WINDOW_CELLS // max(1, len(plan.stored)))
    window: list[_RowGroup] = []
    for group in found:
        if window and sum(g.rows for g in window) + group.rows > most:
            yield window
            window = []
        window.append(group)
    if window:
        yield window


class _Build:
    """The rows of a workspace, window after window."""

    def __init__(self, work: Workspace, plan: Plan, constants: Mapping[str, Column], found: list[_RowGroup]) -> None:
        self._work, self._plan, self._constants = work, plan, constants
        self._good, self._refused, self._texts = (work.empty(name) for name in ("good", "unread", "texts"))
        self._left = len(found)
        self._rows = self._refused_rows = self._windows = 0

    def add(self, window: list[_RowGroup], pool: ThreadPoolExecutor) -> None:
        """Compute the rows of a window and write them."""
        import numpy as np

        self._left -= len(window)
        self._windows += 1
        rows = self._read(window, pool)
        texts = [texts_of(unit.reads, rows) for unit in self._plan.units]
        columns: dict[str, Any] = {}
        verdict = np.full(rows.num_rows, GOOD, np.uint16)
        for numbers in similar([t.count for t in texts]):
            values = self._compute(numbers, texts)
            for n in numbers:
                of_text = values[f"{VERDICT}{n}"].to_numpy()[: texts[n].count].astype(np.uint16)
                index = texts[n].index
                verdict = np.minimum(verdict, of_text if index is None else of_text[index])
                for name in self._plan.units[n].yields:
                    columns[name] = (values[name].slice(0, texts[n].count), index)
        self._write(rows, columns, verdict, pool)

    def _read(self, window: list[_RowGroup], pool: ThreadPoolExecutor) -> pa.Table:
        """A window's readable rows: published columns, with a dictionary where it pays, and carried ones."""
        import pyarrow as pa

        # Where one chunk repeats little, none of them has a dictionary, so that all are of one type.
        repeating = frozenset.intersection(*(group.repeating | (self._stored - group.present) for group in window))
        read = list(pool.map(lambda group: self._read_one(group, repeating), window))
        return pa.concat_tables(read).unify_dictionaries().combine_chunks()

    @property
    def _stored(self) -> frozenset[str]:
        return frozenset(self._plan.stored.values())

    def _read_one(self, group: _RowGroup, repeating: frozenset[str]) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow import parquet

        plan = self._plan
        partition = dict(group.partition)
        carried = [name for name in plan.carried if name not in partition]
        with parquet.ParquetFile(group.file, read_dictionary=[*repeating, *carried]) as file:
            wanted = [*group.present, *carried, plan.unreadable]
            rows = file.read_row_group(group.number, columns=wanted, use_threads=False)
        if rows[plan.unreadable].null_count < rows.num_rows:
            rows = rows.filter(pc.is_null(rows[plan.unreadable]))
        cells: dict[str, Any] = {}
        for published, stored in plan.stored.items():
            kind = pa.dictionary(pa.int32(), pa.string()) if stored in repeating else pa.string()
            cells[published] = as_kind(rows[stored], kind) if stored in group.present else pa.nulls(rows.num_rows, kind)
        for name in plan.carried:
            cells[name] = constant(partition[name], rows.num_rows) if name in partition else rows[name]
        return pa.table(cells)

    def _compute(self, numbers: Sequence[int], texts: Sequence[Texts]) -> pa.Table:
        """The engine's values for the texts of some units, in the order of the texts."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow import parquet

        size = max(texts[n].count for n in numbers)
        given: dict[str, Any] = {NUMBER: pa.array(np.arange(size, dtype=np.int64))}
        for n in numbers:
            # The engine computes rows: a unit with fewer texts repeats its last.
            at = pa.array(np.minimum(np.arange(size), texts[n].count - 1))
            given |= {name: a if len(a) == size else a.take(at) for name, a in texts[n].columns.items()}
        self._work.empty("texts")
        parquet.write_table(pa.table(given), self._texts / "texts.parquet", use_dictionary=False)
        spark = connect()
        view = self._work.show("texts", spark.read.parquet(address(self._texts)))
        values = spark.sql(self._plan.query(numbers, view)).toArrow()
        found = values[NUMBER].to_numpy()
        if not (found[1:] > found[:-1]).all():
            values = values.take(pc.sort_indices(values[NUMBER]))
        return values.combine_chunks()

    def _write(
        self, rows: pa.Table, columns: Mapping[str, Any], verdict: np.ndarray[Any, Any], pool: ThreadPoolExecutor
    ) -> None:
        import numpy as np
        import pyarrow as pa

        refused = np.flatnonzero(verdict != GOOD)
        good = None if not len(refused) else np.flatnonzero(verdict == GOOD)
        count = rows.num_rows - len(refused)
        self._rows += count
        self._refused_rows += len(refused)
        if len(refused):
            names = [*self._plan.stored, *self._plan.carried]
            picked = rows.select(names).take(pa.array(refused))
            self._store(self._refused, pa.table({n: plain(picked[n]) for n in names}))
        # Without a file no type of a column would be known.
        if not count and (self._left or self._rows):
            return
        pieces = 2 if count > _FROM_ROWS else 1
        bounds = [count * i // pieces for i in range(pieces + 1)]
        carried = [n for n in self._plan.carried if n not in self._constants]

        def write(piece: int) -> None:
            start, end = bounds[piece], bounds[piece + 1]
            at = np.arange(start, end) if good is None else good[start:end]
            cells = {name: placed(values, index, at) for name, (values, index) in columns.items()}
            slices = rows.select(carried)
            kept = slices.slice(start, end - start) if good is None else slices.take(pa.array(at))
            self._store(self._good, pa.table(cells | {n: kept[n] for n in carried}), piece)

        list(pool.map(write, range(pieces)))

    def _store(self, folder: Path, rows: pa.Table, piece: int = 0) -> None:
        from pyarrow import parquet

        numbers = [n for n in rows.schema.names if n == "_row"]
        parquet.write_table(
            rows, folder / f"{self._windows:06d}-{piece}.parquet", compression="snappy", store_schema=False,
            use_dictionary=[n for n in rows.schema.names if n not in numbers], store_decimal_as_integer=True,
            column_encoding=dict.fromkeys(numbers, "DELTA_BINARY_PACKED") or None,
        )  # fmt: skip

    def shown(self) -> ByText:
        """Name the rows."""
        self._work.empty("texts")
        spark = connect()
        frame = spark.read.parquet(address(self._good))
        good = self._work.show("good", frame.withColumns(dict(self._constants)) if self._constants else frame)
        refused = None
        if self._refused_rows:
            refused = self._work.show("unread", spark.read.parquet(address(self._refused)))
        return ByText(good, refused, self._rows, self._refused_rows)
