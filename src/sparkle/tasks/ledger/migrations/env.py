"""Runs the revisions on the connection that ``sparkle.tasks.ledger.migrate`` hands over."""

from __future__ import annotations

from alembic import context

from sparkle.tasks.ledger.migrate import VERSION_TABLE
from sparkle.tasks.own.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    # SQLite cannot alter a table in place; this lets a revision rebuild it.
    render_as_batch=True,
    # The caller's transaction is the one that counts.
    transactional_ddl=False,
)
context.run_migrations()
