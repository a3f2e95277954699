"""Every arrival of a file counts, also of bytes that arrived before; until now, bytes were recorded once per source.

Downgrading keeps the first arrival of each file's bytes. What tables hold of later ones stays until they are rebuilt.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_SEQUENCES = sa.table("sqlite_sequence", sa.column("name", sa.String), sa.column("seq", sa.Integer))


def upgrade() -> None:
    """Number the arrivals of the same bytes; each file recorded so far arrived once."""
    with _numbers_kept(), op.batch_alter_table("landings", table_kwargs={"sqlite_autoincrement": True}) as table:
        table.add_column(sa.Column("arrival", sa.Integer(), nullable=False, server_default="1"))
        table.drop_constraint(op.f("uq_landings_source_sha256"), type_="unique")
        table.create_unique_constraint(op.f("uq_landings_source_sha256_arrival"), ["source", "sha256", "arrival"])


def downgrade() -> None:
    """Drop all arrivals but the first of the same bytes."""
    op.execute("DELETE FROM landings WHERE arrival > 1")
    with _numbers_kept(), op.batch_alter_table("landings", table_kwargs={"sqlite_autoincrement": True}) as table:
        table.drop_constraint(op.f("uq_landings_source_sha256_arrival"), type_="unique")
        table.drop_column("arrival")
        table.create_unique_constraint(op.f("uq_landings_source_sha256"), ["source", "sha256"])


@contextmanager
def _numbers_kept() -> Iterator[None]:
    """Keep the last number given to a landing: where SQLite copies the table, that of a deleted one would be reused."""
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        yield
        return
    own = _SEQUENCES.c.name == "landings"
    last = connection.scalar(sa.select(_SEQUENCES.c.seq).where(own))
    yield
    if last is not None:
        connection.execute(sa.delete(_SEQUENCES).where(own))
        connection.execute(sa.insert(_SEQUENCES).values(name="landings", seq=last))
