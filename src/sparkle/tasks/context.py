"""What a running task may ask of the worker that runs it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from sparkle.errors import NoCurrentTaskError, TaskCancelledError, TaskError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from sparkle.tasks.record import TaskRecord

_NOTE_CHARACTERS = 200


class TaskRuntime(Protocol):
    """What a worker does for a task while it runs."""

    def open_transaction(self) -> Connection:
        """Begin the transaction that will complete the task."""
        ...

    def open_reading(self) -> AbstractContextManager[Connection]:
        """A read transaction of the ledger's database."""
        ...

    def note_progress(self, progress: float, note: str | None) -> None:
        """Keep this progress for the next heartbeat."""
        ...

    def cancel_requested(self) -> bool:
        """Whether somebody cancelled the task."""
        ...


class TaskContext:
    """The running task. :func:`current_task` returns it."""

    __slots__ = ("_callbacks", "_connection", "_runtime", "is_async", "record")

    def __init__(self, record: TaskRecord, runtime: TaskRuntime, *, is_async: bool) -> None:
        self.record = record
        """The ledger's row as it was when this attempt began."""
        self.is_async = is_async
        self._runtime = runtime
        self._connection: Connection | None = None
        self._callbacks: list[Callable[[Connection], Any]] = []

    @property
    def id(self) -> str:
        """The task's id."""
        return self.record.id

    @property
    def name(self) -> str:
        """The task's name."""
        return self.record.name

    @property
    def user_id(self) -> str:
        """For whom the task runs; empty for nobody in particular."""
        return self.record.user_id or ""

    @property
    def attempt(self) -> int:
        """Number of this attempt; the first is 1."""
        return self.record.attempt

    @property
    def max_attempts(self) -> int:
        """How many attempts there may be."""
        return self.record.max_attempts

    @property
    def idempotency_token(self) -> str:
        """The same for every attempt of this task: hand it to outside services, so that a second attempt is known."""
        return self.record.id

    def report_progress(self, progress: float, note: str | None = None) -> None:
        """Show how far the task is. Cheap: the last report goes to the ledger with the next heartbeat.

        Args:
            progress: 0.0 to 1.0; values outside are clipped.
            note: A few words for a person, cut at 200 characters; ``None`` keeps the one before.
        """
        self._runtime.note_progress(
            min(max(float(progress), 0.0), 1.0), None if note is None else note[:_NOTE_CHARACTERS]
        )

    def connection(self) -> Connection:
        """The transaction that also completes the task: what is written there happens exactly once.

        It begins at the first call and ends with the task: committed together with the completion, rolled back when
        the task fails, is cancelled, or has lost its lease. On SQLite it holds the database's only write lock, so
        compute first and write last. Only for plain functions; an ``async`` one uses :meth:`on_completion`, because a
        lock held over an ``await`` would stop every other task of the loop.

        Raises:
            TaskError: The task is ``async``.
        """
        if self.is_async:
            raise TaskError(
                "connection() would hold the ledger's write lock over an await; in an async task hand your writes to "
                "current_task().on_completion(lambda connection: ...)"
            )
        if self._connection is None:
            self._connection = self._runtime.open_transaction()
        return self._connection

    def reading(self) -> AbstractContextManager[Connection]:
        """A read transaction of the ledger's database, for what the task must know before it computes.

        It holds nobody up and sees one state of the data; it is not the transaction of :meth:`connection`.
        """
        return self._runtime.open_reading()

    def on_completion(self, write: Callable[[Connection], Any]) -> None:
        """Call ``write(connection)`` inside the transaction that completes the task, after its function returned.

        What it writes happens exactly once. If it raises, the transaction is rolled back and the attempt has failed.
        In the order of registration; plain and ``async`` tasks alike.
        """
        self._callbacks.append(write)

    def check_cancelled(self) -> None:
        """Raise if somebody cancelled the task; for long loops of plain functions that want to stop at a good place.

        Raises:
            TaskCancelledError: The task was cancelled.
        """
        if self._runtime.cancel_requested():
            raise TaskCancelledError(f"task {self.id} was cancelled")

    @property
    def opened(self) -> Connection | None:
        """The transaction of :meth:`connection`, if the task has begun it. For the worker."""
        return self._connection

    @property
    def has_effects(self) -> bool:
        """Whether the task writes in its completing transaction. For the worker."""
        return self._connection is not None or bool(self._callbacks)

    def write_effects(self, connection: Connection) -> None:
        """Run the callbacks of :meth:`on_completion` in ``connection``. For the worker."""
        for write in self._callbacks:
            write(connection)


_current: ContextVar[TaskContext | None] = ContextVar("sparkle_current_task", default=None)


def current_task() -> TaskContext:
    """The task that runs here.

    Raises:
        NoCurrentTaskError: Nothing runs here as a task.
    """
    context = _current.get()
    if context is None:
        raise NoCurrentTaskError
    return context


@contextmanager
def running(context: TaskContext) -> Generator[TaskContext]:
    """Make ``context`` the current task inside a ``with`` block. For workers, and for tests of task functions."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
