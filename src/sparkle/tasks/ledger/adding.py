"""Adding tasks: one row each, in a transaction of the ledger's own or in the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from sparkle.errors import IdempotencyConflictError
from sparkle.errors_tasks import ForeignSessionError, LedgerUnavailableError
from sparkle.tasks.ledger.base import LedgerBase, json
from sparkle.tasks.ledger.engine import database_errors
from sparkle.tasks.ledger.rows import new_record, new_row, record_of
from sparkle.tasks.ledger.schema import task as table
from sparkle.tasks.record import NewTask, TaskRecord

_INSERT = table.insert()
_COLUMNS = tuple(new_row(new_record(NewTask(name="", queue=""), "", 0)))
# The same in words: for a single task, SQLAlchemy's way to this text takes longer than SQLite takes to write the row.
_SQLITE_INSERT = f"INSERT INTO {table.name} ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608  names of ours
_INSERT_ONCE = {
    "sqlite": sqlite.insert(table).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(table).on_conflict_do_nothing(),
}
_ROUNDS = 5
"""How often an insert is tried whose rival has vanished when one looks for it."""


class Adding(LedgerBase):
    """``add``."""

    def add(self, tasks: Sequence[NewTask], *, connection: Connection | None = None) -> list[TaskRecord]:
        """Add long tasks; all or none.

        Args:
            tasks: What to add, any number.
            connection: The caller's transaction in the ledger's database: the tasks exist when it commits, and never
                did when it rolls back. ``None``: a transaction of its own, committed on return.

        Returns:
            One record for each, in the same order. Where a task with the same idempotency key (of the same user), the
            same schedule tick, or an unfinished one with the same unique key exists, that one's record.

        Raises:
            IdempotencyConflictError: The idempotency key was used for a task of another name.
            ForeignSessionError: ``connection`` belongs to another database.
            LedgerUnavailableError: The database does not answer.
        """
        if not tasks:
            return []
        now = self.now()
        records = [new_record(task, self._ids(), now) for task in tasks]
        if connection is not None:
            with database_errors():
                self._must_be_own(connection)
                return self._add(connection, records)
        with self._writing() as own:
            return self._add(own, records)

    def _add(self, connection: Connection, records: list[TaskRecord]) -> list[TaskRecord]:
        if not any(_keyed(record) for record in records):
            rows = [new_row(record) for record in records]
            if connection.dialect.name == "sqlite" and connection.dialect.paramstyle == "qmark":
                connection.exec_driver_sql(_SQLITE_INSERT, [tuple(row.values()) for row in rows])
            else:
                connection.execute(_INSERT, rows)
            return records
        return self._add_once(connection, records)

    def _add_once(self, connection: Connection, records: list[TaskRecord]) -> list[TaskRecord]:
        insert = _INSERT_ONCE[connection.dialect.name]
        # In one order of keys, so that two batches never wait for each other in a circle.
        missing = sorted(records, key=_keys)
        settled: dict[str, TaskRecord] = {}
        for _ in range(_ROUNDS):
            connection.execute(insert, [new_row(record) for record in missing])
            ids = json([record.id for record in missing])
            present: set[str] = {row[0] for row in self._run(connection, "present_ids", ids=ids)}
            still: list[TaskRecord] = []
            for record in missing:
                try:
                    found = record if record.id in present else self._rival(connection, record)
                except IdempotencyConflictError:
                    # All or none, also where the caller goes on with the transaction.
                    ids = json([record.id for record in records])
                    self._run(connection, "withdraw", ids=ids)
                    raise
                if found is None:
                    still.append(record)
                else:
                    settled[record.id] = found
            if not still:
                return [settled[record.id] for record in records]
            # The rival ended, or was purged, between our insert and our look.
            missing = still
        raise LedgerUnavailableError(
            "tasks with the same keys come and go too quickly; try again", retry_after=1.0
        )

    def _rival(self, connection: Connection, record: TaskRecord) -> TaskRecord | None:
        """The task that kept ``record`` from being inserted, if it is still there."""
        if record.idempotency_key is not None:
            found = self._one(
                connection,
                "by_idempotency_key",
                user_id=record.user_id or "",
                idempotency_key=record.idempotency_key,
            )
            if found is not None:
                if found.name != record.name:
                    raise IdempotencyConflictError(
                        f"the idempotency key of this {record.name!r} task was used for a {found.name!r} task; "
                        "use another key",
                        param="idempotency_key",
                    )
                return found
        if record.schedule is not None:
            found = self._one(connection, "by_schedule", schedule=record.schedule)
            if found is not None:
                return found
        if record.unique_key is not None:
            return self._one(connection, "by_unique_key", unique_key=record.unique_key)
        return None

    def _one(self, connection: Connection, name: str, **values: Any) -> TaskRecord | None:
        row = self._run(connection, name, **values).one_or_none()
        return None if row is None else record_of(row)

    def _must_be_own(self, connection: Connection) -> None:
        """Refuse a connection to another database; asked once per engine."""
        engine = connection.engine
        if engine is self._engine or engine in self._own_engines:
            return
        if connection.dialect.name != self._dialect:
            raise ForeignSessionError(
                f"the session speaks to {connection.dialect.name}, the ledger lives in {self._dialect}; schedule "
                "without the session, or set SPARKLE_TASKS__DATABASE_URL to the session's database"
            )
        # PostgreSQL: a missing table must not spoil the caller's transaction. SQLite has no such trouble, and there the
        # end of a savepoint could be the end of a transaction that has not begun.
        savepoint = connection.begin_nested() if self._dialect == "postgresql" else nullcontext()
        try:
            with savepoint:
                found = self._run(connection, "ledger_id").scalar_one_or_none()
        except DBAPIError:
            found = None
        if found is None or found != self.ledger_id():
            raise ForeignSessionError
        self._own_engines.add(engine)

    def ledger_id(self) -> str:
        """Tells this ledger from every other one."""
        if self._id is None:
            with self.read() as connection:
                self._id = str(self._run(connection, "ledger_id").scalar_one())
        return self._id


def _keyed(record: TaskRecord) -> bool:
    return record.idempotency_key is not None or record.unique_key is not None or record.schedule is not None


def _keys(record: TaskRecord) -> tuple[str, str, str, str]:
    return (
        record.user_id or "",
        record.idempotency_key or "",
        record.unique_key or "",
        record.schedule or "",
    )
