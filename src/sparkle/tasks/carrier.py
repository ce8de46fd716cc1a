"""The half of the relay that speaks to the broker: hands due tasks over, rings for them, rings again when it must."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sparkle.clock import Clock
from sparkle.errors import BrokerUnavailableError
from sparkle.tasks.messages import pack
from sparkle.tasks.publisher import Publisher
from sparkle.tasks.record import Handed

if TYPE_CHECKING:
    from sparkle.tasks.ledger import Ledger

log = logging.getLogger("sparkle.tasks.relay")

BUSY_SECONDS = 0.02
"""Pause between two steps while more waits than the broker may hold."""
LOST_SECONDS = 2.0
"""A task rung for this long ago is rung for again if its queue is empty: its message is lost, or lies with a worker
that has no time for it."""
STALE_SECONDS = 60.0
"""The same where the queue is not empty: a single message was lost among others."""
_PROBE_SECONDS = 1.0
_FIRST_WINDOW = 64
_LEAST_WINDOW = 16
_BACKOFF_SECONDS = (0.1, 2.0)


@dataclass(slots=True)
class Window:
    """How many tasks of one queue may lie in the broker: as few as keep the workers busy.

    What lies in the broker is served in order of arrival; what still waits in the ledger is handed over by priority. So
    the window grows while workers drain it between two steps, and shrinks while they don't get through it.
    """

    largest: int
    size: int = field(init=False)
    _slow_since: float | None = None

    def __post_init__(self) -> None:
        self.size = min(_FIRST_WINDOW, self.largest)

    def observe(self, outstanding: int, saturated: bool, now: float) -> None:
        """Learn from one step: ``outstanding`` tasks were left of what the last steps handed over."""
        if saturated and outstanding <= self.size // 4:
            self.size = min(self.size * 2, self.largest)
            self._slow_since = None
        elif outstanding > self.size // 2:
            if self._slow_since is None:
                self._slow_since = now
            elif now - self._slow_since >= 1.0:
                self.size = max(self.size * 3 // 4, min(_LEAST_WINDOW, self.largest))
                self._slow_since = now
        else:
            self._slow_since = None


@dataclass(slots=True)
class Carried:
    """What a carrier has done since it began."""

    tasks: int = 0
    messages: int = 0
    rung_again: int = 0
    """Tasks whose message was lost, or seemed to be."""
    broker_failures: int = 0


class Carrier:
    """Carries due tasks from the ledger to the broker. For one thread; blocks no longer than the publisher does.

    Args:
        ledger: Where the tasks are.
        publisher: The line to the broker.
        queues: All queues to serve.
        window: Most tasks of one queue that may lie in the broker.
        poll_seconds: Pause between two steps when nothing is due.
        clock: Time.
        rng: For the jitter of the backoff.
    """

    def __init__(
        self,
        ledger: Ledger,
        publisher: Publisher,
        *,
        queues: Sequence[str],
        window: int,
        poll_seconds: float,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.done = Carried()
        self._ledger = ledger
        self._publisher = publisher
        self._windows = {queue: Window(window) for queue in queues}
        self._largest_window = window
        self._poll = poll_seconds
        self._clock = clock
        self._rng = rng
        self._saturated: set[str] = set()
        self._incarnation: str | None = None
        self._connected = False
        self._failures = 0
        self._probe_at = 0.0

    @property
    def broker_answers(self) -> bool:
        """Whether the last word from the broker was an answer."""
        return self._failures == 0

    def step(self) -> float:
        """Hand over what is due and ring for it. Returns the seconds after which to come again.

        Raises:
            LedgerUnavailableError: The ledger does not answer.
        """
        try:
            if not self._connected:
                self._greet()
            more = self._carry()
            if self._clock.monotonic() >= self._probe_at:
                self._probe_at = self._clock.monotonic() + _PROBE_SECONDS
                self._discover()
                # Again and again: a client of Redis connects anew to a restarted server without telling anybody.
                self._greet()
                more = self._probe() or more
        except BrokerUnavailableError as exc:
            return self._back_off(exc)
        if self._failures:
            log.warning("the broker answers again after %d failed attempts", self._failures)
            self._failures = 0
        return BUSY_SECONDS if more else self._poll

    def close(self) -> None:
        """Hang up."""
        self._publisher.close()

    def _greet(self) -> None:
        incarnation = self._publisher.incarnation()
        if incarnation is None:
            self._publisher.check()
        elif self._incarnation not in (None, incarnation):
            # It was started anew, perhaps with empty hands. Ringing twice costs a failed claim; not ringing a task.
            again = sum(self._ledger.take_back(queue=queue) for queue in self._windows)
            self.done.rung_again += again
            log.warning("the broker was restarted; ringing again for %d tasks", again)
        self._incarnation = incarnation
        self._connected = True

    def _carry(self) -> bool:
        now = self._clock.monotonic()
        if self._saturated:
            queued = self._ledger.queued()
            for queue, window in self._windows.items():
                window.observe(queued.get(queue, (0, 0))[0], queue in self._saturated, now)
        handed = self._ledger.hand_over({queue: window.size for queue, window in self._windows.items()})
        if not handed:
            return bool(self._saturated) and self._still_full()
        # More may wait behind what was handed over; the next steps tell.
        self._saturated = {task.queue for task in handed}
        self._publish(handed)
        return True

    def _still_full(self) -> bool:
        queued = self._ledger.queued()
        self._saturated = {
            queue for queue in self._saturated if queued.get(queue, (0, 0))[0] >= self._windows[queue].size
        }
        return bool(self._saturated)

    def _publish(self, handed: Sequence[Handed]) -> None:
        rung: set[str] = set()
        try:
            for doorbell in self._publisher.publish(pack(handed)):
                rung.update(doorbell.ids)
                self.done.messages += 1
        finally:
            self.done.tasks += len(rung)
            if silent := [task.id for task in handed if task.id not in rung]:
                # The one in doubt is among them: it may ring twice, which is harmless.
                self._ledger.take_back(ids=silent)

    def _probe(self) -> bool:
        """Ring again for what nobody claimed although the broker holds nothing more of it."""
        now = int(self._clock.now() * 1_000_000)
        again = 0
        for queue, (count, oldest) in self._ledger.queued().items():
            waited = (now - oldest) / 1_000_000
            if waited < LOST_SECONDS or queue not in self._windows:
                continue
            in_broker = self._publisher.waiting(queue)
            if in_broker == 0:
                limit = LOST_SECONDS
            elif waited >= STALE_SECONDS and in_broker < min(count, 2 * self._windows[queue].size):
                limit = STALE_SECONDS
            else:
                continue
            again += self._ledger.take_back(queue=queue, older_than=now - int(limit * 1_000_000))
        self.done.rung_again += again
        return again > 0

    def _discover(self) -> None:
        """Serve every queue in which tasks wait, also those that no setting names."""
        for queue in self._ledger.oldest_waiting_age():
            if queue not in self._windows:
                log.info("serving the queue %s too", queue)
                self._windows[queue] = Window(self._largest_window)

    def _back_off(self, exc: BrokerUnavailableError) -> float:
        self._connected = False
        self._failures += 1
        self.done.broker_failures += 1
        if self._failures == 1:
            log.warning("%s", exc.message)
        base, most = _BACKOFF_SECONDS
        return self._rng.uniform(base / 2, min(base * 2.0 ** min(self._failures, 16), most))
