"""Alembic's entry point: runs on the connection that `ca.store.database.migrate` hands over."""

from alembic import context

from ca.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a table in place
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
