"""A cache in the ledger's database, and ``invalidate_cache``: what a transaction changes leaves it with the commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, Connection, delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from sparkle.tasks.own.schema import cache_entry, cache_tag

_CHUNK = 500
"""Keys in one statement."""


def put(
    connection: Connection, key: str, value: str, *, tags: Iterable[str] = (), expires_at: int | None = None
) -> None:
    """Keep ``value`` (any text) under ``key``; ``expires_at`` in microseconds since the epoch."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert = dialect.insert(cache_entry).values(key=key, value=value, expires_at=expires_at)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=["key"],
            set_={"value": insert.excluded.value, "expires_at": insert.excluded.expires_at},
        )
    )
    connection.execute(delete(cache_tag).where(cache_tag.c.key == key))
    rows = [{"tag": tag, "key": key} for tag in sorted(set(tags))]
    if rows:
        connection.execute(cache_tag.insert(), rows)


def get(connection: Connection, key: str, now: int) -> str | None:
    """What is kept under ``key`` and not expired at ``now`` (microseconds since the epoch)."""
    fresh = or_(cache_entry.c.expires_at.is_(None), cache_entry.c.expires_at > now)
    return connection.execute(
        select(cache_entry.c.value).where(cache_entry.c.key == key, fresh)
    ).scalar_one_or_none()


def invalidate(
    connection: Connection,
    *,
    keys: Sequence[str] = (),
    tags: Sequence[str] = (),
    prefix: str = "",
    expired_at: int | None = None,
) -> int:
    """Forget entries with one of ``keys`` or ``tags``, keys that begin with ``prefix``, and those expired at a time.

    Returns:
        How many entries were forgotten.
    """
    forgotten = 0
    for at in range(0, len(keys), _CHUNK):
        forgotten += _forget(connection, cache_entry.c.key.in_(list(keys[at : at + _CHUNK])))
    for at in range(0, len(tags), _CHUNK):
        tagged = select(cache_tag.c.key).where(cache_tag.c.tag.in_(list(tags[at : at + _CHUNK])))
        forgotten += _forget(connection, cache_entry.c.key.in_(tagged))
    if prefix:
        # Not LIKE: SQLite's does not tell A from a.
        forgotten += _forget(connection, func.substr(cache_entry.c.key, 1, len(prefix)) == prefix)
    if expired_at is not None:
        forgotten += _forget(connection, cache_entry.c.expires_at <= expired_at)
    return forgotten


def _forget(connection: Connection, which: ColumnElement[bool]) -> int:
    chosen = select(cache_entry.c.key).where(which).limit(_CHUNK)
    forgotten = 0
    while keys := connection.execute(chosen).scalars().all():
        # The tags too: SQLite deletes them by itself only for connections that asked it to.
        connection.execute(delete(cache_tag).where(cache_tag.c.key.in_(keys)))
        forgotten += connection.execute(delete(cache_entry).where(cache_entry.c.key.in_(keys))).rowcount
    return forgotten
