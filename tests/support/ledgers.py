"""What the tests of the ledger share: ledgers over both databases, a clock, tasks to put into them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.support.clock import ManualClock

from sparkle.tasks.ids import TaskIds
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.record import Claim, Failure, NewTask, TaskRecord
from sparkle.tasks.states import TaskMode, TaskState

QUEUE = "sparkle.default.sync"
OTHER = "sparkle.default.async"
WIDE = {QUEUE: 1_000, OTHER: 1_000}
LEASE = 6.0
OOPS = Failure("ValueError", "oops")


class OpenLedger(Protocol):
    """Opens one more process's access to the same ledger."""

    def __call__(self, clock: ManualClock) -> Ledger: ...


def sqlite_opener(folder: Path) -> OpenLedger:
    return lambda clock: Ledger.open(folder, clock=clock, ids=TaskIds(clock))


def url_opener(url: str) -> OpenLedger:
    return lambda clock: Ledger.open(url, clock=clock, ids=TaskIds(clock))


def new(name: str = "work", **fields: Any) -> NewTask:
    queue: str = fields.pop("queue", QUEUE)
    return NewTask(name=name, queue=queue, **fields)


@dataclass
class LedgerHouse:
    """Several processes over one ledger and one clock."""

    opener: OpenLedger
    clock: ManualClock = field(default_factory=ManualClock)
    opened: list[Ledger] = field(default_factory=list[Ledger])
    _workers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def ledger(self) -> Ledger:
        """The first process's."""
        return self.opened[0] if self.opened else self.another()

    def another(self) -> Ledger:
        """One more process's."""
        ledger = self.opener(self.clock)
        self.opened.append(ledger)
        return ledger

    def add(self, name: str = "work", **fields: Any) -> TaskRecord:
        return self.ledger.add([new(name, **fields)])[0]

    def running(self, name: str = "work", *, owner: str | None = None, **fields: Any) -> Claim:
        """A task that a worker has claimed."""
        record = self.add(name, **fields)
        return self.claimed(record.id, owner=owner)

    def claimed(self, id: str, *, owner: str | None = None) -> Claim:
        handed = [task.id for task in self.ledger.hand_over(WIDE)]
        assert id in handed
        (claim,) = self.ledger.claim([id], owner or f"worker-{next(self._workers)}", LEASE)
        return claim

    def failed(self, **fields: Any) -> TaskRecord:
        claim = self.running(**fields)
        self.ledger.fail(claim, OOPS, None)
        return self.ledger.get(claim.id)

    def states(self) -> dict[str, int]:
        """How many tasks are in each state, over all names and queues."""
        found: dict[str, int] = {}
        for count in self.ledger.counts():
            found[count.state.value] = found.get(count.state.value, 0) + count.tasks
        return found

    def close(self) -> None:
        for ledger in self.opened:
            ledger.close()
        self.opened.clear()


def short_running(ledger: Ledger, owner: str) -> str:
    """Write a short task that ``owner`` runs; returns its id."""
    record = TaskRecord(
        id="0190a5a0-0000-7000-8000-000000000001",
        mode=TaskMode.SHORT,
        name="s",
        state=TaskState.RUNNING,
        created_at=ledger.now(),
        due_at=ledger.now(),
        lease_owner=owner,
    )
    ledger.write_short([record])
    return record.id
