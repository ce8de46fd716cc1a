"""Telling the ledger how attempts ended: many in one transaction, and again until it hears it."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from sparkle.clock import Clock
from sparkle.errors import StoreUnavailableError
from sparkle.errors_tasks import LeaseLostError
from sparkle.tasks.record import Claim, Failure
from sparkle.tasks.worker.running import Outcome, Reason, ResultError, Running

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from sparkle.tasks.ledger import Ledger

log = logging.getLogger("sparkle.tasks.worker")

_AGAIN_SECONDS = 0.2


class Durations:
    """How long tasks took, by name, since the ledger last learned of it. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[str, tuple[float, int]] = {}
        self._known: set[str] = set()

    def add(self, outcomes: Iterable[Outcome]) -> bool:
        """Count outcomes; true if a name is among them that was never seen: the relay should learn of it soon."""
        new = False
        with self._lock:
            for outcome in outcomes:
                if outcome.reason is None:
                    name = outcome.running.claim.record.name
                    total, runs = self._sums.get(name, (0.0, 0))
                    self._sums[name] = (total + outcome.seconds * 1000.0, runs + 1)
                    new = new or name not in self._known
                    self._known.add(name)
        return new

    def take(self) -> dict[str, tuple[float, int]]:
        """Mean milliseconds and runs by name; counting begins anew."""
        with self._lock:
            sums, self._sums = self._sums, {}
        return {name: (total / runs, runs) for name, (total, runs) in sums.items()}


class Settler:
    """Writes outcomes to the ledger. For several threads.

    Args:
        ledger: The ledger.
        clock: Time.
        rng: For the jitter of retries.
        patience_seconds: How long to try while the ledger does not answer; after that the leases are left to end, and
            the tasks run again elsewhere.
    """

    def __init__(self, ledger: Ledger, *, clock: Clock, rng: random.Random, patience_seconds: float) -> None:
        self.durations = Durations()
        self._ledger = ledger
        self._clock = clock
        self._rng = rng
        self._patience = patience_seconds
        self._pause = threading.Event()

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Write all of them. What is another's by now is dropped, what the ledger does not take in time as well."""
        if not outcomes:
            return
        if self.durations.add(outcomes):
            self._patiently(self.learn)
        succeeded: list[tuple[Claim, str | None]] = []
        failed: list[tuple[Claim, Failure, int | None]] = []
        released: list[Claim] = []
        for outcome in outcomes:
            claim = outcome.running.claim
            match outcome.reason:
                case Reason.RELEASE:
                    released.append(claim)
                case Reason.CANCEL:
                    self._patiently(lambda claim=claim: self._cancelled(claim))
                case Reason.LOST:
                    continue
                case Reason.TIMEOUT:
                    error = outcome.error or outcome.running.too_long()
                    failed.append(
                        (claim, Failure.of(error), self.retry_at(Outcome(outcome.running, error=error)))
                    )
                case None if outcome.error is not None:
                    failed.append((claim, Failure.of(outcome.error), self.retry_at(outcome)))
                case None if outcome.running.context.has_effects:
                    self._patiently(lambda outcome=outcome: self._with_effects(outcome))
                case None:
                    succeeded.append((claim, outcome.result))
        if succeeded:
            self._patiently(lambda: self._ledger.complete_many(succeeded))
        if failed:
            self._patiently(lambda: self._ledger.fail_many(failed))
        if released:
            self._patiently(lambda: self._ledger.release(released))

    def learn(self) -> None:
        """Tell the ledger how long tasks take.

        Raises:
            LedgerUnavailableError: It does not answer.
        """
        if durations := self.durations.take():
            self._ledger.learn(durations)

    def retry_at(self, outcome: Outcome) -> int | None:
        """When to try again, in microseconds since the epoch; ``None``: never."""
        error, record, policy = outcome.error, outcome.running.claim.record, outcome.running.task.retry
        if error is None or record.attempt >= record.max_attempts or policy.gives_up(error):
            return None
        if isinstance(error, ResultError):
            return None  # what the task returns cannot be stored at another attempt either
        wait = policy.wait_seconds(record.attempt, self._rng)
        asked = getattr(error, "retry_after", None)
        if isinstance(asked, int | float) and 0 < asked < 86_400:
            wait = max(wait, float(asked))  # whoever refused knows best when it will do no longer
        return int((self._clock.now() + wait) * 1_000_000)

    def _with_effects(self, outcome: Outcome) -> None:
        running = outcome.running
        try:
            complete_with_effects(running, outcome.result, running.open_transaction())
        except (LeaseLostError, StoreUnavailableError):
            raise
        except Exception as exc:  # noqa: BLE001  the task's own callbacks may raise anything: then the attempt failed
            failed = Outcome(running, error=exc, seconds=outcome.seconds)
            self._ledger.fail(running.claim, Failure.of(exc), self.retry_at(failed))

    def _cancelled(self, claim: Claim) -> None:
        self._ledger.cancelled(claim)

    def _patiently(self, write: Callable[[], object]) -> None:
        give_up = self._clock.monotonic() + self._patience
        while True:
            try:
                write()
            except LeaseLostError as exc:
                log.warning("%s", exc.message)
            except StoreUnavailableError as exc:
                if self._clock.monotonic() < give_up:
                    self._pause.wait(_AGAIN_SECONDS)
                    continue
                log.error("%s; finished tasks could not be noted and will run again", exc.message)
            return


def complete_with_effects(running: Running, result: str | None, connection: Connection) -> None:
    """Complete a task in the transaction that holds its effects, and commit it.

    ``connection`` is what ``running.open_transaction`` returned; its transaction ends here, in either way.

    Raises:
        LeaseLostError: The task is another's: nothing of it was written.
        Exception: Whatever the task's own writes raise: nothing was written either.
    """
    with running.stack:
        running.context.write_effects(connection)
        running.ledger.complete(running.claim, result, connection=connection)
