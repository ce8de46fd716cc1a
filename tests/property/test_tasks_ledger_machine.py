"""Whatever happens in whatever order, crashes included: no task is lost, none ends twice, the ledger adds up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.support.ledger_model import CrashError, LedgerModel
from tests.support.ledgers import LEASE, OOPS, OTHER, QUEUE, WIDE, new

from sparkle.errors import IdempotencyConflictError
from sparkle.errors_tasks import LeaseLostError
from sparkle.tasks.record import Claim, Progress
from sparkle.tasks.states import TaskState

pytest_plugins = ["tests.support.ledger_fixtures"]

WORKERS = ("w0", "w1", "w2")
PICK = st.integers(0, 30)
"""Which one: 0 is the newest."""


class LedgerMachine(LedgerModel):
    """Schedulers, a relay, a broker that loses messages, workers that die, and people."""

    # Schedulers -------------------------------------------------------------------------------------------------------

    @initialize(count=st.integers(1, 6))
    def begin(self, count: int) -> None:
        self.ledger.add([new() for _ in range(count)])

    @rule(
        priority=st.integers(0, 9),
        delay=st.sampled_from([0, 0, 3, 60]),
        queue=st.sampled_from([QUEUE, OTHER]),
        attempts=st.integers(1, 3),
        key=st.sampled_from([None, None, "a", "b"]),
        unique=st.sampled_from([None, None, "u"]),
    )
    def schedule(
        self, priority: int, delay: int, queue: str, attempts: int, key: str | None, unique: str | None
    ) -> None:
        task = new(
            priority=priority,
            queue=queue,
            max_attempts=attempts,
            due_at=self.ledger.now() + delay * 1_000_000,
            idempotency_key=key,
            unique_key=unique,
        )
        try:
            first, second = self.ledger.add([task, task])
        except IdempotencyConflictError:
            pytest.fail("one name only")
        assert (first.id == second.id) == (key is not None or unique is not None)

    @rule()
    def schedule_and_crash(self) -> None:
        def begin() -> None:
            with self.ledger.write() as connection:
                self.ledger.add([new(), new(idempotency_key="a")], connection=connection)
                raise CrashError

        with pytest.raises(CrashError):
            begin()

    # Relay and broker -------------------------------------------------------------------------------------------------

    @rule(window=st.integers(1, 5))
    def hand_over(self, window: int) -> None:
        handed = self.ledger.hand_over({QUEUE: window, OTHER: window})
        self.bells += (task.id for task in handed)
        self.rung = {task.id for task in handed}
        pending = {TaskState.WAITING, TaskState.RETRYING}
        assert all(self.before[id].state in pending for id in self.rung)

    @rule()
    def hand_over_and_crash_before_ringing(self) -> None:
        self.ledger.hand_over(WIDE)

    @rule(pick=PICK)
    @precondition(lambda self: self.bells)
    def ring_twice(self, pick: int) -> None:
        if self.bells:
            self.bells.append(self.bells[pick % len(self.bells)])

    @rule()
    @precondition(lambda self: self.bells)
    def broker_loses_all(self) -> None:
        self.bells.clear()
        self.ledger.take_back(queue=QUEUE)

    @rule(seconds=st.sampled_from([0.5, 2.0, LEASE + 1, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def expire(self) -> None:
        self.expiring = True
        late = {
            id
            for id, record in self.before.items()
            if record.lease_until is not None and record.lease_until < self.ledger.now()
        }
        assert set(self.ledger.expire()) == late

    @rule(owner=st.sampled_from(WORKERS))
    def worker_is_known_to_be_dead(self, owner: str) -> None:
        self.expiring = True
        self.ledger.expire(owner=owner)
        assert not [
            r for r in self.rows().values() if r.state is TaskState.RUNNING and r.lease_owner == owner
        ]

    # Workers ----------------------------------------------------------------------------------------------------------

    @rule(pick=PICK, count=st.integers(1, 4), owner=st.sampled_from(WORKERS))
    def claim(self, pick: int, count: int, owner: str) -> None:
        if not self.bells:
            self.hand_over(3)
        if self.bells:
            start = pick % len(self.bells)
            ids, self.bells[start : start + count] = self.bells[start : start + count], []
            queued = {id for id in ids if self.before[id].state is TaskState.QUEUED or id in self.rung}
            claims = self.ledger.claim(ids, owner, LEASE)
            assert {claim.id for claim in claims} == queued
            self.claims += ((owner, claim) for claim in claims)

    @rule(pick=PICK)
    def claim_without_a_message(self, pick: int) -> None:
        if self.before:
            record = sorted(self.before.values(), key=lambda record: record.id)[pick % len(self.before)]
            got = self.ledger.claim([record.id], "w0", LEASE)
            assert len(got) == (record.state is TaskState.QUEUED)
            self.claims += (("w0", claim) for claim in got)

    @rule(owner=st.sampled_from(WORKERS))
    def heartbeat(self, owner: str) -> None:
        mine = {claim.id: claim for whose, claim in self.claims if whose == owner}
        held = {id for id, claim in mine.items() if self.holds(claim)}
        wanted = {id for id, record in self.before.items() if record.cancel_requested}
        beat = self.ledger.heartbeat(owner, list(mine.values()), LEASE)
        assert set(beat.lost) == mine.keys() - held
        assert set(beat.cancel) == held & wanted

    @rule(pick=PICK)
    @precondition(lambda self: self.claims)
    def complete(self, pick: int) -> None:
        self.attempt(pick, lambda claim: self.finish(claim))

    @rule(pick=PICK)
    @precondition(lambda self: self.claims)
    def complete_and_crash_before_the_commit(self, pick: int) -> None:
        if self.claims:
            _, claim = self.claims[-1 - pick % len(self.claims)]
            with pytest.raises((CrashError, LeaseLostError)):
                self.finish(claim, crash=True)

    @rule(pick=PICK, wait=st.sampled_from([0, 5]))
    @precondition(lambda self: self.claims)
    def fail(self, pick: int, wait: int) -> None:
        def end(claim: Claim) -> None:
            last = claim.record.attempt >= claim.record.max_attempts
            self.ledger.fail(claim, OOPS, None if last else self.ledger.now() + wait * 1_000_000)

        self.attempt(pick, end)

    @rule(pick=PICK)
    @precondition(lambda self: self.claims)
    def stop_when_told(self, pick: int) -> None:
        self.attempt(pick, self.ledger.cancelled)

    @rule(pick=PICK)
    @precondition(lambda self: self.claims)
    def shut_down(self, pick: int) -> None:
        if self.claims:
            owner, _ = self.claims[pick % len(self.claims)]
            mine = [claim for whose, claim in self.claims if whose == owner]
            held = {claim.id for claim in mine if self.holds(claim)}
            assert set(self.ledger.release(mine)) == held

    @rule(pick=PICK)
    @precondition(lambda self: self.claims)
    def complete_many(self, pick: int) -> None:
        if self.claims:
            chosen = [claim for _, claim in self.claims[-1 - pick % len(self.claims) :]]
            latest = list({claim.id: claim for claim in chosen}.values())
            held = {claim.id for claim in latest if self.holds(claim)}
            lost = self.ledger.complete_many([(claim, None) for claim in latest])
            assert set(lost) == {claim.id for claim in latest} - held
            with self.ledger.write() as connection:  # they count as done elsewhere
                for claim in latest:
                    if claim.id in held:
                        self.note(connection, claim)

    @rule(pick=PICK, other=st.sampled_from(WORKERS))
    @precondition(lambda self: any(self.holds(claim) for _, claim in self.claims))
    def worker_is_cut_off_and_another_takes_over(self, pick: int, other: str) -> None:
        held = [(owner, claim) for owner, claim in self.claims if self.holds(claim)]
        owner, claim = held[pick % len(held)]
        self.worker_is_known_to_be_dead(owner)
        self.observe()
        self.ledger.hand_over(WIDE)
        self.claims += ((other, taken) for taken in self.ledger.claim([claim.id], other, LEASE))

    @rule(pick=PICK)
    @precondition(lambda self: self.late())
    def whoever_is_late_changes_nothing(self, pick: int) -> None:
        owner, claim = self.late()[pick % len(self.late())]
        current = self.ledger.get(claim.id)
        now = self.ledger.now()
        ends: list[Callable[[], object]] = [
            lambda: self.finish(claim),
            lambda: self.ledger.cancelled(claim),
            lambda: self.ledger.fail(claim, OOPS, None),
            lambda: self.ledger.fail(claim, OOPS, now),
        ]
        for end in ends:
            with pytest.raises(LeaseLostError):
                end()
        assert self.ledger.complete_many([(claim, None)]) == [claim.id]
        assert self.ledger.fail_many([(claim, OOPS, now)]) == [claim.id]
        assert self.ledger.release([claim]) == []
        self.ledger.report_progress([Progress(claim, 0.5, "late")])
        assert self.ledger.get(claim.id) == current
        assert self.ledger.heartbeat(owner, [claim], LEASE).lost == (claim.id,)
        if current.lease_owner != owner:
            assert self.ledger.get(claim.id) == current

    @rule(pick=PICK, share=st.floats(0, 1))
    @precondition(lambda self: self.claims)
    def report(self, pick: int, share: float) -> None:
        if self.claims:
            self.ledger.report_progress([Progress(self.claims[pick % len(self.claims)][1], share, "note")])

    # People -----------------------------------------------------------------------------------------------------------

    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        self.on_some_task(pick, self.ledger.cancel)

    @rule(pick=PICK)
    def replay(self, pick: int) -> None:
        self.on_some_task(pick, self.ledger.replay)

    @rule(pick=PICK)
    def retry(self, pick: int) -> None:
        self.on_some_task(pick, self.ledger.retry)

    @rule(batch=st.integers(1, 3))
    def purge(self, batch: int) -> None:
        self.purged += self.ledger.purge(self.ledger.now() - 30_000_000, batch=batch)
        left = self.rows()
        gone = [record for id, record in self.before.items() if id not in left]
        limit = self.ledger.now() - 30_000_000
        assert all(record.finished_at is not None and record.finished_at < limit for record in gone)
        self.purged_effects += sum(record.state is TaskState.SUCCEEDED for record in gone)
        for record in gone:
            del self.before[record.id]


def run_over(target: str | Path, examples: int) -> None:
    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(target)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.timeout(300)  # seconds; other work may share the machine
def test_the_ledger_adds_up_in_sqlite(tmp_path: Path) -> None:
    run_over(tmp_path, 80)


@pytest.mark.timeout(300)  # seconds; other work may share the machine
def test_the_ledger_adds_up_in_postgresql(postgres_url: str) -> None:
    run_over(postgres_url, 10)
