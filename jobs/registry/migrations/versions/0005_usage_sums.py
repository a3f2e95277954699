"""Sums of refused requests and of old usage, and the indexes by which a request finds its release.

Downgrading drops the sums, and with them the record of requests older than those kept one by one.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create both tables and the indexes."""
    op.create_table(
        "usage_days",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("grant_id", BIG_KEY, nullable=True),
        sa.Column("buyer", sa.String(length=255), nullable=True),
        sa.Column("operation", sa.String(length=16), nullable=False),
        sa.Column("product", sa.String(length=255), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=True),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("denied", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("first_at", INSTANT, nullable=False),
        sa.Column("last_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"], name=op.f("fk_usage_days_grant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage_days")),
    )
    op.create_index(op.f("ix_usage_days_day"), "usage_days", ["day"], unique=False)
    op.create_index(op.f("ix_usage_days_buyer_product"), "usage_days", ["buyer", "product"], unique=False)
    op.create_table(
        "refused_requests",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("first_at", INSTANT, nullable=False),
        sa.Column("last_at", INSTANT, nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("operation", sa.String(length=16), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refused_requests")),
    )
    op.create_index(op.f("ix_refused_requests_first_at"), "refused_requests", ["first_at"], unique=False)
    for column in ("delta_version", "released_at"):
        op.create_index(
            op.f(f"ix_releases_product_status_{column}"), "releases", ["product", "status", column], unique=False
        )


def downgrade() -> None:
    """Drop them."""
    for column in ("released_at", "delta_version"):
        op.drop_index(op.f(f"ix_releases_product_status_{column}"), table_name="releases")
    op.drop_index(op.f("ix_refused_requests_first_at"), table_name="refused_requests")
    op.drop_table("refused_requests")
    op.drop_index(op.f("ix_usage_days_buyer_product"), table_name="usage_days")
    op.drop_index(op.f("ix_usage_days_day"), table_name="usage_days")
    op.drop_table("usage_days")
