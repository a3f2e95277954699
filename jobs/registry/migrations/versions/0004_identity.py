"""Which registry this is: a home remembers it, so that an empty or another database beside its lake is noticed.

Downgrading drops it; the next upgrade gives the registry another identity, which its home then takes over.
"""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table of the identity, with its one row."""
    table = op.create_table(
        "identity",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity")),
    )
    op.bulk_insert(table, [{"id": str(uuid.uuid4())}])


def downgrade() -> None:
    """Drop the table of the identity."""
    op.drop_table("identity")
