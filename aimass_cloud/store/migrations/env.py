"""Alembic's entry: the caller hands the connection in, inside its transaction. There is no alembic.ini."""

from alembic import context

from aimass_cloud.store.tables import Table

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Table.metadata, render_as_batch=True
)
context.run_migrations()
