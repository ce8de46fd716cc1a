"""The states of short tasks: who starts, what an attempt's end means, what is told to whom.

Everything here runs on one event loop and nothing waits, so that no step is seen half done.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from contextvars import copy_context
from typing import Any

from sparkle.clock import Clock
from sparkle.errors import TaskTimeoutError
from sparkle.errors_tasks import TaskQueueFullError
from sparkle.settings_tasks import ShortTasksSettings
from sparkle.tasks.deadlines import Deadlines
from sparkle.tasks.handle import TaskHandle
from sparkle.tasks.history import History, pack
from sparkle.tasks.record import Failure
from sparkle.tasks.short_metrics import ShortTaskMetrics
from sparkle.tasks.states import TaskState
from sparkle.tasks.unseen import UnseenFailures
from sparkle.tasks.waiting import WaitingRoom
from sparkle.tasks.write_behind import WriteBehind

Handle = TaskHandle[Any]
_WAITING, _RUNNING, _RETRYING = TaskState.WAITING, TaskState.RUNNING, TaskState.RETRYING
_SUCCEEDED, _FAILED, _CANCELLED = TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED


class ShortEngine:
    """The unfinished tasks of one :class:`~sparkle.tasks.manager.TaskManager`.

    Args:
        settings: Limits.
        clock: Time.
        rng: Draws the jitter of retries.
        metrics: Where ends are counted.
    """

    def __init__(
        self,
        settings: ShortTasksSettings,
        clock: Clock,
        rng: random.Random,
        metrics: ShortTaskMetrics,
    ) -> None:
        self.live: dict[str, Handle] = {}
        """Unfinished tasks by id, the oldest first."""
        self.room: WaitingRoom[Handle] = WaitingRoom(settings.concurrency, settings.per_user)
        self.retrying = 0
        """Tasks that wait until their next attempt is due."""
        self.history = History(settings.history_bytes)
        self.ended: Counter[TaskState] = Counter()
        self.unseen = UnseenFailures()
        self.deadlines: Deadlines[Handle] = Deadlines(clock, self._due)
        self.empty = asyncio.Event()
        """Set while no task is unfinished."""
        self.empty.set()
        self.last_attempts = False
        """Set at the end: what fails now is not tried again."""
        self._queue = settings.queue
        self._queue_per_user = settings.queue_per_user
        self._now = clock.now
        self._rng = rng
        self._metrics = metrics
        self.writer: WriteBehind | None = None
        """Where changes are noted for the ledger; set before the first task."""
        metrics.exposition.before_flush(self.show_counts)
        # Ends of tasks are handled in one context: a copy for each would cost time and memory.
        self._context = copy_context()

    def accept(self, handle: Handle) -> None:
        """Start a new task or let it wait.

        Raises:
            TaskQueueFullError: It would have to wait, and as many wait as may, of all or of its user.
        """
        if self.room.enter(handle.user_id):
            self._enlist(handle)
            self._start(handle)
            return
        if self.room.waiting + self.retrying >= self._queue:
            raise TaskQueueFullError(
                f"{self._queue} short tasks wait already; try later, raise SPARKLE_TASKS__SHORT__QUEUE, or schedule "
                "it as a long task",
                retry_after=1.0,
            )
        user_id, most = handle.user_id, self._queue_per_user
        if most and user_id is not None and self.room.waiting_of(user_id) >= most:
            raise TaskQueueFullError(
                f"{most} short tasks of this user wait already; try later, or raise "
                "SPARKLE_TASKS__SHORT__QUEUE_PER_USER",
                retry_after=1.0,
            )
        if handle.context is None:
            handle.context = copy_context()
        self._enlist(handle)
        self._wait(handle)
        if self.writer is not None:
            self.writer.note(handle)

    def cancel(self, handle: Handle) -> bool:
        """See :meth:`TaskHandle.cancel`."""
        if handle.state not in (_WAITING, _RUNNING, _RETRYING):
            return False
        handle.cancel_requested = True
        if handle.state is _RUNNING:
            if handle.task is not None:
                handle.task.cancel()
            return True
        self._forget_waiting(handle)
        self._finish(handle, _CANCELLED, None)
        return True

    def give_up(self, handle: Handle) -> None:
        """The manager ends and ``handle`` has not: it is INTERRUPTED, whatever its coroutine still does."""
        if handle.state is _RUNNING:
            self._attempt_over(handle)
        else:
            self._forget_waiting(handle)
        self._finish(handle, TaskState.INTERRUPTED, None)

    def show_counts(self) -> None:
        """Bring the gauges and the counters that are kept elsewhere up to date."""
        metrics = self._metrics
        metrics.running.value = float(self.room.running)
        metrics.waiting.value = float(self.room.waiting + self.retrying)
        if count := self.unseen.take_count():
            metrics.unseen.inc(count)
        if self.writer is not None and self.writer.lost:
            metrics.lost_records.inc(self.writer.lost)
            self.writer.lost = 0

    # From waiting to running ----------------------------------------------------------------------------------------

    def _enlist(self, handle: Handle) -> None:
        self.live[handle.id] = handle
        self.empty.clear()

    def _wait(self, handle: Handle) -> None:
        handle.queued = True
        self.room.wait(handle)

    def _forget_waiting(self, handle: Handle) -> None:
        if handle.queued:
            handle.queued = False
            self.room.give_up(handle)
        else:
            self.deadlines.remove(handle, handle.tick)
            self.retrying -= 1

    def _dispatch(self) -> None:
        """Start who may start now."""
        while (handle := self.room.next()) is not None:
            handle.queued = False
            handle.series.waited.observe(max(0.0, self._now() - handle.due))
            self._start(handle)

    def _start(self, handle: Handle) -> None:
        """Begin an attempt; the slot is taken."""
        handle.state = _RUNNING
        handle.attempt += 1
        handle.started = self._now()
        context = handle.context
        if (coro := handle.coro) is None:
            try:
                coro = handle.make()
            except Exception as exc:  # noqa: BLE001  the factory is the caller's code: its error is the attempt's
                self._attempt_over(handle)
                self._failed(handle, exc)
                return
            # An attempt must not see what the one before it left in its context variables.
            context = context.copy() if context is not None else None
        else:
            handle.coro = None
        handle.task = task = asyncio.get_running_loop().create_task(coro, name=handle.name, context=context)
        if handle.timeout != math.inf:
            handle.tick = self.deadlines.add(handle, handle.timeout)
        task.add_done_callback(handle.attempt_ended, context=self._context)
        if self.writer is not None:
            self.writer.note(handle)

    def _due(self, handle: Handle) -> None:
        """A deadline has come: a running task is out of time, a failed one is tried again."""
        handle.tick = 0
        if handle.state is _RUNNING:
            handle.timed_out = True
            if handle.task is not None:
                handle.task.cancel()
            return
        self.retrying -= 1
        if self.room.enter(handle.user_id):
            self._start(handle)
        else:
            self._wait(handle)

    # From running to the end ----------------------------------------------------------------------------------------

    def attempt_ended(self, handle: Handle, task: asyncio.Task[Any]) -> None:
        """The asyncio task of an attempt is done: that was the end, or it is tried again."""
        cancelled = task.cancelled()
        error = None if cancelled else task.exception()  # also tells asyncio that somebody has looked
        if handle.state is not _RUNNING:
            return  # given up before
        self._attempt_over(handle)
        if error is not None:
            self._failed(handle, error)
        elif not cancelled:
            handle.result_value = task.result()
            self._finish(handle, _SUCCEEDED, None)
        elif handle.timed_out and not handle.cancel_requested:
            self._failed(
                handle,
                TaskTimeoutError(
                    f"task {handle.name} {handle.id} ran longer than {handle.timeout:g} s; give it a timeout=, or "
                    "schedule it as a long task"
                ),
            )
        else:
            self._finish(handle, _CANCELLED, None)
        if self.room.waiting:
            self._dispatch()

    def _attempt_over(self, handle: Handle) -> None:
        """Give back what an attempt held."""
        handle.task = None
        if handle.tick:
            self.deadlines.remove(handle, handle.tick)
            handle.tick = 0
        handle.series.seconds.observe(max(0.0, self._now() - handle.started))
        self.room.exit(handle.user_id)

    def _failed(self, handle: Handle, error: BaseException) -> None:
        handle.failure = Failure.of(error)
        retry = handle.retry
        if (
            retry is None
            or handle.attempt >= handle.max_attempts
            or handle.cancel_requested
            or self.last_attempts
            or not isinstance(error, Exception)  # SystemExit and KeyboardInterrupt end the process
            or retry.gives_up(error)
        ):
            self._finish(handle, _FAILED, error)
            return
        handle.state = _RETRYING
        handle.timed_out = False
        wait = retry.wait_seconds(handle.attempt, self._rng)
        handle.due = self._now() + wait
        handle.tick = self.deadlines.add(handle, wait)
        self.retrying += 1
        handle.series.retries.inc()
        if self.writer is not None:
            self.writer.note(handle)

    def _finish(self, handle: Handle, state: TaskState, error: BaseException | None) -> None:
        handle.state = state
        handle.finished = self._now()
        handle.error = error
        if handle.coro is not None:
            handle.coro.close()  # it never ran; nobody shall be warned about that
            handle.coro = None
        handle.factory = handle.retry = handle.context = None
        failure = handle.failure
        self.history.add(
            pack(
                handle.id,
                handle.name,
                handle.user_id,
                state,
                handle.priority,
                handle.attempt,
                handle.max_attempts,
                handle.created,
                handle.due,
                handle.started,
                handle.finished,
                handle.cancel_requested,
                failure.error_type if failure else "",
                failure.error_message if failure else "",
                handle.trace,
            )
        )
        self.ended[state] += 1
        self._metrics.ended(handle.series, state)
        if self.writer is not None:
            self.writer.note(handle)
        told = False
        waiters, handle.waiters = handle.waiters, None
        for waiter in waiters or ():
            if not waiter.done():  # else it was cancelled in this turn of the loop
                waiter.set_result(None)
                told = True
        if error is not None and not told:
            handle.unseen = self.unseen.note(handle.id, handle.name, error)
        del self.live[handle.id]
        if not self.live:
            self.empty.set()
