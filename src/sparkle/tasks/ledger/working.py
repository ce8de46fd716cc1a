"""The worker's side: claim, keep, end. Every statement about an attempt is checked against its fence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from sparkle.errors_tasks import LeaseLostError
from sparkle.tasks.ledger.base import MICROSECONDS, LedgerBase, json
from sparkle.tasks.ledger.engine import database_errors
from sparkle.tasks.ledger.rows import record_of
from sparkle.tasks.record import Claim, Failure, Heartbeat, Progress
from sparkle.tasks.states import TaskState

_REMEMBERED = 0.9
"""What one more run leaves of the moving average of a name's duration."""


class Working(LedgerBase):
    """``claim``, ``heartbeat``, ``complete``, ``fail``, ``release``, ``cancelled`` and their batches."""

    def claim(self, ids: Sequence[str], owner: str, lease_seconds: float) -> list[Claim]:
        """Take those of ``ids`` that are QUEUED; of several workers one gets each.

        Args:
            ids: What a doorbell message named.
            owner: The worker child, one id for each process ever started.
            lease_seconds: The claim holds so long without a heartbeat.

        Returns:
            A claim for each task that is now RUNNING for ``owner``, in the order of ``ids``. The others are somebody
            else's, over, or back in the ledger: drop the message.
        """
        now = self.now()
        until = now + int(lease_seconds * MICROSECONDS)
        with self._writing() as connection:
            rows = self._run(
                connection, "claim", ids=json(list(ids)), owner=owner, now=now, until=until
            ).all()
        found = {record.id: Claim(record.id, record.fence, record) for record in map(record_of, rows)}
        return [found[id] for id in dict.fromkeys(ids) if id in found]

    def heartbeat(self, owner: str, claims: Sequence[Claim], lease_seconds: float) -> Heartbeat:
        """Extend the leases to ``lease_seconds`` from now, and learn which are lost or to be cancelled."""
        if not claims:
            return Heartbeat()
        until = self.now() + int(lease_seconds * MICROSECONDS)
        ids = [claim.id for claim in claims]
        with self._writing() as connection:
            self._lock_rows(connection, ids)
            rows = self._run(connection, "heartbeat", ids=json(ids), owner=owner, until=until).all()
        held = {row.id: (row.fence, bool(row.cancel_requested)) for row in rows}
        lost = tuple(claim.id for claim in claims if held.get(claim.id, (None,))[0] != claim.fence)
        cancel = tuple(claim.id for claim in claims if claim.id not in lost and held[claim.id][1])
        return Heartbeat(lost, cancel)

    def complete(self, claim: Claim, result: str | None, *, connection: Connection | None = None) -> None:
        """RUNNING to SUCCEEDED.

        Args:
            claim: The attempt.
            result: JSON of what the task returned.
            connection: The transaction with the task's own effects, in the ledger's database: they and the completion
                happen together or not at all. ``None``: a transaction of its own.

        Raises:
            LeaseLostError: The attempt is another worker's by now, or over. Let it roll the transaction back.
        """
        if connection is not None:
            with database_errors():
                self._end(connection, "complete", claim, result=result)
            return
        with self._writing() as own:
            self._end(own, "complete", claim, result=result)

    def cancelled(self, claim: Claim) -> None:
        """RUNNING to CANCELLED. Raises LeaseLostError when the attempt is no longer this claim's."""
        with self._writing() as connection:
            self._end(connection, "cancelled", claim)

    def _end(self, connection: Connection, name: str, claim: Claim, **values: str | None) -> None:
        now = self.now()
        if self._run(connection, name, id=claim.id, fence=claim.fence, now=now, **values).rowcount != 1:
            raise LeaseLostError(f"task {claim.id} is no longer this worker's; its effects are rolled back")

    def fail(self, claim: Claim, failure: Failure, retry_at: int | None) -> TaskState:
        """RUNNING to RETRYING (due at ``retry_at``, microseconds since the epoch) or, with ``None``, to FAILED.

        A task that somebody wanted cancelled becomes CANCELLED instead.

        Returns:
            The new state.

        Raises:
            LeaseLostError: The attempt is another worker's by now, or over.
        """
        states = self._fail([(claim, failure, retry_at)])
        if claim.id not in states:
            raise LeaseLostError(f"task {claim.id} is no longer this worker's")
        return states[claim.id]

    def complete_many(self, results: Sequence[tuple[Claim, str | None]]) -> list[str]:
        """:meth:`complete` for many in one transaction. Returns the ids whose claim no longer held."""
        if not results:
            return []
        rows = [(claim.id, claim.fence, result) for claim, result in results]
        with self._writing() as connection:
            self._lock_rows(connection, (row[0] for row in rows))
            done = self._run(connection, "complete_many", rows=json(rows), now=self.now()).scalars().all()
        return _left(rows, done)

    def fail_many(self, failures: Sequence[tuple[Claim, Failure, int | None]]) -> list[str]:
        """:meth:`fail` for many in one transaction. Returns the ids whose claim no longer held."""
        states = self._fail(failures)
        return [claim.id for claim, _, _ in failures if claim.id not in states]

    def _fail(self, failures: Sequence[tuple[Claim, Failure, int | None]]) -> dict[str, TaskState]:
        if not failures:
            return {}
        rows = [
            (claim.id, claim.fence, failure.error_type, failure.error_message, retry_at)
            for claim, failure, retry_at in failures
        ]
        with self._writing() as connection:
            self._lock_rows(connection, (row[0] for row in rows))
            done = self._run(connection, "fail_many", rows=json(rows), now=self.now()).all()
        return {row.id: TaskState(row.state) for row in done}

    def release(self, claims: Sequence[Claim], *, due_at: int | None = None) -> list[str]:
        """RUNNING to WAITING: a worker that shuts down hands its tasks back. The attempts do not count.

        Args:
            claims: The attempts.
            due_at: Not to be handed out before (microseconds since the epoch); ``None``: at once.

        Returns:
            The ids released (or cancelled, where somebody wanted that); lost ones are left out.
        """
        if not claims:
            return []
        rows = [(claim.id, claim.fence) for claim in claims]
        with self._writing() as connection:
            self._lock_rows(connection, (row[0] for row in rows))
            return list(
                self._run(connection, "release", rows=json(rows), now=self.now(), due_at=due_at).scalars()
            )

    def report_progress(self, updates: Sequence[Progress]) -> None:
        """Store what running tasks reported. Reports of lost claims are dropped."""
        if not updates:
            return
        rows = [(entry.claim.id, entry.claim.fence, entry.progress, entry.note) for entry in updates]
        with self._writing() as connection:
            self._lock_rows(connection, (row[0] for row in rows))
            self._run(connection, "progress", rows=json(rows))

    def learn(self, durations: Mapping[str, tuple[float, int]]) -> None:
        """Fold what tasks took into what :meth:`hand_over` expects.

        Args:
            durations: Name to (mean milliseconds, number of runs) since the last call.
        """
        with self._writing() as connection:
            for name, (milliseconds, runs) in sorted(durations.items()):
                weight = 1.0 - _REMEMBERED**runs
                self._run(connection, "learn", name=name, milliseconds=milliseconds, runs=runs, weight=weight)


def _left(rows: Sequence[tuple[str, int, str | None]], done: Sequence[str]) -> list[str]:
    ended = set(done)
    return [row[0] for row in rows if row[0] not in ended]
