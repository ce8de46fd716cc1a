"""SIGNATURES FIRST: every method's contract; the working code follows in this file's neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from sparkle.clock import Clock
from sparkle.tasks.record import (
    Claim,
    Count,
    Failure,
    Handed,
    Heartbeat,
    LedgerSize,
    NewTask,
    Owner,
    Page,
    Progress,
    TaskFilter,
    TaskRecord,
)
from sparkle.tasks.states import TaskState


class Ledger:
    """One process's access to the ledger; usable from several threads. Open it after a fork, not before.

    Every method is one transaction unless it takes a ``connection``. Raises LedgerUnavailableError when the
    database does not answer, LedgerSchemaError when its tables are missing or of another version.
    """

    @classmethod
    def open(
        cls,
        target: str | Path,
        *,
        clock: Clock | None = None,
        ids: Callable[[], str] | None = None,
        synchronous: str = "normal",
        busy_seconds: float = 10.0,
    ) -> Ledger:
        """``target``: a data folder (its tasks.db) or a database URL. SQLite is created and migrated here."""
        raise NotImplementedError

    def close(self) -> None: ...

    @property
    def engine(self) -> Engine:
        """The engine, for effects of one's own on the ledger's database."""
        raise NotImplementedError

    def write(self) -> AbstractContextManager[Connection]:
        """A write transaction (BEGIN IMMEDIATE on SQLite): commits at the end, rolls back on an error."""
        raise NotImplementedError

    def read(self) -> AbstractContextManager[Connection]:
        """A read transaction."""
        raise NotImplementedError

    # scheduling
    def add(self, tasks: Sequence[NewTask], *, connection: Connection | None = None) -> list[TaskRecord]:
        raise NotImplementedError

    # relay
    def hand_over(self, window: Mapping[str, int], now: int | None = None) -> list[Handed]:
        """Due WAITING/RETRYING -> QUEUED; ``window``: queue -> most tasks that may be QUEUED in it."""
        raise NotImplementedError

    def take_back(
        self,
        *,
        queue: str | None = None,
        ids: Sequence[str] | None = None,
        older_than: int | None = None,
    ) -> int:
        """QUEUED -> WAITING; ``older_than``: only those queued before (microseconds since the epoch)."""
        raise NotImplementedError

    def queued(self) -> dict[str, tuple[int, int]]:
        """By queue: number of QUEUED tasks and the oldest ``queued_at``."""
        raise NotImplementedError

    def expire(self, now: int | None = None, *, owner: str | None = None) -> list[str]:
        """Leases that ended (or all of ``owner``, whose process is known to be dead): RUNNING -> WAITING
        with crashes + 1, or FAILED (WorkerCrashed), or CANCELLED if asked for; short tasks of dead processes
        -> INTERRUPTED. Returns the ids."""
        raise NotImplementedError

    def next_due(self, now: int | None = None) -> int | None:
        """When the next WAITING/RETRYING task is due (microseconds), or None."""
        raise NotImplementedError

    # worker
    def claim(self, ids: Sequence[str], owner: str, lease_seconds: float) -> list[Claim]:
        raise NotImplementedError

    def heartbeat(self, owner: str, claims: Sequence[Claim], lease_seconds: float) -> Heartbeat:
        raise NotImplementedError

    def report_progress(self, updates: Sequence[Progress]) -> None:
        raise NotImplementedError

    def complete(self, claim: Claim, result: str | None, *, connection: Connection | None = None) -> None:
        """RUNNING -> SUCCEEDED; ``result`` is JSON. LeaseLostError when the claim no longer holds."""
        raise NotImplementedError

    def fail(self, claim: Claim, failure: Failure, retry_at: int | None) -> TaskState:
        """RUNNING -> RETRYING (due at ``retry_at``, microseconds) or FAILED; CANCELLED if asked for.
        Returns the new state. LeaseLostError when the claim no longer holds."""
        raise NotImplementedError

    def release(self, claims: Sequence[Claim]) -> list[str]:
        """RUNNING -> WAITING, the attempt not consumed. Returns the ids released; lost ones are left out."""
        raise NotImplementedError

    def cancelled(self, claim: Claim) -> None:
        """RUNNING -> CANCELLED. LeaseLostError when the claim no longer holds."""
        raise NotImplementedError

    def complete_many(self, results: Sequence[tuple[Claim, str | None]]) -> list[str]:
        """complete() of many in one transaction. Returns the ids whose claim no longer held."""
        raise NotImplementedError

    def fail_many(self, failures: Sequence[tuple[Claim, Failure, int | None]]) -> list[str]:
        """fail() of many in one transaction. Returns the ids whose claim no longer held."""
        raise NotImplementedError

    def learn(self, durations: Mapping[str, tuple[float, int]]) -> None:
        """Fold (mean milliseconds, runs) by task name into what hand_over() expects of them."""
        raise NotImplementedError

    # people
    def cancel(self, id: str) -> TaskRecord:
        raise NotImplementedError

    def replay(self, id: str) -> TaskRecord:
        """FAILED/CANCELLED -> WAITING with all attempts anew."""
        raise NotImplementedError

    def retry(self, id: str) -> TaskRecord:
        """RETRYING (or WAITING, not yet due) -> due now."""
        raise NotImplementedError

    def get(self, id: str) -> TaskRecord:
        """Raises TaskNotFoundError."""
        raise NotImplementedError

    def find(self, where: TaskFilter | None = None, *, cursor: str | None = None, limit: int = 50) -> Page:
        raise NotImplementedError

    def counts(self, *, finished: bool = True) -> list[Count]:
        raise NotImplementedError

    def oldest_waiting_age(self, now: int | None = None) -> dict[str, float]:
        """By queue: seconds since the oldest due, unclaimed long task was due."""
        raise NotImplementedError

    # short tasks, processes, housekeeping
    def write_short(self, records: Sequence[TaskRecord]) -> None:
        """Insert or replace short tasks; ``lease_owner`` is the id their process announced."""
        raise NotImplementedError

    def announce(
        self, owner: str, kind: str, alive_seconds: float, *, info: Mapping[str, Any] | None = None
    ) -> None:
        """This process lives at least ``alive_seconds`` longer. kind: worker | relay | beat | manager."""
        raise NotImplementedError

    def leave(self, owner: str) -> None: ...

    def owners(self, kind: str | None = None) -> list[Owner]:
        """Processes that announced themselves and did not leave, dead ones included until purged."""
        raise NotImplementedError

    def acquire(self, role: str, owner: str, seconds: float) -> bool:
        """Take or extend a role that one process at a time may have ("relay", "beat")."""
        raise NotImplementedError

    def relinquish(self, role: str, owner: str) -> None: ...

    def purge(
        self, finished_before: int, *, states: frozenset[TaskState] | None = None, batch: int = 500
    ) -> int:
        """Delete at most ``batch`` tasks that finished before; call again until it says 0."""
        raise NotImplementedError

    def checkpoint(self) -> None:
        """SQLite: fold the write-ahead file in and give free pages back, a bit at a time. The relay calls it."""
        raise NotImplementedError

    def size(self) -> LedgerSize:
        raise NotImplementedError

    def doorbell(self) -> Iterator[None]:
        raise NotImplementedError
