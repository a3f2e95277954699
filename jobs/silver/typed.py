"""Types a batch's rows, either whole or by their distinct texts, and tells good ones from refused ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.bronze.step import table_of
from jobs.declared.sql import quote
from jobs.errors import ExchangeError
from jobs.lake import ORIGIN, connect
from jobs.lake.by_text import ByText, stage_by_text
from jobs.registry.models import Landing
from jobs.silver.split import Split, refused_records
from jobs.silver.texts import plan_of

if TYPE_CHECKING:
    from pyspark.sql import Column


@dataclass(frozen=True)
class Typed:
    """A batch's typed rows.

    Attributes:
        good: SELECT of the rows that no rule refuses: the contract's columns and the origin columns.
        refused_rows: SELECT of the refused rows and the unreadable records, in quarantine's columns.
        rows: number of good rows.
        refused: number of refused rows, without unreadable records.
        dropped: number of rows that the declaration drops, or that silver.sql leaves out.
        remarks: what became of local times that do not exist or come twice.
        refused_keys: SELECT of the refused rows with their keys, where these have their types; None if none is refused.
    """

    good: str
    refused_rows: str
    rows: int
    refused: int
    dropped: int = 0
    refused_keys: str | None = None
    remarks: tuple[str, ...] = ()


def type_rows(split: Split, landings: Sequence[Landing], constants: Mapping[str, Column]) -> Typed:
    """Type the readable rows of some landings, which are the rows of the workspace's view `bronze`.

    Args:
        split: the SQL that does it.
        landings: the landings.
        constants: origin columns that are the same for all rows, as literals.
    """
    plan = plan_of(split)
    if plan:
        tags = {"_landing_sha256": {x.tag for x in landings}}
        found = stage_by_text(split.work, table_of(split.source), tags, plan, constants=constants)
        if found:
            return _by_text(split, found)
    return _whole(split, constants)


def _by_text(split: Split, found: ByText) -> Typed:
    columns = ", ".join(map(quote, (*split.contract.names, *ORIGIN)))
    good = f"SELECT {columns} FROM {found.good}"
    if not found.refused:
        return Typed(good, refused_records(split.work), found.rows, 0)
    # Refused rows are few, and quarantine shows more of them than their texts' values.
    of_refused = replace(split, rows="unread")
    split.work.stage("typed", of_refused.typed)
    cells, bad = _counted(split)
    if cells != bad or bad != found.refused_rows:
        raise ExchangeError(
            f"of {found.refused_rows} rows of {split.source.table} that are refused by their texts, {cells - bad} pass"
            " when read again, so nothing was written",
            expected="transformLogic and rules that always give the same result for the same text",
            next_step=f"look in {split.contract.file} for one that does not",
        )
    return Typed(good, of_refused.refused, found.rows, bad, refused_keys=of_refused.refused_keys)


def _whole(split: Split, constants: Mapping[str, Column]) -> Typed:
    split = split.spanned()
    split.work.stage("typed", split.typed, constants=constants)
    cells, bad = _counted(split)
    refused_keys = split.refused_keys if bad else None
    remarks = split.local.remarks(split.work.view("typed"))
    return Typed(split.good, split.refused, cells - bad, bad, _dropped(split), refused_keys, remarks)


def _counted(split: Split) -> tuple[int, int]:
    cells, bad = connect().sql(f"SELECT count(*), count(_rule) FROM {split.work.view('typed')}").collect()[0]
    return cells, bad


def _dropped(split: Split) -> int:
    """Number of rows declared to be dropped, and of records that silver.sql leaves out."""
    spark = connect()
    dropped = 0
    if split.source.silver_sql:
        dropped += spark.sql(
            f"SELECT count(*) FROM {split.work.view('bronze')} b LEFT ANTI JOIN ({split.reshaped}) r"
            " ON b._row = r._row AND b._file = r._file"
            " AND b._landing_sha256 = r._landing_sha256 WHERE b._refused IS NULL"
        ).collect()[0][0]
    if split.dropped:
        dropped += spark.sql(f"SELECT count(*) AS n FROM ({split.reshaped}) WHERE {split.dropped}").collect()[0]["n"]
    return dropped
