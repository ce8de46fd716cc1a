"""``save_learning_state``: where a student stands, whichever of two messages arrives first."""

from __future__ import annotations

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from sparkle.tasks.own.schema import learning_state


def save(connection: Connection, user_id: str, scope: str, version: int, state: str, now: int) -> bool:
    """Keep ``state`` (JSON) unless a newer version is kept already. False: it is, and nothing was changed."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert = dialect.insert(learning_state).values(
        user_id=user_id, scope=scope, version=version, state=state, saved_at=now
    )
    statement = insert.on_conflict_do_update(
        index_elements=["user_id", "scope"],
        set_={name: insert.excluded[name] for name in ("version", "state", "saved_at")},
        where=learning_state.c.version < insert.excluded.version,
    )
    return connection.execute(statement.returning(learning_state.c.version)).first() is not None
