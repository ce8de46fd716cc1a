"""Looking things up: pages, counts, size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Select, TextClause, func, select, text

from sparkle.errors import InvalidRequestError
from sparkle.tasks.ledger.base import LedgerBase
from sparkle.tasks.ledger.rows import record_of
from sparkle.tasks.ledger.schema import task as table
from sparkle.tasks.ledger.statements import COLUMNS
from sparkle.tasks.record import Count, LedgerSize, Page, TaskFilter
from sparkle.tasks.states import TaskMode, TaskState

MAX_PAGE = 1_000
Condition = ColumnElement[bool] | TextClause
_SELECT = select(*(table.c[name] for name in COLUMNS))
_TABLES = ("sparkle_task", "sparkle_owner", "sparkle_role", "sparkle_pace", "sparkle_ledger")


class Queries(LedgerBase):
    """``find``, ``counts``, ``size``."""

    def find(self, where: TaskFilter | None = None, *, cursor: str | None = None, limit: int = 50) -> Page:
        """A page of tasks, newest first.

        It goes on from an id, not from a number of rows to skip: the hundredth page costs what the first does, and a
        task that comes in between moves nothing.

        Args:
            where: Which tasks; ``None``: all.
            cursor: ``next_cursor`` of the page before.
            limit: 1 to 1,000.

        Raises:
            InvalidRequestError: ``limit`` is out of range.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequestError(f"limit must be 1 to {MAX_PAGE}", param="limit")
        statement = _SELECT.where(*_conditions(where or TaskFilter()))
        if cursor is not None:
            statement = statement.where(table.c.id < cursor)
        statement = _ordered(statement).limit(limit + 1)
        with self.read() as connection:
            records = [record_of(row) for row in connection.execute(statement)]
        more = len(records) > limit
        return Page(tuple(records[:limit]), records[limit - 1].id if more else None)

    def dead_letters(self) -> dict[str, int]:
        """How many tasks lie in the dead letter, by name."""
        with self.read() as connection:
            return {name: count for name, count in self._run(connection, "dead_letters")}

    def paces(self) -> dict[str, tuple[float, int]]:
        """By task name: milliseconds an attempt takes lately (a moving average), and how many have run to an end."""
        with self.read() as connection:
            return {name: (pace, runs) for name, pace, runs in self._run(connection, "all_paces")}

    def counts(self, *, finished: bool = True) -> list[Count]:
        """How many tasks there are by mode, state, queue and name.

        Reads indexes only, but all of their entries: about a second for a million tasks. Who asks often asks without
        finished ones.

        Args:
            finished: Count finished ones too.
        """
        found: list[Count] = []
        with self.read() as connection:
            for name, mode in _UNFINISHED_COUNTS:
                found += (
                    Count(mode, TaskState(state), queue, task, count)
                    for state, queue, task, count in self._run(connection, name)
                )
            if finished:
                found += (
                    Count(TaskMode(mode), TaskState(state), queue, task, count)
                    for mode, state, queue, task, count in self._run(connection, "count_finished")
                )
        return sorted(found, key=lambda count: (count.mode, count.state, count.queue, count.name))

    def size(self) -> LedgerSize:
        """How many tasks the ledger holds and how many bytes it takes."""
        with self.read() as connection:
            if self._dialect == "postgresql":
                tables = [
                    connection.execute(
                        text("SELECT pg_total_relation_size(to_regclass(:name))"), {"name": name}
                    )
                    for name in _TABLES
                ]
                estimate = connection.execute(
                    text("SELECT reltuples FROM pg_class WHERE oid = to_regclass('sparkle_task')")
                ).scalar_one()
                tasks = int(estimate)
                if tasks < 0:  # never analysed
                    tasks = int(connection.execute(select(func.count()).select_from(table)).scalar_one())
                return LedgerSize(tasks, sum(int(result.scalar_one() or 0) for result in tables), 0)
            tasks = int(connection.execute(select(func.count()).select_from(table)).scalar_one())
            pages, page_size, free = (
                int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
                for name in ("page_count", "page_size", "freelist_count")
            )
        wal = Path(f"{self._engine.url.database}-wal")
        written = wal.stat().st_size if wal.exists() else 0
        return LedgerSize(tasks, pages * page_size + written, free * page_size)


_UNFINISHED_COUNTS = (
    ("count_pending", TaskMode.LONG),
    ("count_queued", TaskMode.LONG),
    ("count_running", TaskMode.LONG),
    ("count_short", TaskMode.SHORT),
)


def _conditions(where: TaskFilter) -> list[Condition]:
    found: list[Condition] = []
    if where.user_id is not None:
        found.append(table.c.user_id == where.user_id)
    if where.name is not None:
        found.append(table.c.name == where.name)
    if where.queue is not None:
        found.append(table.c.queue == where.queue)
    if where.mode is not None:
        found.append(table.c.mode == where.mode.value)
    if where.states:
        found.append(_state_in(where))
    # An id begins with its millisecond, so a bound on the time is a bound on the id, and the index serves it too.
    if where.created_from is not None:
        found += [table.c.created_at >= where.created_from, table.c.id >= _id_at(where.created_from)]
    if where.created_before is not None:
        found.append(table.c.created_at < where.created_before)
    return found


def _state_in(where: TaskFilter) -> Condition:
    if where.states == frozenset({TaskState.FAILED}):
        # Word for word as in the index of dead letters; a column of type Boolean would become "(...) = 1".
        return text("state = 'failed'")
    return table.c.state.in_(sorted(state.value for state in where.states))


def _id_at(microseconds: int) -> str:
    # A second earlier: ids of one process never step back, even when its clock does a little.
    number = f"{max(0, microseconds // 1000 - 1000):012x}"
    return f"{number[:8]}-{number[8:]}"


def _ordered(statement: Select[Any]) -> Select[Any]:
    return statement.order_by(table.c.id.desc())
