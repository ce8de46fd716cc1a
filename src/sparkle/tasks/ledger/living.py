"""Processes that say they live, roles that one of them has, short tasks they write down, and housekeeping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy.dialects import postgresql, sqlite

from sparkle.tasks.ledger.base import MICROSECONDS, LedgerBase
from sparkle.tasks.ledger.engine import database_errors
from sparkle.tasks.ledger.rows import row_of
from sparkle.tasks.ledger.schema import task as table
from sparkle.tasks.record import Owner, TaskRecord
from sparkle.tasks.states import FINISHED, TaskState

_FORGET_OWNERS = 86_400 * MICROSECONDS
_VACUUM_PAGES = 256
"""Free pages given back in one step: 1 MiB, some milliseconds."""
# The request to cancel is somebody else's word: a process that writes its own view must not wipe it out.
_MUTABLE = [
    column.name for column in table.c if column.name not in {"id", "mode", "created_at", "cancel_requested"}
]


def _upsert(dialect: str) -> Any:
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    return statement.on_conflict_do_update(
        index_elements=["id"], set_={name: statement.excluded[name] for name in _MUTABLE}
    )


_UPSERTS = {dialect: _upsert(dialect) for dialect in ("sqlite", "postgresql")}


class Living(LedgerBase):
    """``write_short``, ``announce``, ``acquire``, ``purge``, ``checkpoint``."""

    def write_short(self, records: Sequence[TaskRecord]) -> None:
        """Insert short tasks, or replace what is known of them; one transaction.

        ``lease_owner`` is the id that their process announced. Of two records of one task the later one counts.
        """
        latest = {record.id: record for record in records}
        if latest:
            rows = [row_of(latest[id]) for id in sorted(latest)]
            with self._writing() as connection:
                connection.execute(_UPSERTS[self._dialect], rows)

    def announce(
        self, owner: str, kind: str, alive_seconds: float, *, info: Mapping[str, Any] | None = None
    ) -> None:
        """Say that a process lives, and will for ``alive_seconds``.

        Args:
            owner: Its id, one for each process ever started.
            kind: ``worker``, ``relay``, ``beat`` or ``manager``.
            alive_seconds: Announce again well before that.
            info: JSON-able facts for people: host, pid, version.
        """
        now = self.now()
        with self._writing() as connection:
            self._run(
                connection,
                "announce",
                id=owner,
                kind=kind,
                now=now,
                until=now + int(alive_seconds * MICROSECONDS),
                info=msgspec.json.encode(info or {}).decode(),
            )

    def leave(self, owner: str) -> None:
        """Say that a process ends in order."""
        with self._writing() as connection:
            self._run(connection, "leave", id=owner)

    def owners(self, kind: str | None = None) -> list[Owner]:
        """Processes that announced themselves and did not leave; dead ones stay for a day."""
        with self.read() as connection:
            rows = self._run(connection, "owners").all()
        return [
            Owner(
                row.id, row.kind, row.started_at, row.seen_at, row.alive_until, msgspec.json.decode(row.info)
            )
            for row in rows
            if kind in (None, row.kind)
        ]

    def acquire(self, role: str, owner: str, seconds: float) -> bool:
        """Take, or keep, a role that one process at a time has.

        Args:
            role: ``relay``, ``beat``.
            owner: Who asks.
            seconds: It is theirs for so long; whoever stands by gets it after that.

        Returns:
            Whether ``owner`` has it now.
        """
        now = self.now()
        until = now + int(seconds * MICROSECONDS)
        with self._writing() as connection:
            result = self._run(connection, "acquire", role=role, owner=owner, now=now, until=until)
            return result.one_or_none() is not None

    def relinquish(self, role: str, owner: str) -> None:
        """Give a role up, so that whoever stands by has it at once."""
        with self._writing() as connection:
            self._run(connection, "relinquish", role=role, owner=owner)

    def purge(
        self, finished_before: int, *, states: frozenset[TaskState] = FINISHED, batch: int = 500
    ) -> int:
        """Delete finished tasks, a few at a time so that no writer waits for long.

        With a task go its idempotency key and its schedule tick: the same key makes a new task afterwards.

        Args:
            finished_before: Microseconds since the epoch.
            states: Which finished states.
            batch: At most so many.

        Returns:
            How many were deleted; call again until it says 0.
        """
        deleted = 0
        for state in sorted(states & FINISHED):
            with self._writing() as connection:
                deleted += self._run(
                    connection, "purge", state=state.value, before=finished_before, batch=batch - deleted
                ).rowcount
            if deleted >= batch:
                break
        return deleted

    def checkpoint(self) -> None:
        """Keep the files small: call it every few seconds from a process that may wait, such as the relay.

        SQLite: copies what was written into the database file, so that no caller has to, and gives some free pages
        back to the disk. PostgreSQL does both by itself. Forgets processes that died a day ago.
        """
        with self._writing() as connection:
            self._run(connection, "forget_owners", before=self.now() - _FORGET_OWNERS)
            if self._dialect == "sqlite":
                free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
                if free > _VACUUM_PAGES:
                    connection.exec_driver_sql(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").all()
        if self._dialect != "sqlite":
            return
        with database_errors():
            raw = self._engine.raw_connection()
        try:
            db: Any = raw.driver_connection
            with database_errors():
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        finally:
            raw.close()
