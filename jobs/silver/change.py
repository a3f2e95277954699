"""What a batch is and what it does to a table: the words that joining and revisions share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from jobs.declared.contract import Contract
from jobs.declared.sql import quote


@dataclass(frozen=True)
class Change:
    """What a batch does to a table.

    Attributes:
        view: SELECT of the rows to write, in the table's columns; for `merge` with ``_gone``, true for rows to delete.
        how: `append` needs no look at the table; `merge` replaces and deletes rows by key.
        written: rows of the batch that the table gets.
        on: SQL over the table (alias t) and the view (alias s) by which a merge finds rows.
    """

    view: str
    how: str
    written: int
    unchanged: int = 0
    superseded: int = 0
    refused: int = 0
    refused_rows: str | None = None
    on: str = "true"


@dataclass(frozen=True)
class Incoming:
    """A clean batch.

    Attributes:
        good: SELECT of its rows, one per key (per key and instant for `revisions`), with ``_whole``.
        rows: their number.
        since: the earliest logical date in it.
        instants: how many logical dates it has.
        is_late: whether the table holds rows of that date or a later one; landings of those dates are then all in it.
    """

    good: str
    rows: int
    since: datetime
    instants: int
    is_late: bool = False


def differs(contract: Contract, left: str, right: str) -> str:
    """SQL that is true where two rows with one key differ in any other column."""
    others = [c for c in contract.names if c not in contract.key]
    return "NOT (" + (" AND ".join(f"{left}.{quote(c)} <=> {right}.{quote(c)}" for c in others) or "true") + ")"


