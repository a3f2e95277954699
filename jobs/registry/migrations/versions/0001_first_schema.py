"""The first schema: landings, runs, checks, pointers, releases, participants, grants and usage."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Spelled out instead of imported from the models: a revision must stay what it was when the models move on.
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "checks",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("table_name", sa.String(length=255), nullable=False),
        sa.Column("delta_version", sa.BigInteger(), nullable=False),
        sa.Column("contract_digest", sa.String(length=64), nullable=False),
        sa.Column("suite_digest", sa.String(length=64), nullable=False),
        sa.Column("result_sha256", sa.String(length=64), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("grade", sa.String(length=1), nullable=False),
        sa.Column("dimensions", sa.JSON(), nullable=False),
        sa.Column("scope", sa.JSON(), nullable=True),
        sa.Column("run_id", sa.String(length=255), nullable=False),
        sa.Column("checked_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checks")),
    )
    op.create_index(op.f("ix_checks_table_name_delta_version"), "checks", ["table_name", "delta_version"], unique=False)
    op.create_table(
        "landings",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("source", sa.String(length=255), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("published_at", INSTANT, nullable=True),
        sa.Column("fetched_at", INSTANT, nullable=False),
        sa.Column("logical_date", INSTANT, nullable=False),
        sa.Column("run_id", sa.String(length=255), nullable=False),
        sa.Column("loaded_at", INSTANT, nullable=True),
        sa.Column("rows", sa.BigInteger(), nullable=True),
        sa.Column("rows_refused", sa.BigInteger(), nullable=True),
        sa.Column("fault", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_landings")),
        sa.UniqueConstraint("source", "sha256", name=op.f("uq_landings_source_sha256")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_landings_source_id"), "landings", ["source", "id"], unique=False)
    op.create_table(
        "participants",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.CheckConstraint(
            "role in ('provider', 'broker', 'buyer', 'assessor', 'staff')", name=op.f("ck_participants_role")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_participants")),
        sa.UniqueConstraint("name", name=op.f("uq_participants_name")),
    )
    op.create_table(
        "runs",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("run_id", sa.String(length=255), nullable=False),
        sa.Column("step", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("table_name", sa.String(length=255), nullable=True),
        sa.Column("logical_date", INSTANT, nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT, nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("rows_in", sa.BigInteger(), nullable=True),
        sa.Column("rows_out", sa.BigInteger(), nullable=True),
        sa.Column("rows_quarantined", sa.BigInteger(), nullable=True),
        sa.Column("rows_duplicate", sa.BigInteger(), nullable=True),
        sa.Column("rows_dropped", sa.BigInteger(), nullable=True),
        sa.Column("rows_unchanged", sa.BigInteger(), nullable=True),
        sa.Column("rows_superseded", sa.BigInteger(), nullable=True),
        sa.Column("bytes_in", sa.BigInteger(), nullable=True),
        sa.Column("input", sa.JSON(), nullable=True),
        sa.Column("output_version", sa.BigInteger(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.CheckConstraint("kind in ('source', 'product')", name=op.f("ck_runs_kind")),
        sa.CheckConstraint("status in ('running', 'succeeded', 'unchanged', 'failed')", name=op.f("ck_runs_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index(op.f("ix_runs_name_step_started_at"), "runs", ["name", "step", "started_at"], unique=False)
    op.create_index(op.f("ix_runs_run_id"), "runs", ["run_id"], unique=False)
    op.create_table(
        "grants",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("product", sa.String(length=255), nullable=False),
        sa.Column("buyer_id", BIG_KEY, nullable=False),
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("not_before", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.Column("revoked_reason", sa.String(length=512), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.CheckConstraint("not_before < expires_at", name=op.f("ck_grants_period")),
        sa.ForeignKeyConstraint(["buyer_id"], ["participants.id"], name=op.f("fk_grants_buyer_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_grants_token_sha256")),
    )
    op.create_index(op.f("ix_grants_buyer_id_product"), "grants", ["buyer_id", "product"], unique=False)
    op.create_table(
        "pointers",
        sa.Column("table_name", sa.String(length=255), nullable=False),
        sa.Column("delta_version", sa.BigInteger(), nullable=False),
        sa.Column("head_version", sa.BigInteger(), nullable=False),
        sa.Column("check_id", BIG_KEY, nullable=True),
        sa.Column("landing_id", sa.BigInteger(), nullable=True),
        sa.Column("inputs", sa.JSON(), nullable=True),
        sa.Column("contract_digest", sa.String(length=64), nullable=True),
        sa.Column("run_id", sa.String(length=255), nullable=True),
        sa.Column("moved_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["check_id"], ["checks.id"], name=op.f("fk_pointers_check_id")),
        sa.PrimaryKeyConstraint("table_name", name=op.f("pk_pointers")),
    )
    op.create_table(
        "releases",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("product", sa.String(length=255), nullable=False),
        sa.Column("major", sa.Integer(), nullable=False),
        sa.Column("minor", sa.Integer(), nullable=False),
        sa.Column("patch", sa.Integer(), nullable=False),
        sa.Column("delta_version", sa.BigInteger(), nullable=False),
        sa.Column("check_id", BIG_KEY, nullable=True),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("credential", sa.Text(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("grade", sa.String(length=1), nullable=False),
        sa.Column("licence", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("released_at", INSTANT, nullable=False),
        sa.CheckConstraint("status in ('published', 'recalled')", name=op.f("ck_releases_status")),
        sa.ForeignKeyConstraint(["check_id"], ["checks.id"], name=op.f("fk_releases_check_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_releases")),
        sa.UniqueConstraint("product", "major", "minor", "patch", name=op.f("uq_releases_product_major_minor_patch")),
    )
    op.create_table(
        "usage",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("grant_id", BIG_KEY, nullable=True),
        sa.Column("buyer", sa.String(length=255), nullable=True),
        sa.Column("operation", sa.String(length=16), nullable=False),
        sa.Column("product", sa.String(length=255), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=True),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("allowed", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("client", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "operation in ('list', 'version', 'metadata', 'query', 'changes', 'file')", name=op.f("ck_usage_operation")
        ),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"], name=op.f("fk_usage_grant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage")),
        sa.UniqueConstraint("request_id", name=op.f("uq_usage_request_id")),
    )
    op.create_index(op.f("ix_usage_at"), "usage", ["at"], unique=False)
    op.create_index(op.f("ix_usage_buyer_product"), "usage", ["buyer", "product"], unique=False)


def downgrade() -> None:
    """Drop every table."""
    op.drop_index(op.f("ix_usage_buyer_product"), table_name="usage")
    op.drop_index(op.f("ix_usage_at"), table_name="usage")
    op.drop_table("usage")
    op.drop_table("releases")
    op.drop_table("pointers")
    op.drop_index(op.f("ix_grants_buyer_id_product"), table_name="grants")
    op.drop_table("grants")
    op.drop_index(op.f("ix_runs_run_id"), table_name="runs")
    op.drop_index(op.f("ix_runs_name_step_started_at"), table_name="runs")
    op.drop_table("runs")
    op.drop_table("participants")
    op.drop_index(op.f("ix_landings_source_id"), table_name="landings")
    op.drop_table("landings")
    op.drop_index(op.f("ix_checks_table_name_delta_version"), table_name="checks")
    op.drop_table("checks")
