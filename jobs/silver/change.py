"""A batch and its effect on a table, as joining and revisions share them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from jobs.declared.contract import Contract
from jobs.declared.sql import quote

# When a version became known and when a later one replaced it, in a table that keeps versions.
PERIOD = ("_known_at", "_superseded_at")


@dataclass(frozen=True)
class Change:
    """What a batch does to a table.

    Attributes:
        view: SELECT of the rows to write, in the table's columns; for `merge` with ``_gone``, true for rows to delete.
        how: `append` only adds rows; `merge` replaces and deletes rows by key.
        written: rows of the batch that reach the table.
        on: SQL over the table (alias t) and the view (alias s) by which a merge matches rows.
        message: what it does to the table, for users.
        held_back: why the newest delivery was not taken; None if it was.
    """

    view: str
    how: str
    written: int
    unchanged: int = 0
    superseded: int = 0
    refused: int = 0
    refused_rows: str | None = None
    on: str = "true"
    message: str | None = None
    held_back: str | None = None


@dataclass(frozen=True)
class Delivery:
    """A landed file that holds a whole list: its tag in the origin columns, its name, its logical date."""

    tag: str
    file_name: str
    at: datetime


@dataclass(frozen=True)
class Incoming:
    """A clean batch.

    Attributes:
        good: SELECT of its rows, one per key (per key and instant for `revisions`), with ``_whole``.
        rows: number of its rows.
        since: the earliest logical date of a landing with readable rows.
        instants: number of its logical dates.
        is_late: whether the table holds rows of that date or later; the batch then has every landing of those dates.
        deliveries: its landings that could be read, without rows as well, oldest first.
        refused_keys: each a SELECT of keys and origins of refused rows; a key that is null could not be read.
    """

    good: str
    rows: int
    since: datetime
    instants: int
    is_late: bool = False
    deliveries: tuple[Delivery, ...] = ()
    refused_keys: tuple[str, ...] = ()


def differs(contract: Contract, left: str, right: str) -> str:
    """SQL that is true where two rows with the same key differ in any other column."""
    others = [c for c in contract.names if c not in contract.key]
    return "NOT (" + (" AND ".join(f"{left}.{quote(c)} <=> {right}.{quote(c)}" for c in others) or "true") + ")"




def instant(at: datetime) -> str:
    """An instant as a SQL literal; sessions use UTC."""
    return f"TIMESTAMP '{at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}'"
