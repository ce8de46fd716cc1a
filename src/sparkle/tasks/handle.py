"""What a caller holds of a short task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from sparkle.errors import TaskCancelledError
from sparkle.errors_tasks import TaskStateError
from sparkle.tasks.history import microseconds
from sparkle.tasks.record import Failure, TaskRecord
from sparkle.tasks.retry import RetryPolicy
from sparkle.tasks.states import FINISHED, TaskMode, TaskState

if TYPE_CHECKING:
    from sparkle.tasks.short_metrics import NamedSeries
    from sparkle.tasks.unseen import Unseen

T = TypeVar("T")


class HandleOwner(Protocol):
    """Who decides about handles."""

    def cancel(self, handle: TaskHandle[Any]) -> bool:
        """See :meth:`TaskHandle.cancel`."""
        ...

    def attempt_ended(self, handle: TaskHandle[Any], task: asyncio.Task[Any]) -> None:
        """The asyncio task of an attempt is done."""
        ...


Factory = Callable[[], Coroutine[Any, Any, T]]


class TaskHandle(Generic[T]):
    """A short task: await it, cancel it, look at it. Made by ``TaskManager.spawn``; for its event loop only.

    ``await handle`` gives the coroutine's result or raises its error; any number of coroutines may wait, before or
    after the end. A waiter that is cancelled stops waiting and leaves the task alone: only :meth:`cancel` ends it. A
    task that was cancelled raises :class:`~sparkle.errors.TaskCancelledError` and one that ran too long
    :class:`~sparkle.errors.TaskTimeoutError`, so that a waiter can tell both from being cancelled itself.
    """

    __slots__ = (
        "__weakref__",
        "_owner",
        "attempt",
        "cancel_requested",
        "context",
        "coro",
        "created",
        "due",
        "error",
        "factory",
        "failure",
        "finished",
        "id",
        "max_attempts",
        "name",
        "priority",
        "queued",
        "result_value",
        "retry",
        "series",
        "started",
        "state",
        "task",
        "tick",
        "timed_out",
        "timeout",
        "trace",
        "unseen",
        "user_id",
        "waiters",
    )

    def __init__(
        self,
        id: str,
        name: str,
        user_id: str | None,
        priority: int,
        timeout: float,
        created: float,
        trace: str | None,
        series: NamedSeries,
        owner: HandleOwner,
    ) -> None:
        self.id = id
        """UUID version 7."""
        self.name = name
        self.user_id = user_id
        self.priority = priority
        self.timeout = timeout
        """Seconds one attempt may take; infinite: any number."""
        self.created = self.due = created
        """Seconds since the epoch; ``due`` moves with every retry."""
        self.trace = trace
        self.state = TaskState.WAITING
        self.attempt = 0
        self.max_attempts = 1
        self.cancel_requested = False
        # The manager's own notes ---------------------------------------------------------------------------------
        self.series = series
        self.coro: Coroutine[Any, Any, T] | None = None
        self.factory: Factory[T] | None = None
        self.retry: RetryPolicy | None = None
        self.context: Context | None = None
        self.task: asyncio.Task[T] | None = None
        self.queued = False
        """Whether it stands in the waiting room."""
        self.tick = 0
        """Its place among the deadlines; 0: none."""
        self.timed_out = False
        self.started = 0.0
        self.finished = 0.0
        self.result_value: T | None = None
        self.error: BaseException | None = None
        self.failure: Failure | None = None
        self.unseen: Unseen | None = None
        self.waiters: list[asyncio.Future[None]] | None = None
        self._owner = owner

    def __repr__(self) -> str:
        return f"<TaskHandle {self.name} {self.id} {self.state}>"

    def __await__(self) -> Generator[Any, None, T]:
        if self.unseen is not None:
            self.unseen.seen()
            self.unseen = None
        if self.state not in FINISHED:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self.waiters is None:
                self.waiters = [waiter]
            else:
                self.waiters.append(waiter)
            try:
                yield from waiter
            except BaseException:  # this waiter was cancelled, the task goes on
                self.forget_waiter(waiter)
                raise
        return self.result()

    def cancel(self) -> bool:
        """Ask the task to end; False if it is over already.

        A task that has not begun (or waits for its next attempt) is over at once, its coroutine closed. In a running
        one ``CancelledError`` is raised, as ``asyncio.Task.cancel`` does it; should it end normally or with an error
        all the same, that counts. There is no retry after a cancellation.
        """
        return self._owner.cancel(self)

    def done(self) -> bool:
        """Whether the task is over."""
        return self.state in FINISHED

    def cancelled(self) -> bool:
        """Whether the task is over because it was cancelled."""
        return self.state is TaskState.CANCELLED

    def result(self) -> T:
        """What the coroutine returned.

        Raises:
            TaskStateError: The task is not over.
            TaskCancelledError: It was cancelled.
            TaskTimeoutError: It ran longer than its time limit.
            BaseException: Whatever the coroutine raised.
        """
        error = self.exception()
        if error is not None:
            raise error
        return self.result_value  # pyright: ignore[reportReturnType]  it succeeded: this is the coroutine's result

    def exception(self) -> BaseException | None:
        """The error with which it ended, or ``None`` when it succeeded.

        Raises:
            TaskStateError: The task is not over.
        """
        if self.state not in FINISHED:
            raise TaskStateError(f"task {self.id} is {self.state}; await its handle first")
        if self.unseen is not None:
            self.unseen.seen()
            self.unseen = None
        if self.state is TaskState.SUCCEEDED:
            return None
        if self.error is None:
            word = "cancelled" if self.state is TaskState.CANCELLED else "cut off when its manager closed"
            self.error = TaskCancelledError(f"task {self.id} was {word}")
        return self.error

    def make(self) -> Coroutine[Any, Any, T]:
        """The coroutine of the next attempt.

        Raises:
            Exception: Whatever the factory raises; TypeError if what it returns is no coroutine.
        """
        coro = self.factory() if self.factory is not None else None
        if not asyncio.iscoroutine(coro):
            raise TypeError("the factory of spawn_with_retry must return a coroutine")
        return coro

    def attempt_ended(self, task: asyncio.Task[T]) -> None:
        """Pass on that an asyncio task is done. A method, since that is smaller than a closure for each task."""
        self._owner.attempt_ended(self, task)

    def forget_waiter(self, waiter: asyncio.Future[None]) -> None:
        """``waiter`` waits no longer."""
        if self.waiters is not None and waiter in self.waiters:
            self.waiters.remove(waiter)

    @property
    def record(self) -> TaskRecord:
        """The task as it is now, in the form that both modes share."""
        return self.snapshot(None)

    def snapshot(self, owner: str | None) -> TaskRecord:
        """The record, leased by ``owner``."""
        failure = self.failure
        over = self.state in FINISHED
        return TaskRecord(
            id=self.id,
            mode=TaskMode.SHORT,
            name=self.name,
            user_id=self.user_id,
            state=self.state,
            priority=self.priority,
            error_type=failure.error_type if failure else None,
            error_message=failure.error_message if failure else None,
            attempt=self.attempt,
            max_attempts=self.max_attempts,
            created_at=microseconds(self.created),
            due_at=microseconds(self.due),
            started_at=microseconds(self.started) if self.started else None,
            finished_at=microseconds(self.finished) if over else None,
            lease_owner=owner,
            progress=1.0 if self.state is TaskState.SUCCEEDED else 0.0,
            cancel_requested=self.cancel_requested,
            trace=self.trace,
        )
