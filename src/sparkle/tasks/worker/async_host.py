"""Async tasks: one event loop per child, in a thread of its own, and a bounded number of tasks in flight."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence

from sparkle.clock import Clock
from sparkle.errors import TaskCancelledError
from sparkle.tasks.context import running as as_current
from sparkle.tasks.worker.running import Outcome, Reason, Running, encode_result
from sparkle.tasks.worker.settle import Settler

_SETTLE_AT_ONCE = 64
_WAIT_SECONDS = 0.2


class AsyncHost:
    """Runs async tasks until they end. :meth:`submit` and :meth:`close` are for the main thread.

    Args:
        limit: Tasks in flight; what ended counts until the ledger knows of it.
        settler: Writes outcomes.
        settled: Called, from a thread, with what the ledger knows now.
        clock: Time.
        max_result_bytes: Largest result that is kept.
    """

    def __init__(
        self,
        *,
        limit: int,
        settler: Settler,
        settled: Callable[[Sequence[Running]], None],
        clock: Clock,
        max_result_bytes: int,
    ) -> None:
        self._limit = limit
        self._slots = threading.Semaphore(limit)
        self._settler = settler
        self._settled = settled
        self._clock = clock
        self._max_result_bytes = max_result_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: threading.Thread | None = None
        self._settle_thread: threading.Thread | None = None
        self._ended: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._tasks: dict[tuple[str, int], tuple[Running, asyncio.Task[None]]] = {}

    def in_flight(self) -> list[Running]:
        """The tasks that run now."""
        return [running for running, _ in list(self._tasks.values())]

    def submit(self, batch: Sequence[Running], stopping: Callable[[], bool]) -> list[Running]:
        """Start tasks, each as soon as there is room for it; returns those not started because of a stop.

        Blocks while the limit is reached: so the worker takes no further messages, and they stay for others.
        """
        loop = self._running_loop()
        ready: list[Running] = []
        for position, running in enumerate(batch):
            if not self._slots.acquire(blocking=False):
                loop.call_soon_threadsafe(self._start, ready)
                ready = []
                while not self._slots.acquire(timeout=_WAIT_SECONDS):
                    if stopping():
                        return list(batch[position:])
            ready.append(running)
        loop.call_soon_threadsafe(self._start, ready)
        return []

    def interrupt(self, running: Running, reason: Reason) -> None:
        """Cancel a task that is in flight; from any thread."""
        running.reason = reason
        running.interrupted_at = self._clock.monotonic()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel, running)

    def wait_idle(self, seconds: float) -> bool:
        """Wait until nothing is in flight and the ledger knows it; false if that takes longer than ``seconds``."""
        give_up = self._clock.monotonic() + seconds
        held = 0
        try:
            for _ in range(self._limit):
                if not self._slots.acquire(timeout=max(0.0, give_up - self._clock.monotonic())):
                    return False
                held += 1
            return True
        finally:
            if held:
                self._slots.release(held)

    def close(self) -> None:
        """End both threads; what is in flight is dropped."""
        if self._loop is not None and self._loop_thread is not None and self._settle_thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop_thread.join()
            self._ended.put(None)
            self._settle_thread.join()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        # Made at the first async task: a child that only runs plain ones has neither loop nor threads for it.
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop_thread = threading.Thread(target=self._run_loop, name="async tasks", daemon=True)
            self._settle_thread = threading.Thread(target=self._settle, name="settle", daemon=True)
            self._loop_thread.start()
            self._settle_thread.start()
        return self._loop

    def _run_loop(self) -> None:
        loop = self._loop
        if loop is None:
            return
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def _start(self, batch: Sequence[Running]) -> None:
        loop = asyncio.get_running_loop()
        for running in batch:
            # Kept here until it ends; its outcome, errors included, goes to the settling thread.
            task = loop.create_task(self._run(running), name=running.claim.record.name)
            self._tasks[running.key] = (running, task)

    def _cancel(self, running: Running) -> None:
        if (entry := self._tasks.get(running.key)) is not None:
            entry[1].cancel()

    async def _run(self, running: Running) -> None:
        running.started = self._clock.monotonic()
        result: str | None = None
        error: BaseException | None = None
        limit = asyncio.timeout(running.soft_seconds)
        try:
            if running.reason is not None:
                raise asyncio.CancelledError  # it was stopped before its first step
            args, kwargs = running.claim.record.arguments
            with as_current(running.context):
                async with limit:
                    value = await running.task.function(*args, **kwargs)
            result = encode_result(value, self._max_result_bytes)
        except TimeoutError as exc:
            error = exc
            if limit.expired():
                error = running.too_long()
        except BaseException as exc:  # noqa: BLE001  whatever a task raises, SystemExit included, is that task's failure
            error = exc
        finally:
            self._tasks.pop(running.key, None)
        self._ended.put(self._outcome(running, result, error))

    def _outcome(self, running: Running, result: str | None, error: BaseException | None) -> Outcome:
        seconds = self._clock.monotonic() - running.started
        stopped = isinstance(error, asyncio.CancelledError | TaskCancelledError)
        if stopped and running.reason is Reason.TIMEOUT:
            # It swallowed the first cancellation, or held up the loop: the pulse told it once more.
            return Outcome(running, error=running.too_long(), seconds=seconds)
        if stopped and running.reason is not None:
            return Outcome(running, reason=running.reason)
        return Outcome(running, result=result, error=error, seconds=seconds)

    def _settle(self) -> None:
        more = True
        while more:
            batch = [self._ended.get()]
            # Whatever ended while the last transaction was being written goes into the next one.
            while len(batch) < _SETTLE_AT_ONCE:
                try:
                    batch.append(self._ended.get_nowait())
                except queue.Empty:
                    break
            outcomes = [outcome for outcome in batch if outcome is not None]
            more = len(outcomes) == len(batch)
            if outcomes:
                self._settler.settle(outcomes)
                self._settled([outcome.running for outcome in outcomes])
                self._slots.release(len(outcomes))
