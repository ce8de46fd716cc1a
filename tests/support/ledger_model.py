"""What a stateful test of the ledger knows: what was done, what must hold after each step, and how attempts end."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

from hypothesis.stateful import RuleBasedStateMachine, invariant
from sqlalchemy import Connection, delete, text
from tests.support.clock import ManualClock

from sparkle.errors_tasks import LeaseLostError, TaskStateError
from sparkle.tasks.ids import TaskIds
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.ledger.schema import task as table
from sparkle.tasks.record import Claim, TaskRecord
from sparkle.tasks.states import TRANSITIONS, TaskMode, TaskState

MAX_CRASHES = 2


class CrashError(Exception):
    """The process dies here."""


class LedgerModel(RuleBasedStateMachine):
    """A ledger and what has happened to it so far. The rules are its subclass's."""

    def __init__(self, target: str | Path) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.ledger = Ledger.open(
            target,
            clock=self.clock,
            ids=TaskIds(self.clock, random.Random(1).getrandbits),
            max_crashes=MAX_CRASHES,
        )
        with self.ledger.write() as connection:
            connection.execute(delete(table))
            connection.execute(text("CREATE TABLE IF NOT EXISTS effect (task TEXT, fence INTEGER)"))
            connection.execute(text("DELETE FROM effect"))
        self.rung: set[str] = set()
        """What this very step has handed over."""
        self.bells: list[str] = []
        """Messages in the broker."""
        self.claims: list[tuple[str, Claim]] = []
        """Every claim ever given, with its owner: the workers of old ones may still be running."""
        self.expiring = False
        self.before: dict[str, TaskRecord] = {}
        self.added = 0
        self.purged = 0
        self.purged_effects = 0

    def teardown(self) -> None:
        self.ledger.close()

    # What must hold ---------------------------------------------------------------------------------------------------

    @invariant()
    def every_change_is_one_of_the_table_and_the_ledger_adds_up(self) -> None:
        self.observe()
        rows = self.before.values()
        assert sum(count.tasks for count in self.ledger.counts()) == len(rows) == self.added - self.purged
        succeeded = sum(record.state is TaskState.SUCCEEDED for record in rows)
        with self.ledger.read() as connection:
            effects = list(connection.execute(text("SELECT task FROM effect")).scalars())
        assert len(effects) == len(set(effects)) == succeeded + self.purged_effects
        for record in rows:
            running = record.state is TaskState.RUNNING
            assert (record.lease_until is not None) == running
            assert (record.finished_at is not None) == record.state.finished
            assert (record.queued_at is not None) >= (record.state is TaskState.QUEUED)
            assert running <= record.attempt <= record.max_attempts
            assert record.crashes <= MAX_CRASHES

    def observe(self) -> None:
        """Compare with what was before: states by the table, fences upwards, nothing vanished."""
        after = {record.id: record for record in self.ledger.find(limit=1_000).records}
        assert after.keys() >= self.before.keys()
        for id, record in after.items():
            old = self.before.get(id)
            if old is None:
                self.added += 1
                assert record.state in (TaskState.WAITING, TaskState.QUEUED)
                continue
            new_claim = record.fence - old.fence
            assert new_claim == (record.state is TaskState.RUNNING and old.state is not TaskState.RUNNING)
            crashed = record.crashes - old.crashes
            replayed = old.state.finished and not record.state.finished
            if replayed:
                assert (record.attempt, record.crashes) == (0, 0)
                assert old.state in (TaskState.FAILED, TaskState.CANCELLED)
            elif old.state is TaskState.RUNNING and record.state is TaskState.WAITING:
                # Released, or its worker died: the attempt does not count.
                assert record.attempt == old.attempt - 1
                assert crashed in (0, 1)
                assert crashed == (record.error_type == "WorkerCrashed" and self.expiring)
            else:
                assert record.attempt == old.attempt + new_claim
            if old.cancel_requested and old.state is TaskState.RUNNING and record.state is not old.state:
                assert record.state in (TaskState.CANCELLED, TaskState.SUCCEEDED)
            between = TRANSITIONS[TaskMode.LONG][old.state]
            # One step of this test may ring and claim, which are two of the table.
            rung = old.state in (TaskState.WAITING, TaskState.RETRYING) and record.state is TaskState.RUNNING
            assert record.state is old.state or record.state in between or rung, (old.state, record.state)
        self.before = after
        self.rung = set()
        self.expiring = False

    # Helpers ----------------------------------------------------------------------------------------------------------

    def rows(self) -> dict[str, TaskRecord]:
        return {record.id: record for record in self.ledger.find(limit=1_000).records}

    def holds(self, claim: Claim) -> bool:
        record = self.before.get(claim.id)
        return record is not None and record.state is TaskState.RUNNING and record.fence == claim.fence

    def late(self) -> list[tuple[str, Claim]]:
        """Claims whose task another attempt runs by now."""
        running = {id: r.fence for id, r in self.before.items() if r.state is TaskState.RUNNING}
        return [(owner, c) for owner, c in self.claims if running.get(c.id, c.fence) != c.fence]

    def attempt(self, pick: int, end: Callable[[Claim], object]) -> None:
        """End some attempt, held or long lost; it must go through exactly when it is held."""
        if self.claims:
            _, claim = self.claims[-1 - pick % len(self.claims)]
            held = self.holds(claim)
            try:
                end(claim)
            except LeaseLostError:
                assert not held
            else:
                assert held

    def finish(self, claim: Claim, *, crash: bool = False) -> None:
        """Complete with an effect in the same transaction."""
        with self.ledger.write() as connection:
            self.note(connection, claim)
            self.ledger.complete(claim, None, connection=connection)
            if crash:
                raise CrashError

    def note(self, connection: Connection, claim: Claim) -> None:
        connection.execute(
            text("INSERT INTO effect VALUES (:task, :fence)"), {"task": claim.id, "fence": claim.fence}
        )

    def on_some_task(self, pick: int, action: Callable[[str], TaskRecord]) -> None:
        ids = sorted(self.before, reverse=True)
        if ids:
            with contextlib.suppress(TaskStateError):
                action(ids[pick % len(ids)])
