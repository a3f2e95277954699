"""Run by Alembic for every migration; the connection comes from the caller, and there is no configuration file."""

from alembic import context

from jobs.registry.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite cannot alter most of a table: Alembic then copies it.
    render_as_batch=True,
    # Alembic assumes that SQLite cannot roll back DDL; it can, so a killed migration leaves nothing half done.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
