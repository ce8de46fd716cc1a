"""The half of the relay that speaks to the broker: hands due tasks over, rings for them, rings again when it must."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sparkle.clock import Clock
from sparkle.errors import BrokerUnavailableError
from sparkle.tasks.messages import Doorbell, pack
from sparkle.tasks.publisher import Publisher
from sparkle.tasks.record import ByName, Handed
from sparkle.tasks.routing import Fleet, editions_remembered, own_queue
from sparkle.tasks.window import Window

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
_MEET_SECONDS = 0.5
"""How often the relay looks which workers live and what they know."""
_BACKOFF_SECONDS = (0.1, 2.0)

Lane = tuple[str, bool]
"""A queue, and whether those of its tasks are meant that go to queues of an edition's own (see ``routing``)."""


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
        self._queues = list(queues)
        self._windows: dict[Lane, Window] = {}
        self._largest_window = window
        self._poll = poll_seconds
        self._clock = clock
        self._rng = rng
        self._saturated: set[Lane] = set()
        self._incarnation: str | None = None
        self._connected = False
        self._failures = 0
        self._probe_at = 0.0
        self._meet_at = 0.0
        self._fleet: Fleet | None = None
        self._unknown: dict[str, set[str]] = {}
        self._sent: dict[tuple[str, str], set[str]] = {}

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
            if self._clock.monotonic() >= self._meet_at:
                self._meet_at = self._clock.monotonic() + _MEET_SECONDS
                self._meet()
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
            again = self._take_back_all()
            log.warning("the broker was restarted; ringing again for %d tasks", again)
        self._incarnation = incarnation
        self._connected = True

    def _meet(self) -> None:
        """Learn which workers live and what they know."""
        workers = self._ledger.owners("worker")
        fleet, before = Fleet.of(workers, self._ledger.now()), self._fleet
        if fleet == before:
            return
        self._fleet = fleet
        self._unknown.clear()  # perhaps somebody knows them now; the next step tells
        if before is None:
            # A relay before this one may have rung in queues that nobody reads any more.
            if editions_remembered(workers) > 1:
                self._take_back_all()
            return
        alive = {edition.id for edition in fleet.editions}
        gone = [(queue, edition) for queue, edition in self._sent if edition not in alive]
        for queue, edition in gone:
            names = ByName(frozenset(self._sent.pop((queue, edition))), only=True)
            self.done.rung_again += self._ledger.take_back(queue=queue, chosen=names)
        for queue, edition in gone:
            self._publisher.empty(own_queue(queue, edition))

    def _take_back_all(self) -> int:
        again = sum(self._ledger.take_back(queue=queue) for queue in self._queues)
        self.done.rung_again += again
        return again

    def _carry(self) -> bool:
        now = self._clock.monotonic()
        if self._saturated:
            lying = self._lying()
            for lane, window in self._windows.items():
                window.observe(lying.get(lane, (0, 0))[0], lane in self._saturated, now)
        shared, own = self._hand_over(own=False), self._hand_over(own=True)
        if not shared and not own:
            return bool(self._saturated) and self._still_full()
        # More may wait behind what was handed over; the next steps tell.
        self._saturated = {(task.queue, False) for task in shared} | {(task.queue, True) for task in own}
        self._publish([*shared, *own])
        return True

    def _hand_over(self, *, own: bool) -> list[Handed]:
        """Tasks that go to the shared queues, or those for which an edition's own one is needed."""
        chosen: dict[str, ByName] = {}
        for queue in self._queues:
            names = self._divided(queue)
            if not own:
                names = names.union(self._unknown.get(queue, ()))
            if names:
                chosen[queue] = ByName(names, only=own)
        if own and not chosen:
            return []
        asked = chosen if own else self._queues
        return self._ledger.hand_over(
            {queue: self._window(queue, own).size for queue in asked}, chosen=chosen
        )

    def _window(self, queue: str, own: bool) -> Window:
        lane = (queue, own)
        if lane not in self._windows:
            self._windows[lane] = Window(self._largest_window)
        return self._windows[lane]

    def _divided(self, queue: str) -> frozenset[str]:
        return self._fleet.divided(queue) if self._fleet is not None else frozenset()

    def _lying(self) -> dict[Lane, tuple[int, int]]:
        """What lies in the broker: number of tasks, and since when the oldest does (microseconds since the epoch)."""
        if not any(self._divided(queue) for queue in self._queues):
            return {(queue, False): found for queue, found in self._ledger.queued().items()}
        lying: dict[Lane, tuple[int, int]] = {}
        for queue, name, count, oldest in self._ledger.queued_names():
            lane = (queue, name in self._divided(queue))
            known, since = lying.get(lane, (0, oldest))
            lying[lane] = known + count, min(since, oldest)
        return lying

    def _still_full(self) -> bool:
        lying = self._lying()
        self._saturated = {
            lane for lane in self._saturated if lying.get(lane, (0, 0))[0] >= self._windows[lane].size
        }
        return bool(self._saturated)

    def _publish(self, handed: Sequence[Handed]) -> None:
        rung: set[str] = set()
        try:
            for doorbell in self._publisher.publish(self._addressed(handed)):
                rung.update(doorbell.ids)
                self.done.messages += 1
        finally:
            self.done.tasks += len(rung)
            if silent := [task.id for task in handed if task.id not in rung]:
                # The one in doubt is among them: it may ring twice, which is harmless.
                self._ledger.take_back(ids=silent)

    def _addressed(self, handed: Sequence[Handed]) -> Iterator[Doorbell]:
        """Doorbells for those whose name somebody knows; the others stay in the ledger until somebody does."""
        ways: dict[str, list[Handed]] = {}
        for task in handed:
            editions = () if self._fleet is None else self._fleet.way(task.queue, task.name)
            if editions is None:
                self._wait_for(task)
            elif not editions:
                ways.setdefault(task.queue, []).append(task)
            else:
                edition = self._rng.choice(editions)
                ways.setdefault(own_queue(task.queue, edition), []).append(task)
                self._sent.setdefault((task.queue, edition), set()).add(task.name)
        for queue, tasks in ways.items():
            yield from (replace(doorbell, queue=queue) for doorbell in pack(tasks))

    def _wait_for(self, task: Handed) -> None:
        unknown = self._unknown.setdefault(task.queue, set())
        if task.name not in unknown:
            unknown.add(task.name)
            log.warning(
                "no worker of %s knows tasks named %s; they wait until one does", task.queue, task.name
            )

    def _probe(self) -> bool:
        """Ring again for what nobody claimed although the broker holds nothing more of it."""
        now = int(self._clock.now() * 1_000_000)
        again = 0
        for (queue, own), (count, oldest) in self._lying().items():
            waited = (now - oldest) / 1_000_000
            if waited < LOST_SECONDS or queue not in self._queues:
                continue
            in_broker = sum(map(self._publisher.waiting, self._rung_in(queue, own)))
            if in_broker == 0:
                limit = LOST_SECONDS
            elif waited >= STALE_SECONDS and in_broker < min(count, 2 * self._window(queue, own).size):
                limit = STALE_SECONDS
            else:
                continue
            names = self._divided(queue)
            again += self._ledger.take_back(
                queue=queue,
                chosen=ByName(names, only=own) if names else None,
                older_than=now - int(limit * 1_000_000),
            )
        self.done.rung_again += again
        return again > 0

    def _rung_in(self, queue: str, own: bool) -> list[str]:
        if not own or self._fleet is None:
            return [queue]
        return [own_queue(queue, edition) for edition in self._fleet.readers_of(queue)]

    def _discover(self) -> None:
        """Serve every queue in which tasks wait, also those that no setting names."""
        for queue in self._ledger.oldest_waiting_age():
            if queue not in self._queues:
                log.info("serving the queue %s too", queue)
                self._queues.append(queue)

    def _back_off(self, exc: BrokerUnavailableError) -> float:
        self._connected = False
        self._failures += 1
        self.done.broker_failures += 1
        if self._failures == 1:
            log.warning("%s", exc.message)
        base, most = _BACKOFF_SECONDS
        return self._rng.uniform(base / 2, min(base * 2.0 ** min(self._failures, 16), most))
