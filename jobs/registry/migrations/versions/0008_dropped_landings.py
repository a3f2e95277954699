"""Who dropped a landed file, when and why. Downgrading drops these records: the files come back into their tables."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns for dropped landings."""
    op.add_column("landings", sa.Column("dropped_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("landings", sa.Column("dropped_by", sa.String(length=255), nullable=True))
    op.add_column("landings", sa.Column("drop_reason", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop them."""
    for name in ("drop_reason", "dropped_by", "dropped_at"):
        op.drop_column("landings", name)
