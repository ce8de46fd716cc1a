"""Running plain tasks in a child's main thread, and breaking in on one that must stop."""

from __future__ import annotations

import logging
import signal
import threading
from contextvars import copy_context
from types import FrameType
from typing import Any

from sparkle.clock import Clock
from sparkle.errors import StoreUnavailableError, TaskCancelledError
from sparkle.errors_tasks import LeaseLostError
from sparkle.tasks.context import running as as_current
from sparkle.tasks.worker.running import HandedBack, Outcome, Reason, Running, encode_result
from sparkle.tasks.worker.settle import complete_with_effects

log = logging.getLogger("sparkle.tasks.worker")

INTERRUPT = signal.SIGUSR2
"""Sent by the child to its own main thread. Celery and billiard use USR1; nobody uses this one in a child."""


class PlainRunner:
    """Runs one plain task at a time. :meth:`install` and :meth:`run` are for the main thread, the rest for others.

    Args:
        clock: Time.
        max_result_bytes: Largest result that is kept.
    """

    def __init__(self, *, clock: Clock, max_result_bytes: int) -> None:
        self._clock = clock
        self._max_result_bytes = max_result_bytes
        self._now: Running | None = None
        self._main = threading.main_thread()

    @property
    def current(self) -> Running | None:
        """The task that runs now."""
        return self._now

    def install(self) -> None:
        """Take the signal that breaks in on a task."""
        signal.signal(INTERRUPT, self._break_in)
        signal.siginterrupt(INTERRUPT, True)  # a blocked read returns, so that the task notices

    def interrupt(self, running: Running, reason: Reason) -> None:
        """Raise inside ``running`` if it still runs: again each time this is called, should it swallow the error."""
        running.reason = reason
        running.interrupted_at = self._clock.monotonic()
        ident = self._main.ident
        if self._now is running and ident is not None:
            signal.pthread_kill(ident, INTERRUPT)

    def run(self, running: Running) -> Outcome | None:
        """Run one task to its end.

        Returns:
            Its outcome for the ledger; ``None``: the ledger has it already, because the task wrote in the transaction
            that completed it.
        """
        running.started = self._clock.monotonic()
        result: str | None = None
        error: BaseException | None = None
        try:
            try:
                self._now = running
                value = copy_context().run(_call, running)
            finally:
                self._now = None
            result = encode_result(value, self._max_result_bytes)
        except BaseException as exc:  # noqa: BLE001  whatever a task raises, SystemExit included, is that task's failure
            error = exc
        seconds = self._clock.monotonic() - running.started
        if error is None and running.context.opened is not None:
            return self._complete(running, result, seconds)
        if error is not None:
            _roll_back(running, error)
        return self._outcome(running, result, error, seconds)

    def _complete(self, running: Running, result: str | None, seconds: float) -> Outcome | None:
        connection = running.context.opened
        try:
            if connection is not None:
                complete_with_effects(running, result, connection)
        except LeaseLostError:
            return Outcome(running, reason=Reason.LOST)
        except StoreUnavailableError as exc:
            # Rolled back, and its effects cannot be written again without running it again.
            return Outcome(running, error=exc, seconds=seconds)
        except Exception as exc:  # noqa: BLE001  a broken constraint shows at the commit: the attempt failed
            return Outcome(running, error=exc, seconds=seconds)
        return None

    @staticmethod
    def _outcome(
        running: Running, result: str | None, error: BaseException | None, seconds: float
    ) -> Outcome:
        if error is None:
            # It may have been told to stop, and was done first: done is done.
            return Outcome(running, result=result, seconds=seconds)
        if isinstance(error, HandedBack):
            return Outcome(running, reason=running.reason or Reason.RELEASE)
        if isinstance(error, TaskCancelledError) and running.reason is Reason.CANCEL:
            return Outcome(running, reason=Reason.CANCEL)
        return Outcome(running, error=error, seconds=seconds)

    def _break_in(self, signum: int, frame: FrameType | None) -> None:
        # Runs in the main thread between two instructions: of the task, or of our own code, which must not be broken.
        running = self._now
        if running is None or running.reason is None:
            return
        match running.reason:
            case Reason.TIMEOUT:
                raise running.too_long()
            case Reason.CANCEL:
                raise TaskCancelledError(f"task {running.claim.id} was cancelled")
            case Reason.RELEASE | Reason.LOST:
                raise HandedBack


def _roll_back(running: Running, error: BaseException) -> None:
    """Undo what the task wrote in its transaction, if it opened one."""
    try:
        running.stack.__exit__(type(error), error, error.__traceback__)
    except Exception as exc:  # noqa: BLE001  a broken connection cannot be rolled back, the database does it; log the kind
        log.warning("rolling back a failed task: %s", type(exc).__name__)


def _call(running: Running) -> Any:
    args, kwargs = running.claim.record.arguments
    with as_current(running.context):
        return running.task.function(*args, **kwargs)
