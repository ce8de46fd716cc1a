"""The relay: carries tasks from the ledger to the broker and keeps the ledger tidy. One is active, others stand by."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sparkle.clock import Clock
from sparkle.errors import SparkleError
from sparkle.settings_tasks import TasksSettings
from sparkle.tasks.burial import bury_dead
from sparkle.tasks.carrier import Carrier
from sparkle.tasks.ledger_metrics import RelayFigures, render
from sparkle.tasks.states import TaskState

if TYPE_CHECKING:
    from sparkle.tasks.ledger import Ledger

log = logging.getLogger("sparkle.tasks.relay")

ROLE = "relay"
_KEEP_SECONDS = 0.5
_BURY_SECONDS = 1.0
_PURGE_SECONDS = 60.0
_PURGE_BATCH = 500
_PURGE_ROUNDS = 8
_CHECKPOINT_SECONDS = 30.0
_REPORT_SECONDS = 5.0
_DAY_MICROSECONDS = 86_400 * 1_000_000


class Bell(Protocol):
    """What somebody rings who has just added a task."""

    def wait(self, seconds: float) -> bool:
        """Return when it rings, at the latest after ``seconds``; whether it rang."""
        ...


class Relay:
    """One relay process. :meth:`run` blocks; it may be called once.

    Args:
        ledger: The ledger; used from two threads.
        carrier: Its line to the broker.
        settings: Lease and retention.
        owner: This process's id in the ledger.
        bell: Rung by those who schedule.
        clock: Time.
        rng: For the jitter of the stand-by.
        info: Facts about this process for ``sparkle doctor``.
        report: Takes the metrics every few seconds while this relay is active; ``None``: nobody does.
    """

    def __init__(
        self,
        ledger: Ledger,
        carrier: Carrier,
        settings: TasksSettings,
        *,
        owner: str,
        bell: Bell,
        clock: Clock,
        rng: random.Random,
        info: Mapping[str, Any] | None = None,
        report: Callable[[bytes], None] | None = None,
    ) -> None:
        self._ledger = ledger
        self._carrier = carrier
        self._settings = settings
        self._owner = owner
        self._bell = bell
        self._clock = clock
        self._rng = rng
        self._info = dict(info or {})
        self._report = report
        self._report_at = 0.0
        self._active = threading.Event()
        self._expired = 0
        self._purged = 0
        self._bury_at = 0.0
        self._purge_at = 0.0
        self._checkpoint_at = 0.0
        self._lead_until = 0.0
        self._role_at = 0.0

    @property
    def active(self) -> bool:
        """Whether this relay is the one that works."""
        return self._active.is_set()

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set, then hand the role on."""
        carrying = threading.Thread(target=self._carry, args=(stop,), name="carrier")
        carrying.start()
        try:
            while not stop.is_set():
                self._guarded(self.keep)
                stop.wait(_KEEP_SECONDS)
        finally:
            stop.set()
            carrying.join()
            self._guarded(self._leave)

    def keep(self) -> None:
        """One round of housekeeping; if another relay is active, only an attempt to take its place.

        Raises:
            LedgerUnavailableError: The ledger does not answer.
        """
        now = self._clock.monotonic()
        if now >= self._bury_at:
            # Also while standing by: the dead may be the relay that was active.
            self._bury_at = now + _BURY_SECONDS
            self._count_expired(bury_dead(self._ledger), "of dead processes")
        if now >= self._role_at:
            self._keep_role(now)
            # Whoever stands by asks often, so that it takes over soon; whoever is active only has to stay so.
            self._role_at = now + (self._settings.heartbeat_seconds if self.active else 0.0)
        if self.active:
            self._tidy()

    def _keep_role(self, asked: float) -> None:
        lease = self._settings.lease_seconds
        if self._ledger.acquire(ROLE, self._owner, lease):
            # A role that was not confirmed in time may be another's: the carrier stops before it can be.
            self._lead_until = asked + lease
            if not self.active:
                log.info("this relay is active")
                self._active.set()
        elif self.active:
            log.warning("another relay is active now")
            self._active.clear()
        self._ledger.announce(self._owner, ROLE, lease, info=self._facts())

    def _tidy(self) -> None:
        self._count_expired(self._ledger.expire(), "without a word from their workers")
        now = self._clock.monotonic()
        # Small batches, so that writers never wait for long, and a few a round until nothing is left.
        if now >= self._purge_at and not all(self._purge() for _ in range(_PURGE_ROUNDS)):
            self._purge_at = now + _PURGE_SECONDS
        if now >= self._checkpoint_at:
            self._ledger.checkpoint()
            self._checkpoint_at = now + _CHECKPOINT_SECONDS
        if self._report is not None and now >= self._report_at:
            self._report(render(self._ledger, self._figures()))
            # Counting a backlog of a million takes a moment; it shall not become the relay's main work.
            took = self._clock.monotonic() - now
            self._report_at = now + max(_REPORT_SECONDS, 20 * took)

    def _count_expired(self, tasks: Sequence[str], why: str) -> None:
        if tasks:
            self._expired += len(tasks)
            log.warning("%d leases ended %s", len(tasks), why)

    def _figures(self) -> RelayFigures:
        done = self._carrier.done
        return RelayFigures(
            done.tasks,
            done.messages,
            done.rung_again,
            self._expired,
            done.broker_failures,
            self._carrier.broker_answers,
        )

    def _purge(self) -> int:
        now = int(self._clock.now() * 1_000_000)
        kept: tuple[tuple[int, frozenset[TaskState]], ...] = (
            (self._settings.keep_succeeded_days, frozenset({TaskState.SUCCEEDED})),
            (
                self._settings.keep_failed_days,
                frozenset({TaskState.FAILED, TaskState.CANCELLED, TaskState.INTERRUPTED}),
            ),
        )
        purged = sum(
            self._ledger.purge(now - days * _DAY_MICROSECONDS, states=states, batch=_PURGE_BATCH)
            for days, states in kept
            if days
        )
        self._purged += purged
        return purged

    def _carry(self, stop: threading.Event) -> None:
        while not stop.is_set():
            pause = self._settings.poll_seconds
            if self.active and self._clock.monotonic() < self._lead_until:
                pause = self._guarded(self._carrier.step, pause)
            self._bell.wait(pause)
        self._carrier.close()

    def _guarded(self, work: Any, otherwise: float = 1.0) -> float:
        """Run ``work``; a ledger that does not answer, or anything unforeseen, must not end the relay."""
        try:
            result = work()
        except SparkleError as exc:
            log.error("%s", exc.message)
            return max(otherwise, self._rng.uniform(0.2, 1.0))
        except (
            Exception
        ):  # a relay that died of a surprise would leave every task waiting; the next round tries again
            log.exception("the relay stumbled")
            return max(otherwise, self._rng.uniform(0.5, 2.0))
        return result if isinstance(result, float) else otherwise

    def _facts(self) -> dict[str, Any]:
        done = self._carrier.done
        return {
            **self._info,
            "active": self.active,
            "broker_answers": self._carrier.broker_answers,
            "handed_over": done.tasks,
            "messages": done.messages,
            "rung_again": done.rung_again,
            "broker_failures": done.broker_failures,
            "leases_expired": self._expired,
            "purged": self._purged,
        }

    def _leave(self) -> None:
        self._ledger.relinquish(ROLE, self._owner)
        self._ledger.leave(self._owner)
