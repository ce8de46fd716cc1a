"""One child of a worker: claims what a message names, runs it, tells the ledger."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sparkle.clock import Clock
from sparkle.errors import SparkleError
from sparkle.errors_tasks import TaskNotFoundError
from sparkle.settings_tasks import TasksSettings
from sparkle.tasks.burial import mark
from sparkle.tasks.record import Claim, Failure
from sparkle.tasks.registry import LongTask, TaskRegistry
from sparkle.tasks.routing import announcement
from sparkle.tasks.worker.async_host import AsyncHost
from sparkle.tasks.worker.board import Board, SlotState
from sparkle.tasks.worker.plain import PlainRunner
from sparkle.tasks.worker.pulse import Pulse
from sparkle.tasks.worker.running import Outcome, Reason, Running
from sparkle.tasks.worker.settle import Settler

if TYPE_CHECKING:
    from sparkle.tasks.ledger import Ledger

log = logging.getLogger("sparkle.tasks.worker")

SETTLE_SECONDS = 0.05
"""Plain tasks of one message are noted as done together, after so long or at the message's end."""
UNKNOWN_LEAST, UNKNOWN_MOST = 0.2, 1.0
"""A task whose name this worker does not know is handed back for so many seconds: long enough for the relay to have
heard of this worker, after which it sends such tasks elsewhere. Longer for what was scheduled long ago."""


def new_owner() -> str:
    """An id that no other process, on any host, ever has."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid4().hex[:12]}"


class Child:
    """Everything a child does between its messages and the ledger.

    Args:
        ledger: Opened after the fork.
        registry: The tasks it knows.
        settings: Limits and leases.
        board: Shared with the parent.
        index: Its place on the board.
        clock: Time.
        rng: For the jitter of retries.
        owner: Its id in the ledger; ``None``: a new one.
        queues: Queues that its worker reads, for the relay to know.
        edition: What its worker shares with others that are alike; see :mod:`sparkle.tasks.routing`.
    """

    def __init__(
        self,
        ledger: Ledger,
        registry: TaskRegistry,
        settings: TasksSettings,
        *,
        board: Board,
        index: int,
        clock: Clock,
        rng: random.Random,
        owner: str | None = None,
        queues: Sequence[str] = (),
        edition: str = "",
    ) -> None:
        # A dead child's successor knows more about that death than anybody else: see `_bury`.
        self._mark = mark(heir=os.getppid())
        self._queues = queues
        self._edition = edition
        self.owner = owner or new_owner()
        self._ledger = ledger
        self._registry = registry
        self._settings = settings
        self._board = board
        self._slot = board.slot(index)
        self._clock = clock
        self._rng = rng
        self._lock = threading.Lock()
        self._held: dict[str, Claim] = {}
        self._ran = 0
        self._settler = Settler(
            ledger, clock=clock, rng=rng, patience_seconds=max(10.0, 2 * settings.lease_seconds)
        )
        self._plain = PlainRunner(clock=clock, max_result_bytes=settings.max_result_bytes)
        self._async = AsyncHost(
            limit=settings.async_in_flight,
            settler=self._settler,
            settled=self._forget,
            clock=clock,
            max_result_bytes=settings.max_result_bytes,
        )
        self._pulse = Pulse(
            self,
            ledger,
            settings,
            owner=self.owner,
            board=board,
            slot=self._slot,
            clock=clock,
            facts=self._facts,
        )

    def start(self) -> None:
        """Report the predecessor's death, take its place, begin the pulse. In the main thread, before any message."""
        try:
            self._bury(self._slot.read())
        except SparkleError as exc:
            log.error("%s", exc.message)  # its leases end by themselves
        self._slot.occupy(os.getpid(), self.owner)
        self._plain.install()
        self._pulse.start()

    def handle(self, ids: Sequence[str]) -> None:
        """Run what of ``ids`` this child can claim: plain tasks to their end, async ones only until they are started.

        Raises:
            LedgerUnavailableError: Nothing could be claimed; the relay rings again.
        """
        if self.stopping():
            self._ledger.take_back(ids=ids)
            return
        claims = self._ledger.claim(ids, self.owner, self._settings.lease_seconds)
        with self._lock:
            self._held.update((claim.id, claim) for claim in claims)
        plain: list[Running] = []
        concurrent: list[Running] = []
        unknown: list[Claim] = []
        for claim in claims:
            task = self._registry.get(claim.record.name)
            if task is None:
                unknown.append(claim)
            else:
                (concurrent if task.is_async else plain).append(self._attempt(claim, task))
        if unknown:
            self._give_back_unknown(unknown)
        if concurrent:
            self._note(
                [Outcome(r, reason=Reason.RELEASE) for r in self._async.submit(concurrent, self.stopping)]
            )
        self._run_plain(plain)

    def stopping(self) -> bool:
        """Whether the worker was told to stop."""
        return self._board.stop_at > 0.0

    def close(self) -> None:
        """Let what runs come to its end until the stop's deadline, hand back the rest, say goodbye. In the main thread.

        Nothing is raised: what cannot be told to the ledger ends with its lease.
        """
        stop_at = self._board.stop_at or self._clock.monotonic()
        # The pulse interrupts what still runs at the deadline; a little later nothing is in flight any more.
        self._async.wait_idle(max(0.0, stop_at - self._clock.monotonic()) + 2.0)
        self._pulse.stop()
        try:
            self._ledger.release(self.claims())
            self._settler.learn()
            self._ledger.leave(self.owner)
        except SparkleError as exc:
            log.error("%s", exc.message)
        self._slot.disarm()
        self._slot.occupy(0, "")

    # What the pulse watches.

    def claims(self) -> list[Claim]:
        """All leases this child holds."""
        with self._lock:
            return list(self._held.values())

    def running(self) -> list[Running]:
        """All tasks that run now."""
        current = self._plain.current
        return [*self._async.in_flight(), *([] if current is None else [current])]

    def interrupt(self, running: Running, reason: Reason) -> None:
        """Make a running task stop."""
        (self._async if running.task.is_async else self._plain).interrupt(running, reason)

    def lose(self, claims: Iterable[Claim]) -> None:
        """Forget leases that are another's."""
        with self._lock:
            for claim in claims:
                self._drop(claim)

    def learn(self) -> None:
        """Tell the ledger how long tasks take."""
        self._settler.learn()

    def fail_by_limit(self, running: Running) -> None:
        """Tell the ledger that a task did not end at its time limit."""
        error = running.never_ended()
        retry_at = self._settler.retry_at(Outcome(running, error=error))
        self._ledger.fail_many([(running.claim, Failure.of(error), retry_at)])

    # Inside.

    def _attempt(self, claim: Claim, task: LongTask[..., Any]) -> Running:
        soft = task.timeout or self._settings.soft_timeout_seconds
        hard = task.hard_timeout - soft if task.hard_timeout else self._settings.hard_timeout_seconds
        return Running(claim, task, self._ledger, soft_seconds=soft, hard_seconds=max(hard, 0.0))

    def _run_plain(self, batch: Sequence[Running]) -> None:
        done: list[Outcome] = []
        settle_at = self._clock.monotonic() + SETTLE_SECONDS
        for running in batch:
            with self._lock:
                held = self._held.get(running.claim.id)
                lost = held is None or held.fence != running.claim.fence
            if lost:
                continue
            if self.stopping():
                done.append(Outcome(running, reason=Reason.RELEASE))
                continue
            # Before it starts: a task that never lets another thread run must still be killed in time.
            running.started = self._clock.monotonic()
            self._slot.arm(running.killed_at, running.claim.id, running.claim.fence)
            outcome = self._plain.run(running)
            self._slot.disarm()
            if outcome is None:
                self._settler.durations.add(
                    [Outcome(running, seconds=self._clock.monotonic() - running.started)]
                )
                self._forget([running])
            else:
                done.append(outcome)
            if self._clock.monotonic() >= settle_at:
                self._note(done)
                done = []
                settle_at = self._clock.monotonic() + SETTLE_SECONDS
        self._note(done)

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        if outcomes:
            self._settler.settle(outcomes)
            self._forget([outcome.running for outcome in outcomes])

    def _forget(self, ended: Sequence[Running]) -> None:
        with self._lock:
            for running in ended:
                self._drop(running.claim)
                self._ran += 1

    def _drop(self, claim: Claim) -> None:
        # A later claim of the same task may be held by now: it is not this one's to forget.
        held = self._held.get(claim.id)
        if held is not None and held.fence == claim.fence:
            del self._held[claim.id]

    def _give_back_unknown(self, claims: Sequence[Claim]) -> None:
        names = sorted({claim.record.name for claim in claims})
        log.warning("this worker knows no task named %s; handing it back", ", ".join(names))
        now = self._clock.now()
        waited = max(now - claim.record.created_at / 1_000_000 for claim in claims)
        pause = min(max(waited / 20, UNKNOWN_LEAST), UNKNOWN_MOST)
        later = int((now + pause * (0.5 + self._rng.random())) * 1_000_000)
        self._ledger.release(claims, due_at=later)
        self.lose(claims)

    def _bury(self, predecessor: SlotState) -> None:
        """Tell the ledger that the child which had this place is dead: its tasks need not wait for their leases."""
        if predecessor.pid == 0 or not predecessor.owner:
            return
        if predecessor.killed and predecessor.task_id:
            self._fail_killed(predecessor)
        taken = self._ledger.expire(owner=predecessor.owner)
        self._ledger.leave(predecessor.owner)
        log.warning("worker child %d died; %d of its tasks are handed out again", predecessor.pid, len(taken))

    def _fail_killed(self, dead: SlotState) -> None:
        """The task that did not end at its time limit failed by that; it was no crash."""
        try:
            record = self._ledger.get(dead.task_id)
        except TaskNotFoundError:
            return
        task = self._registry.get(record.name)
        if record.fence != dead.fence or record.lease_owner != dead.owner or task is None:
            return
        self.fail_by_limit(self._attempt(Claim(record.id, record.fence, record), task))

    def _facts(self) -> dict[str, Any]:
        with self._lock:
            held, ran = len(self._held), self._ran
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "parent": os.getppid(),
            **self._mark,
            "tasks_held": held,
            "tasks_ended": ran,
            **announcement((task.name for task in self._registry), self._queues, self._edition),
        }
