"""Which landings a source's builds need not read again, because no row of them could be used.

Silver runs used to keep this in the JSON of their input; the newest such run of each source is carried over.
Downgrading drops it, which costs one build per source: it reads and refuses those landings again.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_RUNS = sa.table(
    "runs", sa.column("id", sa.BigInteger), sa.column("name", sa.String), sa.column("step", sa.String),
    sa.column("status", sa.String), sa.column("input", sa.JSON),
)  # fmt: skip


def upgrade() -> None:
    """Create the table of refused batches, and fill it from the record of runs."""
    table = op.create_table(
        "refused_batches",
        sa.Column("source", sa.String(length=255), nullable=False),
        sa.Column("landing_id", sa.BigInteger(), nullable=False),
        sa.Column("base_version", sa.BigInteger(), nullable=True),
        sa.Column("made_by", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_refused_batches")),
    )
    ended = sa.select(_RUNS.c.name, _RUNS.c.input).where(
        _RUNS.c.step == "silver", _RUNS.c.status.in_(("failed", "unchanged"))
    )
    newest: dict[str, dict[str, Any]] = {}
    for source, inputs in op.get_bind().execute(ended.order_by(_RUNS.c.id)):
        if inputs and inputs.get("refused"):
            newest[source] = {
                "source": source, "landing_id": inputs["landing_id"], "base_version": inputs.get("base"),
                "made_by": inputs.get("made_by") or "",
            }  # fmt: skip
    op.bulk_insert(table, list(newest.values()))


def downgrade() -> None:
    """Drop the table of refused batches."""
    op.drop_table("refused_batches")
