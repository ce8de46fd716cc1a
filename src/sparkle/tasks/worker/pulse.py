"""A child's watch: a thread that keeps leases, limits, cancellations and the stop."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sparkle.clock import Clock
from sparkle.errors import SparkleError
from sparkle.settings_tasks import TasksSettings
from sparkle.tasks.record import Claim, Heartbeat, Progress
from sparkle.tasks.worker.board import Board, Slot
from sparkle.tasks.worker.running import Reason, Running

if TYPE_CHECKING:
    from sparkle.tasks.ledger import Ledger

log = logging.getLogger("sparkle.tasks.worker")

TICK_SECONDS = 0.1
_AGAIN_SECONDS = 1.0
"""A task that swallows its interruption is interrupted again after so long."""
_STUCK_SECONDS = 3.0
"""After the stop's deadline: a task that still does not end is handed back over its head, and the child ends."""
_LEARN_SECONDS = 1.0


class Watched(Protocol):
    """What the pulse watches: the child."""

    def claims(self) -> list[Claim]:
        """All leases the child holds."""
        ...

    def running(self) -> list[Running]:
        """All tasks that run now."""
        ...

    def interrupt(self, running: Running, reason: Reason) -> None:
        """Make a running task stop."""
        ...

    def lose(self, claims: Iterable[Claim]) -> None:
        """Forget leases that are another's."""
        ...

    def learn(self) -> None:
        """Tell the ledger how long tasks take."""
        ...

    def fail_by_limit(self, running: Running) -> None:
        """Tell the ledger that a task did not end at its time limit."""
        ...


class Pulse:
    """Runs until :meth:`stop`. :meth:`beat_once` is one round, for the thread and for tests."""

    def __init__(
        self,
        child: Watched,
        ledger: Ledger,
        settings: TasksSettings,
        *,
        owner: str,
        board: Board,
        slot: Slot,
        clock: Clock,
        facts: Callable[[], dict[str, Any]],
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._child = child
        self._ledger = ledger
        self._settings = settings
        self._owner = owner
        self._board = board
        self._slot = slot
        self._clock = clock
        self._facts = facts
        self._end = end
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._heartbeat_at = 0.0
        self._learn_at = 0.0
        self._silent = False

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; leases are no longer kept."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(TICK_SECONDS):
            try:
                self.beat_once()
            except Exception:  # without its pulse a child would lose every lease: say it, and go on
                log.exception("the worker's pulse stumbled")

    def beat_once(self) -> None:
        """Look at everything once."""
        now = self._clock.monotonic()
        self._limits(now)
        self._stopping(now)
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + self._settings.heartbeat_seconds
            self._heartbeat()
        if now >= self._learn_at:
            self._learn_at = now + _LEARN_SECONDS
            self._said(self._child.learn)

    def _limits(self, now: float) -> None:
        first: Running | None = None
        for running in self._child.running():
            if now >= running.soft_deadline and running.reason is None:
                self._child.interrupt(running, Reason.TIMEOUT)
            elif running.reason is not None and now >= running.interrupted_at + _AGAIN_SECONDS:
                self._child.interrupt(running, running.reason)
            if first is None or running.kill_at < first.kill_at:
                first = running
        if first is None or first.started == 0.0:
            self._slot.disarm()
        else:
            self._slot.arm(first.killed_at, first.claim.id, first.claim.fence)
            if now >= first.kill_at:
                self._end_over(first)

    def _end_over(self, culprit: Running) -> None:
        """End this process because of a task that does not let go; the others go back to the ledger."""
        log.error("task %s does not end; ending the process that runs it (hard limit)", culprit.claim.id)
        others = [claim for claim in self._child.claims() if claim.id != culprit.claim.id]
        self._said(lambda: self._child.fail_by_limit(culprit))
        self._said(lambda: self._ledger.release(others))
        self._said(lambda: self._ledger.leave(self._owner))
        self._slot.occupy(0, "")  # nothing is left for a successor to report
        self._end(1)

    def _stopping(self, now: float) -> None:
        stop_at = self._board.stop_at
        if stop_at == 0.0 or now < stop_at:
            return
        for running in self._child.running():
            if running.reason is not Reason.RELEASE:
                self._child.interrupt(running, Reason.RELEASE)
        if now >= stop_at + _STUCK_SECONDS:
            claims = self._child.claims()
            log.error("%d tasks did not end at the stop; handing them back over their heads", len(claims))
            self._said(lambda: self._ledger.release(claims))
            self._said(lambda: self._ledger.leave(self._owner))
            self._end(0)  # from here on whatever the tasks write is refused by their fence

    def _heartbeat(self) -> None:
        claims = self._child.claims()
        asked = self._clock.monotonic()
        answer = self._said(lambda: self._ledger.heartbeat(self._owner, claims, self._settings.lease_seconds))
        if isinstance(answer, Heartbeat):
            self._obey(answer, claims)
        progress = progress_of(self._child.running())
        if progress:
            self._said(lambda: self._ledger.report_progress(progress))
        facts = {
            **self._facts(),
            "heartbeat_milliseconds": round((self._clock.monotonic() - asked) * 1000, 1),
        }
        self._said(
            lambda: self._ledger.announce(self._owner, "worker", self._settings.lease_seconds, info=facts)
        )

    def _obey(self, answer: Heartbeat, asked: Sequence[Claim]) -> None:
        # By fence too: while the heartbeat was being written, a lost task may have been claimed anew, here.
        lost = [claim for claim in asked if claim.id in answer.lost]
        cancel = {(claim.id, claim.fence) for claim in asked if claim.id in answer.cancel}
        gone = {(claim.id, claim.fence) for claim in lost}
        for running in self._child.running():
            if running.key in gone:
                self._child.interrupt(running, Reason.LOST)
            elif running.key in cancel and running.reason is None:
                self._child.interrupt(running, Reason.CANCEL)
        self._child.lose(lost)

    def _said(self, work: Callable[[], object]) -> object:
        """What ``work`` returned, or ``None`` if the ledger does not answer: logged once until it does."""
        try:
            answer = work()
        except SparkleError as exc:
            if not self._silent:
                log.error("%s", exc.message)
            self._silent = True
            self._heartbeat_at = min(self._heartbeat_at, self._clock.monotonic() + TICK_SECONDS * 2)
            return None
        self._silent = False
        return answer


def progress_of(running: Iterable[Running]) -> list[Progress]:
    """What these tasks reported since they were last asked."""
    return [said for one in running if (said := one.take_progress())]
