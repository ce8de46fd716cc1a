"""Short tasks in this process: tracked from the moment they are asked for until they end."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from sparkle.clock import Clock, SystemClock
from sparkle.errors_tasks import TaskManagerClosedError, TaskNotFoundError, TaskQueueFullError
from sparkle.settings_tasks import ShortTasksSettings
from sparkle.tasks.handle import Factory, TaskHandle
from sparkle.tasks.history import MAX_TEXT
from sparkle.tasks.ids import TaskIds
from sparkle.tasks.record import DEFAULT_PRIORITY, TaskRecord
from sparkle.tasks.retry import RetryPolicy
from sparkle.tasks.short_engine import ShortEngine
from sparkle.tasks.short_metrics import ShortTaskMetrics
from sparkle.tasks.short_reports import DrainReport, ManagerHealth, health_of, list_tasks
from sparkle.tasks.states import TaskState
from sparkle.tasks.trace import current_traceparent
from sparkle.tasks.waiting import PRIORITIES
from sparkle.tasks.waits import happens_within
from sparkle.tasks.write_behind import WriteBehind

if TYPE_CHECKING:
    from sparkle.tasks.write_behind import ShortLedger

T = TypeVar("T")
log = logging.getLogger("sparkle.tasks")
_RETRY = RetryPolicy(base_seconds=0.5, max_seconds=10.0)


class TaskManager:
    """Runs coroutines as short tasks (under about 10 s; longer work belongs to ``schedule_long_task``).

    ::

        async with TaskManager() as task_manager:
            handle = await task_manager.spawn(embed(text), task_name="embed", user_id="alice")
            vector = await handle

    At most ``settings.concurrency`` tasks run at once and ``per_user`` of one user; more wait, by priority and then by
    age, at most ``settings.queue`` of them. How a task ended is in its handle, in :meth:`tasks`, in the metrics and,
    with a ledger, in the same table as long tasks. The end of the ``async with`` waits for the tasks, at most
    ``settings.drain_seconds``.

    Belongs to one event loop and is not for other threads.

    Args:
        settings: Limits; ``None`` takes the defaults.
        ledger: Where records are also kept, behind the tasks and in batches; ``None``: only here. It is not closed.
        clock: Time.
        rng: Draws the jitter of retries.
        ids: Makes task ids.
        metrics: The series to count in; ``None`` makes some of its own.
    """

    def __init__(
        self,
        settings: ShortTasksSettings | None = None,
        *,
        ledger: ShortLedger | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        ids: Callable[[], str] | None = None,
        metrics: ShortTaskMetrics | None = None,
    ) -> None:
        self.settings = settings or ShortTasksSettings()
        self.metrics = metrics or ShortTaskMetrics()
        self._clock = clock or SystemClock()
        self._ledger = ledger
        self._ids = ids or _not_open
        self._writer: WriteBehind | None = None
        self._engine = ShortEngine(
            self.settings,
            self._clock,
            rng or random.Random(),  # noqa: S311  for jitter, not for secrets
            self.metrics,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = False
        self._closed = False
        self._refused = 0
        self._service: list[asyncio.Task[None]] = []

    # Lifetime -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> TaskManager:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Take tasks from now on, on the running event loop. For those who cannot use ``async with``.

        Raises:
            TaskManagerClosedError: It was closed; make a new one.
        """
        if self._closed:
            raise TaskManagerClosedError("a closed task manager cannot be opened again; make a new one")
        if self._loop is not None:
            return
        # Made here and not before: a process that was forked in between would give out its parent's ids. They need not
        # be hard to guess, and a generator seeded by the system is ten times as quick as the system.
        if self._ids is _not_open:
            self._ids = TaskIds(self._clock, random.Random(os.urandom(32)).getrandbits)  # noqa: S311
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._serve(self._engine.deadlines.run(), "deadlines")
        if self._ledger is not None:
            self._writer = self._engine.writer = WriteBehind(
                self._ledger,
                self._clock,
                owner=f"manager:{socket.gethostname()}:{os.getpid()}:{self._ids()[-6:]}",
                write_seconds=self.settings.write_seconds,
                unwritten=self.settings.unwritten,
                cancel=self.cancel,
            )
            self._serve(self._writer.run(), "records")

    async def drain(self, seconds: float | None = None) -> bool:
        """Take no more tasks, except from tasks that still run, and wait until all are over.

        Args:
            seconds: Longest wait; ``None``: the settings' ``drain_seconds``.

        Returns:
            Whether all were over in time. The rest runs on; :meth:`close` ends it.
        """
        self._open = False
        seconds = self.settings.drain_seconds if seconds is None else seconds
        return await happens_within(self._engine.empty, seconds, self._clock)

    async def close(self, seconds: float | None = None) -> DrainReport:
        """Drain, then cancel what is left and say what was cut off. Closing twice does nothing.

        Should closing itself be cancelled, the tasks are cancelled and not waited for.

        Args:
            seconds: How long tasks may take to finish; ``None``: the settings' ``drain_seconds``.
        """
        if self._closed:
            return DrainReport(finished=0)
        engine = self._engine
        before = list(engine.live.values())
        stuck: list[TaskHandle[Any]] = []
        cut: list[TaskHandle[Any]] = []
        try:
            if not await self.drain(seconds):
                cut = list(engine.live.values())
                self._cut_off()
                if not await happens_within(engine.empty, self.settings.cancel_seconds, self._clock):
                    stuck = list(engine.live.values())
        finally:
            self._cut_off()
            for handle in list(engine.live.values()):
                engine.give_up(handle)
            engine.unseen.report_all()
            await self._end_service()
            engine.show_counts()
        cancelled = tuple(handle.record for handle in cut if handle.cancelled())
        report = DrainReport(
            finished=max(len(before) - len(cancelled) - len(stuck), 0),
            cancelled=cancelled,
            stuck=tuple(handle.record for handle in stuck),
        )
        if not report.clean:
            log.warning("closed with %d short tasks cancelled and %d stuck", len(cancelled), len(stuck))
        return report

    # Tasks --------------------------------------------------------------------------------------------------------

    async def spawn(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        task_name: str,
        user_id: str | None = None,
        timeout: float | None = None,
        priority: int = DEFAULT_PRIORITY,
        trace: str | None = None,
    ) -> TaskHandle[T]:
        """Run ``coro`` in the background, now or as soon as there is a slot.

        It sees a copy of the caller's context variables. ``spawn`` does not wait for the slot; with a ledger it waits
        for a moment where tasks end faster than their records can be written.

        Args:
            coro: What to run. It is closed if it is not accepted.
            task_name: What kind of work it is, 1 to 200 characters; a label of the metrics, so not unique.
            user_id: For whom, at most 200 characters; counts against that user's limit.
            timeout: Seconds it may run, the wait for a slot not counted; ``None``: the settings' ``timeout_seconds``;
                ``math.inf``: any number.
            priority: 0 to 9; 9 is started first.
            trace: W3C ``traceparent``; ``None``: that of the caller's context.

        Raises:
            TaskQueueFullError: ``settings.queue`` tasks wait already, or ``queue_per_user`` of this user.
            TaskManagerClosedError: The manager is not open (any more).
            TypeError, ValueError: An argument is wrong.
        """
        if not asyncio.iscoroutine(coro):
            raise TypeError(f"spawn takes what an async function returns, not a {type(coro).__name__}")
        try:
            if self._writer is not None and self._writer.behind:
                await self._writer.caught_up()
            handle: TaskHandle[T] = self._new(task_name, user_id, timeout, priority, trace)
            handle.coro = coro
            self._accept(handle)
        except BaseException:
            coro.close()  # nobody will ever await it, and nobody shall be warned about that
            raise
        return handle

    async def spawn_with_retry(
        self,
        factory: Factory[T],
        *,
        task_name: str,
        user_id: str | None = None,
        max_attempts: int = 3,
        retry: RetryPolicy = _RETRY,
        timeout: float | None = None,
        priority: int = DEFAULT_PRIORITY,
        trace: str | None = None,
    ) -> TaskHandle[T]:
        """Like :meth:`spawn`, for work that is tried again when it fails.

        Between two attempts the task holds no slot. Every attempt begins with the context variables of the caller.

        Args:
            factory: Called for every attempt; returns a fresh coroutine.
            task_name: See :meth:`spawn`.
            user_id: See :meth:`spawn`.
            max_attempts: Attempts at most, at least 1.
            retry: How long to wait between them (full jitter), and on which errors to give up at once.
            timeout: Seconds one attempt may run; running into it is a failure like others.
            priority: See :meth:`spawn`.
            trace: See :meth:`spawn`.

        Raises:
            TaskQueueFullError: ``settings.queue`` tasks wait already, or ``queue_per_user`` of this user.
            TaskManagerClosedError: The manager is not open (any more).
            TypeError, ValueError: An argument is wrong.
        """
        if not callable(factory):
            raise TypeError(f"spawn_with_retry takes a function, not a {type(factory).__name__}")
        if not 1 <= max_attempts <= 65_535:
            raise ValueError("max_attempts must be 1 to 65535")
        if self._writer is not None and self._writer.behind:
            await self._writer.caught_up()
        handle: TaskHandle[T] = self._new(task_name, user_id, timeout, priority, trace)
        handle.factory = factory
        handle.max_attempts = max_attempts
        handle.retry = retry
        handle.context = copy_context()
        self._accept(handle)
        return handle

    # Looking at them ------------------------------------------------------------------------------------------------

    def get(self, id: str) -> TaskRecord:
        """The record of an unfinished task, or of a finished one that the history still has.

        Raises:
            TaskNotFoundError: Neither; the ledger may know it.
        """
        handle = self._engine.live.get(id)
        record = handle.record if handle is not None else self._engine.history.find(id)
        if record is None:
            raise TaskNotFoundError(
                f"this process knows no short task {id}; `sparkle tasks show` asks the ledger"
            )
        return record

    def tasks(
        self,
        *,
        user_id: str | None = None,
        task_name: str | None = None,
        states: frozenset[TaskState] = frozenset(),
        limit: int = 100,
    ) -> list[TaskRecord]:
        """Records: unfinished tasks first, then finished ones; the newest first in both.

        Args:
            user_id: Only this user's.
            task_name: Only these.
            states: Only in these states; empty: in any.
            limit: So many at most.
        """
        return list_tasks(self._engine, user_id, task_name, states, limit)

    def cancel(self, id: str) -> bool:
        """Cancel an unfinished task by its id, as :meth:`TaskHandle.cancel` does; False if none has this id."""
        handle = self._engine.live.get(id)
        return handle is not None and handle.cancel()

    def health_check(self) -> ManagerHealth:
        """How busy the manager is, and whether records reach the ledger. Costs next to nothing."""
        phase = "closed" if self._closed or self._loop is None else "ok" if self._open else "closing"
        return health_of(self._engine, self.settings, phase, self._clock.now(), self._refused)

    def render_metrics(self) -> tuple[bytes, str]:
        """The Prometheus text of the manager's series and of all that share their exposition, and its content type."""
        return self.metrics.exposition.render()

    # Inside ---------------------------------------------------------------------------------------------------------

    def _new(
        self, name: str, user_id: str | None, timeout: float | None, priority: int, trace: str | None
    ) -> TaskHandle[Any]:
        if not self._open or asyncio.get_running_loop() is not self._loop:
            self._check_open()
        if not name or len(name) > MAX_TEXT or (user_id is not None and len(user_id) > MAX_TEXT):
            raise ValueError(f"task_name must have 1 to {MAX_TEXT} characters, user_id at most {MAX_TEXT}")
        if not 0 <= priority < PRIORITIES:
            raise ValueError(f"priority must be 0 to {PRIORITIES - 1}")
        if timeout is None:
            timeout = self.settings.timeout_seconds
        elif not timeout > 0:
            raise ValueError("timeout must be more than 0 seconds; math.inf is none")
        return TaskHandle(
            self._ids(),
            name,
            user_id,
            priority,
            timeout,
            self._clock.now(),
            trace or current_traceparent(),
            self.metrics.of(name),
            self._engine,
        )

    def _accept(self, handle: TaskHandle[Any]) -> None:
        try:
            self._engine.accept(handle)
        except TaskQueueFullError:
            self._refused += 1
            self.metrics.refused("queue_full").inc()
            raise

    def _check_open(self) -> None:
        """Raises TaskManagerClosedError, unless a running task may still spawn its own while the manager drains."""
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise TaskManagerClosedError("this task manager belongs to another event loop; open one in each")
        if not self._closed and self._loop is not None:
            current = asyncio.current_task()
            if any(handle.task is current for handle in self._engine.live.values()):
                return
        self._refused += 1
        self.metrics.refused("closed").inc()
        raise TaskManagerClosedError

    def _cut_off(self) -> None:
        """Cancel everything; nothing starts any more, not even from tasks that clean up."""
        self._closed = True
        self._engine.last_attempts = True
        for handle in list(self._engine.live.values()):
            handle.cancel()

    def _serve(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"task manager: {name}")
        task.add_done_callback(_say_if_failed)
        self._service.append(task)

    async def _end_service(self) -> None:
        for task in self._service[:1]:
            task.cancel()
        if self._writer is not None:
            self._writer.stop()
        await asyncio.gather(*self._service, return_exceptions=True)
        if self._writer is not None:
            await self._writer.finish()


def _say_if_failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s has failed: %s", task.get_name(), type(error).__name__, exc_info=error)


def _not_open() -> str:
    raise TaskManagerClosedError
