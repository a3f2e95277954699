"""Finds the lines below a table that are no records of it: totals and notes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_LAST = 3
_FEWEST_COLUMNS = 3
_TOTAL = re.compile(
    r"^\W*(grand\s+|sub)?(total|totals|totale|totaal|sum|summe|gesamt|insgesamt|somme|suma|soma|razem|celkem|toplam|"
    r"итого|всего|合计|总计|總計|合計|小计|小計|합계|총계)\W*$",
    re.I,
)


def footers(table: pa.Table, names: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
    """Rules that drop the totals and notes at the end of a sample, whose text stands in no other row.

    A word for totals that stands with all the cells of a record may be a value, such as of sex or region; so may a
    text that comes again.
    """
    rules: list[Mapping[str, Any]] = []
    for row in reversed(table.slice(max(table.num_rows - _LAST, 1)).to_pylist()):
        filled = [n for n in names if (row[n] or "").strip()]
        if not filled:
            continue
        name, text = filled[0], row[filled[0]]
        is_note = len(filled) == 1 and len(names) >= _FEWEST_COLUMNS
        is_total = bool(_TOTAL.match(text)) and _lacks_a_cell(table, names, row)
        if not (is_note or is_total) or _is_repeated(table.column(name), text):
            break
        reason = "totals below the table" if is_total else "a note below the table"
        rules.append({"column": str(name), "values": [text], "reason": reason})
    return tuple(reversed(rules))


def _lacks_a_cell(table: pa.Table, names: Sequence[str], row: Mapping[str, Any]) -> bool:
    """Whether a cell of the row is blank in a column in which most other cells are not."""
    import pyarrow.compute as pc

    blank = [name for name in names if not (row[name] or "").strip()]
    lengths = [pc.binary_length(pc.fill_null(pc.utf8_trim_whitespace(table.column(name)), "")) for name in blank]
    return any(pc.sum(pc.greater(found, 0)).as_py() * 2 > table.num_rows for found in lengths)


def _is_repeated(column: pa.ChunkedArray, text: str) -> bool:
    import pyarrow.compute as pc

    return bool(pc.sum(pc.equal(column, text)).as_py() > 1)
