"""Who writes a lake that is in an object store."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table of leases."""
    op.create_table(
        "leases",
        sa.Column("lake", sa.String(length=1024), nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("lake", name=op.f("pk_leases")),
    )


def downgrade() -> None:
    """Drop the table of leases."""
    op.drop_table("leases")
