"""Claims: one worker gets each task, keeps it by its heartbeat, ends it once; whoever is late changes nothing."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from tests.support.ledgers import LEASE, OOPS, QUEUE, WIDE, LedgerHouse, new

from sparkle.errors_tasks import LeaseLostError
from sparkle.tasks.record import Claim, Failure, Progress
from sparkle.tasks.states import TaskState

pytest_plugins = ["tests.support.ledger_fixtures"]


def test_a_claim_holds_the_task_as_it_runs(house: LedgerHouse) -> None:
    id = house.add(args='{"args":[1],"kwargs":{}}').id
    house.ledger.hand_over(WIDE)
    house.clock.advance(1)
    (claim,) = house.ledger.claim([id, "unknown"], "w", LEASE)
    assert claim.record == house.ledger.get(id)
    assert claim.record.state is TaskState.RUNNING
    assert (claim.fence, claim.record.attempt, claim.record.lease_owner) == (1, 1, "w")
    assert claim.record.started_at == house.ledger.now()
    assert claim.record.lease_until == house.ledger.now() + int(LEASE * 1_000_000)


def test_only_a_queued_task_can_be_claimed(house: LedgerHouse) -> None:
    waiting = house.add()
    assert house.ledger.claim([waiting.id], "w", LEASE) == []
    claim = house.claimed(waiting.id)
    assert house.ledger.claim([waiting.id], "w", LEASE) == []
    house.ledger.complete(claim, None)
    assert house.ledger.claim([waiting.id], "w", LEASE) == []


def test_claims_come_in_the_order_of_the_message(house: LedgerHouse) -> None:
    ids = [record.id for record in house.ledger.add([new() for _ in range(10)])]
    house.ledger.hand_over(WIDE)
    wanted = [*ids[::-1], ids[0]]
    assert [claim.id for claim in house.ledger.claim(wanted, "w", LEASE)] == ids[::-1]


def test_of_many_workers_one_gets_each_task(house: LedgerHouse) -> None:
    ids = [record.id for record in house.ledger.add([new() for _ in range(40)])]
    house.ledger.hand_over(WIDE)
    ledgers = [house.another() for _ in range(4)]
    together = threading.Barrier(8)

    def work(number: int) -> list[str]:
        together.wait()
        order = ids if number % 2 else ids[::-1]
        return [
            claim.id
            for at in range(0, 40, 8)
            for claim in ledgers[number % 4].claim(order[at : at + 8], f"w{number}", LEASE)
        ]

    with ThreadPoolExecutor(8) as pool:
        got = [id for part in pool.map(work, range(8)) for id in part]
    assert sorted(got) == sorted(ids)


def test_a_heartbeat_extends_the_lease(house: LedgerHouse) -> None:
    claim = house.running(owner="w")
    for _ in range(3):
        house.clock.advance(LEASE - 1)
        assert house.ledger.heartbeat("w", [claim], LEASE).lost == ()
        assert house.ledger.expire() == []


def test_a_heartbeat_tells_what_is_lost_and_what_to_cancel(house: LedgerHouse) -> None:
    kept, lost, unwanted, done = (house.running(owner="w") for _ in range(4))
    house.ledger.cancel(unwanted.id)
    house.ledger.complete(done, None)
    house.ledger.release([lost])
    retaken = house.claimed(lost.id, owner="w")
    beat = house.ledger.heartbeat("w", [kept, lost, unwanted, done], LEASE)
    assert set(beat.lost) == {lost.id, done.id}
    assert beat.cancel == (unwanted.id,)
    assert house.ledger.heartbeat("w", [retaken], LEASE).lost == ()
    assert house.ledger.heartbeat("other", [kept], LEASE).lost == (kept.id,)
    assert house.ledger.heartbeat("w", [], LEASE).lost == ()


def test_a_completed_task_keeps_its_result(house: LedgerHouse) -> None:
    claim = house.running()
    house.clock.advance(2)
    house.ledger.complete(claim, '{"score":"好"}')
    record = house.ledger.get(claim.id)
    assert (record.state, record.value, record.progress) == (TaskState.SUCCEEDED, {"score": "好"}, 1.0)
    assert record.finished_at == house.ledger.now()
    assert record.lease_until is None


def test_effects_in_the_completing_transaction_happen_with_it(house: LedgerHouse) -> None:
    with house.ledger.write() as connection:
        connection.execute(text("CREATE TABLE effect (task TEXT)"))
    claim = house.running(owner="w")
    with house.ledger.write() as connection:
        connection.execute(text("INSERT INTO effect VALUES (:task)"), {"task": claim.id})
        house.ledger.complete(claim, None, connection=connection)
    with house.ledger.read() as connection:
        assert connection.execute(text("SELECT task FROM effect")).scalars().all() == [claim.id]


def test_effects_of_a_lost_attempt_are_rolled_back(house: LedgerHouse) -> None:
    with house.ledger.write() as connection:
        connection.execute(text("CREATE TABLE effect (task TEXT)"))
    late = house.running(owner="w")
    house.ledger.expire(owner="w")
    house.claimed(late.id)

    def finish() -> None:
        with house.ledger.write() as connection:
            connection.execute(text("INSERT INTO effect VALUES (:task)"), {"task": late.id})
            house.ledger.complete(late, None, connection=connection)

    with pytest.raises(LeaseLostError):
        finish()
    with house.ledger.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM effect")).scalar_one() == 0


def test_whoever_is_late_cannot_end_the_task(house: LedgerHouse) -> None:
    late = house.running(owner="w")
    house.ledger.expire(owner="w")
    current = house.claimed(late.id)
    with pytest.raises(LeaseLostError):
        house.ledger.complete(late, None)
    with pytest.raises(LeaseLostError):
        house.ledger.fail(late, OOPS, None)
    with pytest.raises(LeaseLostError):
        house.ledger.cancelled(late)
    assert house.ledger.release([late]) == []
    assert house.ledger.complete_many([(late, None)]) == [late.id]
    assert house.ledger.fail_many([(late, OOPS, None)]) == [late.id]
    house.ledger.report_progress([Progress(late, 0.9, "late")])
    record = house.ledger.get(late.id)
    assert (record.state, record.fence, record.progress) == (TaskState.RUNNING, current.fence, 0.0)
    house.ledger.complete(current, None)


def test_a_task_completes_once_however_many_try(house: LedgerHouse) -> None:
    claim = house.running()
    ledgers = [house.another() for _ in range(4)]
    together = threading.Barrier(8)

    def finish(number: int) -> bool:
        together.wait()
        try:
            ledgers[number % 4].complete(claim, str(number))
        except LeaseLostError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(finish, range(8))) == 1


def test_the_last_failure_is_a_dead_letter(house: LedgerHouse) -> None:
    record = house.failed()
    assert (record.state, record.error_type, record.error_message) == (TaskState.FAILED, "ValueError", "oops")
    assert record.finished_at == house.ledger.now()


def test_a_failure_of_a_task_to_be_cancelled_is_its_cancellation(house: LedgerHouse) -> None:
    claim = house.running()
    house.ledger.cancel(claim.id)
    assert house.ledger.fail(claim, OOPS, house.ledger.now() + 1) is TaskState.CANCELLED
    assert house.ledger.get(claim.id).finished_at is not None


def test_many_end_in_one_transaction(house: LedgerHouse) -> None:
    claims = [house.running() for _ in range(6)]
    house.ledger.release([claims[0]])
    now = house.ledger.now()
    lost = house.ledger.complete_many([(claim, f'"{claim.id}"') for claim in claims[:3]])
    assert lost == [claims[0].id]
    assert house.ledger.get(claims[1].id).value == claims[1].id
    said = Failure("KeyError", "'\"引号\" \\ und %s'")
    assert house.ledger.fail_many([(claims[3], said, now + 9), (claims[4], OOPS, None)]) == []
    retrying = house.ledger.get(claims[3].id)
    assert (retrying.state, retrying.due_at, retrying.error_message) == (
        TaskState.RETRYING,
        now + 9,
        said.error_message,
    )
    assert house.ledger.get(claims[4].id).state is TaskState.FAILED
    assert house.ledger.complete_many([]) == house.ledger.fail_many([]) == []


def test_a_released_task_has_all_its_attempts(house: LedgerHouse) -> None:
    claim = house.running(max_attempts=1)
    house.ledger.report_progress([Progress(claim, 0.5, "half")])
    assert house.ledger.release([claim]) == [claim.id]
    record = house.ledger.get(claim.id)
    assert (record.state, record.attempt, record.crashes, record.progress) == (TaskState.WAITING, 0, 0, 0.0)
    assert house.ledger.release([]) == []


def test_progress_is_seen_while_it_runs(house: LedgerHouse) -> None:
    one, two = house.running(), house.running()
    house.ledger.report_progress([Progress(one, 0.25, "a quarter"), Progress(two, 0.5, "half")])
    house.ledger.report_progress([Progress(one, 0.75)])
    record = house.ledger.get(one.id)
    assert (record.progress, record.progress_note) == (0.75, "a quarter")
    assert house.ledger.get(two.id).progress == 0.5
    house.ledger.report_progress([])


def test_heartbeats_completions_and_expiry_at_the_same_time_lose_nothing(house: LedgerHouse) -> None:
    records = house.ledger.add([new() for _ in range(60)])
    ids = [record.id for record in records]
    house.ledger.hand_over({QUEUE: 100})
    claims = house.ledger.claim(ids, "w", LEASE)
    ledgers = [house.another() for _ in range(3)]
    together = threading.Barrier(3)

    def beat() -> list[str]:
        together.wait()
        for _ in range(10):
            ledgers[0].heartbeat("w", claims[::-1], LEASE)
        return []

    def finish() -> list[str]:
        together.wait()
        lost: list[str] = []
        for at in range(0, 60, 6):
            part: list[Claim] = claims[at : at + 6]
            lost += ledgers[1].complete_many([(claim, "1") for claim in part])
        return lost

    def reap() -> list[str]:
        together.wait()
        return [id for _ in range(10) for id in ledgers[2].expire(house.ledger.now() + 10**9)]

    with ThreadPoolExecutor(3) as pool:
        _, lost, reaped = (future.result() for future in [pool.submit(work) for work in (beat, finish, reap)])
    assert sorted(lost) == sorted(reaped)
    assert house.states() == {
        state: count for state, count in (("succeeded", 60 - len(lost)), ("waiting", len(lost))) if count
    }
