"""Scheduling for one process: the ledger, the registered tasks, the doorbell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, event, text
from sqlalchemy.orm import Session

from sparkle.clock import Clock
from sparkle.errors import ConfigurationError
from sparkle.errors_tasks import UnknownTaskError
from sparkle.settings import Settings
from sparkle.settings_tasks import TasksSettings
from sparkle.tasks.calls import TaskCall, new_task
from sparkle.tasks.doorbell import CHANNEL, Doorbell
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.record import NewTask, TaskRecord
from sparkle.tasks.registry import LongTask, TaskRegistry, load_task_modules, registry
from sparkle.validation import did_you_mean

OWN_MODULE = "sparkle.tasks.celery_tasks"
"""Sparkle's own tasks."""
_NOTIFY = text(f"NOTIFY {CHANNEL}")
_PENDING_RING = "sparkle_ring"


def open_ledger(settings: Settings, *, clock: Clock | None = None) -> Ledger:
    """The ledger that the settings name. Raises like :meth:`Ledger.open`."""
    tasks = settings.tasks
    return Ledger.open(
        tasks.database_url or settings.data_dir,
        clock=clock,
        synchronous=tasks.sqlite_synchronous,
        max_crashes=tasks.max_crashes,
    )


class Tasks:
    """Schedules long tasks; for several threads. ``sparkle.configure_tasks`` makes the one of a process.

    Args:
        ledger: Where the rows go.
        settings: Limits and defaults.
        known: The registered tasks; ``None``: what ``@long_task`` has filled.
    """

    def __init__(self, ledger: Ledger, settings: TasksSettings, *, known: TaskRegistry | None = None) -> None:
        self.ledger = ledger
        self._settings = settings
        self._known = registry if known is None else known
        self._loaded = False
        self._bell = None
        if ledger.dialect == "sqlite":
            self._bell = Doorbell(Path(str(ledger.engine.url.database)))

    @classmethod
    def open(cls, settings: Settings, *, clock: Clock | None = None) -> Tasks:
        """Open the ledger that the settings name. Raises like :meth:`Ledger.open`."""
        return cls(open_ledger(settings, clock=clock), settings.tasks)

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()
        if self._bell is not None:
            self._bell.close()

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def schedule(
        self, calls: Sequence[TaskCall], *, session: Session | Connection | None = None
    ) -> list[TaskRecord]:
        """Schedule tasks, all or none; see ``schedule_long_task``.

        Args:
            calls: What to run.
            session: The caller's transaction in the ledger's database. ``None``: one of its own, committed on return.
        """
        tasks = self._new_tasks(calls)
        if session is None:
            records = self._add(tasks, None)
            self._ring()
            return records
        if not isinstance(cast("object", session), Session | Connection):
            raise ConfigurationError(
                f"session is a {type(session).__name__}; give a SQLAlchemy Session or Connection, or use "
                "`await schedule_long_task_async(...)` for an async one"
            )
        return self._add_within(session, tasks)

    async def schedule_async(self, calls: Sequence[TaskCall], *, session: Any = None) -> list[TaskRecord]:
        """:meth:`schedule` without blocking the event loop; ``session`` may be an AsyncSession or AsyncConnection."""
        if session is None or isinstance(session, Session | Connection):
            if session is not None:
                # It belongs to this thread, whoever uses it waits for the database here anyway.
                return self.schedule(calls, session=session)
            # The trace and whatever else is bound to the context goes along.
            return await asyncio.to_thread(self.schedule, calls)
        from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

        if not isinstance(session, AsyncSession | AsyncConnection):
            raise ConfigurationError(
                f"session is a {type(session).__name__}; give a SQLAlchemy (Async)Session or (Async)Connection"
            )
        tasks = self._new_tasks(calls)
        work: Callable[[Session | Connection], list[TaskRecord]] = partial(self._add_within, tasks=tasks)
        return await session.run_sync(work)

    def _new_tasks(self, calls: Sequence[TaskCall]) -> list[NewTask]:
        now = self.ledger.now()
        return [new_task(call, self._task_of(call), self._settings, now) for call in calls]

    def _task_of(self, call: TaskCall) -> LongTask[..., Any] | None:
        task = self._known.get(call.name)
        if task is not None or (call.queue is not None and self._loaded):
            return task
        if not self._loaded:
            # Only now: a process that never schedules an unknown name need not import every task.
            load_task_modules((OWN_MODULE, *self._settings.modules))
            self._loaded = True
            task = self._known.get(call.name)
        if task is None and call.queue is None:
            hint = did_you_mean(str(call.name), (known.name for known in self._known))
            raise UnknownTaskError(
                f"no task {call.name!r} is registered{hint}; name its module in SPARKLE_TASKS__MODULES, "
                "or give queue=..."
            )
        return task

    def _add(self, tasks: Sequence[NewTask], connection: Connection | None) -> list[TaskRecord]:
        if self._bell is not None or not tasks:
            return self.ledger.add(tasks, connection=connection)
        # PostgreSQL delivers a notification when its transaction commits, and drops it on a rollback.
        if connection is not None:
            records = self.ledger.add(tasks, connection=connection)
            connection.execute(_NOTIFY)
            return records
        with self.ledger.write() as own:
            records = self.ledger.add(tasks, connection=own)
            own.execute(_NOTIFY)
            return records

    def _add_within(self, session: Session | Connection, tasks: Sequence[NewTask]) -> list[TaskRecord]:
        connection = session.connection() if isinstance(session, Session) else session
        records = self._add(tasks, connection)
        if self._bell is not None:
            self._ring_after(session)
        return records

    def _ring(self) -> None:
        if self._bell is not None:
            self._bell.ring()

    def _ring_after(self, session: Session | Connection) -> None:
        """Ring when the caller commits; listens to a session once, however often tasks are scheduled in it."""
        session.info[_PENDING_RING] = True
        # A connection says so just before the COMMIT: the relay may look a moment too early, and then looks again.
        name = "after_commit" if isinstance(session, Session) else "commit"
        if not event.contains(session, name, self._committed):
            event.listen(session, name, self._committed)

    def _committed(self, session: Session | Connection) -> None:
        # After a rollback the note is still there, and the next commit rings for nothing: that costs a look.
        if session.info.pop(_PENDING_RING, None):
            self._ring()
