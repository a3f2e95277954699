"""The registry's `refused_batches`: landings that a source's builds need not read again: none of their rows was used.

A version of the table, or its pointer, records the last landing that it was built from. For a batch that leaves
neither, this does.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from jobs.registry.database import reading
from jobs.registry.models import RefusedBatch


@dataclass(frozen=True)
class BatchRefusal:
    """A batch of landings none of whose rows went into the table.

    Valid while the table has that checked version and the source those declarations: with others, rows of the same
    landings may be used.

    Attributes:
        landing_id: number of the batch's newest landing.
        base_version: the checked version that the batch would have been joined to; None if there was none.
        made_by: digest of the declarations by which its rows were judged.
    """

    landing_id: int
    base_version: int | None
    made_by: str


def refused_until(source: str, base_version: int | None, made_by: str) -> int:
    """Number of the newest landing of the batch that was refused under these conditions; 0 if none was."""
    with reading() as session:
        batch = session.get(RefusedBatch, source)
    if batch is None or (batch.base_version, batch.made_by) != (base_version, made_by):
        return 0
    return batch.landing_id


def note_refusal(session: Session, source: str, refusal: BatchRefusal) -> None:
    """Record a source's newest refused batch in place of the previous one."""
    batch = session.get(RefusedBatch, source) or RefusedBatch(source=source)
    batch.landing_id, batch.base_version, batch.made_by = refusal.landing_id, refusal.base_version, refusal.made_by
    session.add(batch)
