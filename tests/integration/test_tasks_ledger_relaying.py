"""What is due is handed over by priority, what was lost comes back, what a dead worker held too."""

from __future__ import annotations

from tests.support.ledgers import LEASE, OOPS, OTHER, QUEUE, WIDE, LedgerHouse, new

from sparkle.tasks.record import ByName
from sparkle.tasks.states import TaskState

pytest_plugins = ["tests.support.ledger_fixtures"]

SECOND = 1_000_000


def test_what_is_due_becomes_queued_once(house: LedgerHouse) -> None:
    record = house.add()
    (handed,) = house.ledger.hand_over(WIDE)
    assert (handed.id, handed.name, handed.queue, handed.fence) == (record.id, "work", QUEUE, 0)
    assert house.ledger.hand_over(WIDE) == []
    after = house.ledger.get(record.id)
    assert (after.state, after.queued_at) == (TaskState.QUEUED, house.ledger.now())


def test_the_highest_priority_goes_first_then_what_has_been_due_longest(house: LedgerHouse) -> None:
    now = house.ledger.now()
    house.ledger.add(
        [
            new("late", priority=5, due_at=now - 1),
            new("low", priority=0, due_at=now - 9),
            new("early", priority=5, due_at=now - 2),
            new("high", priority=9, due_at=now),
            new("async", priority=7, queue=OTHER, due_at=now),
        ]
    )
    names = [task.name for task in house.ledger.hand_over(WIDE)]
    assert names == ["high", "async", "early", "late", "low"]


def test_equal_tasks_keep_the_order_in_which_they_came(house: LedgerHouse) -> None:
    records = house.ledger.add([new() for _ in range(100)])
    assert [task.id for task in house.ledger.hand_over(WIDE)] == [record.id for record in records]


def test_no_more_than_the_window_lies_in_the_broker(house: LedgerHouse) -> None:
    house.ledger.add([new(priority=i % 10) for i in range(30)])
    first = house.ledger.hand_over({QUEUE: 8})
    assert [task.priority for task in first] == [9, 9, 9, 8, 8, 8, 7, 7]
    assert house.ledger.hand_over({QUEUE: 8}) == []
    house.ledger.claim([task.id for task in first[:3]], "w", LEASE)
    assert [task.priority for task in house.ledger.hand_over({QUEUE: 8})] == [7, 6, 6]
    assert house.ledger.queued()[QUEUE][0] == 8


def test_a_queue_that_nobody_asks_for_is_left_alone(house: LedgerHouse) -> None:
    house.add(queue="gpu")
    assert house.ledger.hand_over(WIDE) == []
    assert len(house.ledger.hand_over({"gpu": 1})) == 1


def test_only_some_names_are_handed_over_and_counted_where_that_is_asked_for(house: LedgerHouse) -> None:
    house.ledger.add([new("a", priority=i % 3) for i in range(6)] + [new("b", priority=9) for _ in range(4)])
    (some, rest) = ({QUEUE: ByName(frozenset({"b"}), only)} for only in (True, False))
    assert [task.name for task in house.ledger.hand_over({QUEUE: 3}, chosen=some)] == ["b"] * 3
    assert house.ledger.hand_over({QUEUE: 3}, chosen=some) == []
    handed = house.ledger.hand_over({QUEUE: 4}, chosen=rest)
    assert [(task.name, task.priority) for task in handed] == [("a", 2), ("a", 2), ("a", 1), ("a", 1)]
    assert {(row[1], row[2]) for row in house.ledger.queued_names()} == {("a", 4), ("b", 3)}
    assert house.ledger.take_back(queue=QUEUE, chosen=some[QUEUE]) == 3
    assert house.ledger.take_back(queue=QUEUE, chosen=rest[QUEUE], older_than=house.ledger.now()) == 0
    assert house.ledger.take_back(queue=QUEUE, chosen=rest[QUEUE]) == 4


def test_a_delayed_task_is_handed_over_when_it_is_due(house: LedgerHouse) -> None:
    house.add(due_at=house.ledger.now() + 60 * SECOND)
    assert house.ledger.hand_over(WIDE) == []
    assert house.ledger.next_due() == house.ledger.now() + 60 * SECOND
    house.clock.advance(60)
    assert len(house.ledger.hand_over(WIDE)) == 1
    assert house.ledger.next_due() is None


def test_a_failed_attempt_comes_again_when_it_is_due(house: LedgerHouse) -> None:
    claim = house.running()
    assert house.ledger.fail(claim, OOPS, house.ledger.now() + 5 * SECOND) is TaskState.RETRYING
    assert house.ledger.hand_over(WIDE) == []
    house.clock.advance(5)
    again = house.claimed(claim.id)
    assert (again.record.attempt, again.fence) == (2, 2)


def test_a_lost_message_is_rung_for_again(house: LedgerHouse) -> None:
    ids = [record.id for record in house.ledger.add([new(), new(), new(queue=OTHER)])]
    house.ledger.hand_over(WIDE)
    assert house.ledger.take_back(queue=QUEUE, older_than=house.ledger.now()) == 0
    assert house.ledger.take_back(queue=QUEUE) == 2
    assert house.ledger.take_back(ids=[ids[2]]) == 1
    assert {task.id for task in house.ledger.hand_over(WIDE)} == set(ids)
    house.clock.advance(1)
    assert house.ledger.take_back(older_than=house.ledger.now()) == 3


def test_taking_back_leaves_a_claimed_task_alone(house: LedgerHouse) -> None:
    claim = house.running()
    assert house.ledger.take_back() == house.ledger.take_back(ids=[claim.id]) == 0
    assert house.ledger.claim([claim.id], "late", LEASE) == []


def test_what_is_expected_of_a_task_follows_what_it_took(house: LedgerHouse) -> None:
    house.add("slow")
    assert house.ledger.hand_over(WIDE)[0].expected_ms is None
    house.ledger.learn({"slow": (100.0, 1), "quick": (1.0, 9)})
    house.ledger.learn({"slow": (200.0, 1)})
    house.add("slow")
    assert house.ledger.hand_over(WIDE)[0].expected_ms == 110.0
    house.ledger.learn({"slow": (300.0, 1_000)})
    house.add("slow")
    expected = house.ledger.hand_over(WIDE)[0].expected_ms
    assert expected is not None
    assert abs(expected - 300.0) < 0.001


def test_the_age_of_what_waits_is_told_by_queue(house: LedgerHouse) -> None:
    house.add()
    house.add(priority=9, queue=OTHER, due_at=house.ledger.now() + 60 * SECOND)
    house.clock.advance(12)
    assert house.ledger.oldest_waiting_age() == {QUEUE: 12.0, OTHER: 0.0}


def test_a_worker_that_falls_silent_loses_its_task_and_the_attempt_does_not_count(house: LedgerHouse) -> None:
    claim = house.running()
    assert house.ledger.expire() == []
    house.clock.advance(LEASE + 0.1)
    assert house.ledger.expire() == [claim.id]
    record = house.ledger.get(claim.id)
    assert (record.state, record.attempt, record.crashes) == (TaskState.WAITING, 0, 1)
    assert record.error_type == "WorkerCrashed"
    again = house.claimed(claim.id)
    assert (again.record.attempt, again.fence) == (1, 2)


def test_a_worker_known_to_be_dead_loses_its_tasks_at_once(house: LedgerHouse) -> None:
    dead, alive = house.running(owner="dead"), house.running(owner="alive")
    assert house.ledger.expire(owner="dead") == [dead.id]
    assert house.ledger.get(alive.id).state is TaskState.RUNNING


def test_a_task_that_kills_its_workers_becomes_a_dead_letter(house: LedgerHouse) -> None:
    id = house.add().id
    for crashes in (1, 2, 3):
        house.claimed(id, owner="w")
        house.ledger.expire(owner="w")
        assert house.ledger.get(id).crashes == crashes
    record = house.ledger.get(id)
    assert (record.state, record.error_type, record.finished_at) == (
        TaskState.FAILED,
        "WorkerCrashed",
        house.ledger.now(),
    )


def test_a_cancelled_task_whose_worker_died_is_cancelled(house: LedgerHouse) -> None:
    claim = house.running(owner="w")
    house.ledger.cancel(claim.id)
    house.ledger.expire(owner="w")
    record = house.ledger.get(claim.id)
    assert (record.state, record.finished_at is not None) == (TaskState.CANCELLED, True)


def test_more_leases_than_one_batch_end_in_one_call(house: LedgerHouse) -> None:
    ids = [record.id for record in house.ledger.add([new() for _ in range(1_200)])]
    house.ledger.hand_over({QUEUE: 2_000})
    assert len(house.ledger.claim(ids, "w", LEASE)) == 1_200
    assert sorted(house.ledger.expire(owner="w")) == sorted(ids)
