"""What people do to tasks, and how they find them; short tasks and the processes they live in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.ledgers import LEASE, OOPS, OTHER, QUEUE, WIDE, LedgerHouse, new

from sparkle.errors import InvalidRequestError
from sparkle.errors_tasks import TaskNotFoundError, TaskStateError
from sparkle.tasks.ids import TaskIds
from sparkle.tasks.record import TaskFilter, TaskRecord
from sparkle.tasks.states import TaskMode, TaskState

pytest_plugins = ["tests.support.ledger_fixtures"]

DAY = 86_400 * 1_000_000


def short(house: LedgerHouse, name: str = "reply", **fields: object) -> TaskRecord:
    now = house.ledger.now()
    base = TaskRecord(
        id=TaskIds(house.clock)(),
        mode=TaskMode.SHORT,
        name=name,
        state=TaskState.RUNNING,
        created_at=now,
        due_at=now,
        started_at=now,
        lease_owner="manager",
    )
    return replace(base, **fields)  # pyright: ignore[reportArgumentType]  fields of the record


# Cancelling, replaying, retrying --------------------------------------------------------------------------------------


def test_a_waiting_task_is_cancelled_at_once(house: LedgerHouse) -> None:
    waiting, queued, retrying = house.add(), house.add(priority=9), house.running()
    house.ledger.fail(retrying, OOPS, house.ledger.now() + DAY)
    house.ledger.hand_over({QUEUE: 1})
    assert house.ledger.get(queued.id).state is TaskState.QUEUED
    for id in (waiting.id, queued.id, retrying.id):
        record = house.ledger.cancel(id)
        assert (record.state, record.finished_at) == (TaskState.CANCELLED, house.ledger.now())
        assert house.ledger.cancel(id) == record
    assert house.ledger.hand_over(WIDE) == []
    assert house.ledger.claim([queued.id], "w", LEASE) == []


def test_a_running_task_is_asked_to_stop(house: LedgerHouse) -> None:
    claim = house.running()
    record = house.ledger.cancel(claim.id)
    assert (record.state, record.cancel_requested) == (TaskState.RUNNING, True)
    house.ledger.cancelled(claim)
    assert house.ledger.get(claim.id).state is TaskState.CANCELLED


def test_a_task_that_ended_in_spite_of_a_cancellation_has_succeeded(house: LedgerHouse) -> None:
    claim = house.running()
    house.ledger.cancel(claim.id)
    house.ledger.complete(claim, "1")
    assert house.ledger.get(claim.id).state is TaskState.SUCCEEDED


def test_a_released_task_that_was_to_be_cancelled_does_not_come_back(house: LedgerHouse) -> None:
    claim = house.running()
    house.ledger.cancel(claim.id)
    house.ledger.release([claim])
    assert house.ledger.get(claim.id).state is TaskState.CANCELLED


def test_what_is_over_cannot_be_cancelled(house: LedgerHouse) -> None:
    claim = house.running()
    house.ledger.complete(claim, None)
    with pytest.raises(TaskStateError, match="is succeeded"):
        house.ledger.cancel(claim.id)
    for action in (house.ledger.cancel, house.ledger.replay, house.ledger.retry, house.ledger.get):
        with pytest.raises(TaskNotFoundError):
            action("01a205d1-0000-7000-8000-000000000000")


def test_a_dead_letter_is_replayed_with_all_its_attempts(house: LedgerHouse) -> None:
    dead = house.failed(max_attempts=1)
    house.clock.advance(5)
    record = house.ledger.replay(dead.id)
    assert (record.state, record.attempt, record.due_at) == (TaskState.WAITING, 0, house.ledger.now())
    assert record.finished_at is None
    claim = house.claimed(dead.id)
    assert (claim.record.attempt, claim.fence) == (1, dead.fence + 1)
    house.ledger.complete(claim, None)
    with pytest.raises(TaskStateError, match="only failed and cancelled"):
        house.ledger.replay(dead.id)


def test_a_cancelled_task_can_be_replayed(house: LedgerHouse) -> None:
    record = house.ledger.cancel(house.add().id)
    again = house.ledger.replay(record.id)
    assert (again.state, again.cancel_requested) == (TaskState.WAITING, False)


def test_a_dead_letter_gives_way_to_a_newer_task_with_its_unique_key(house: LedgerHouse) -> None:
    dead = house.failed(unique_key="u")
    house.add(unique_key="u")
    with pytest.raises(TaskStateError, match="same unique key"):
        house.ledger.replay(dead.id)


def test_a_task_that_waits_for_its_time_can_be_made_due(house: LedgerHouse) -> None:
    delayed = house.add(due_at=house.ledger.now() + DAY)
    claim = house.running()
    house.ledger.fail(claim, OOPS, house.ledger.now() + DAY)
    house.ledger.retry(delayed.id)
    assert house.ledger.retry(claim.id).state is TaskState.WAITING
    assert {task.id for task in house.ledger.hand_over(WIDE)} == {delayed.id, claim.id}
    with pytest.raises(TaskStateError, match="only waiting and retrying"):
        house.ledger.retry(claim.id)


# Finding --------------------------------------------------------------------------------------------------------------


def test_pages_go_from_the_newest_to_the_oldest_and_miss_nothing(house: LedgerHouse) -> None:
    ids = [record.id for record in house.ledger.add([new(user_id="alice") for _ in range(25)])]
    house.add(user_id="bob")
    seen: list[str] = []
    cursor = None
    while True:
        page = house.ledger.find(TaskFilter(user_id="alice"), cursor=cursor, limit=10)
        seen += (record.id for record in page.records)
        house.add(user_id="alice")  # what comes in between moves nothing
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ids[::-1]


def test_a_page_that_is_just_full_is_the_last_one(house: LedgerHouse) -> None:
    house.ledger.add([new(), new()])
    assert house.ledger.find(limit=2).next_cursor is None
    assert house.ledger.find(limit=1).next_cursor is not None
    assert house.ledger.find(TaskFilter(name="none")).records == ()


@pytest.mark.parametrize("limit", [0, 1_001])
def test_a_page_has_a_bound(house: LedgerHouse, limit: int) -> None:
    with pytest.raises(InvalidRequestError, match="limit must be"):
        house.ledger.find(limit=limit)


def test_every_filter_chooses(house: LedgerHouse) -> None:
    house.add("old")
    house.clock.advance(60)
    start = house.ledger.now()
    plain, other = house.add("plain", user_id="alice"), house.add("other", queue=OTHER)
    dead = house.failed(name="dead")
    house.ledger.write_short([short(house)])

    def names(**fields: object) -> set[str]:
        where = TaskFilter(**fields)  # pyright: ignore[reportArgumentType]  fields of the filter
        return {record.name for record in house.ledger.find(where).records}

    assert names() == {"old", "plain", "other", "dead", "reply"}
    assert names(user_id="alice") == {plain.name}
    assert names(name="other") == names(queue=OTHER) == {other.name}
    assert names(states=frozenset({TaskState.FAILED})) == {dead.name}
    assert names(states=frozenset({TaskState.FAILED, TaskState.RUNNING})) == {"dead", "reply"}
    assert names(mode=TaskMode.SHORT) == {"reply"}
    assert names(created_from=start) == {"plain", "other", "dead", "reply"}
    assert names(created_before=start) == {"old"}


def test_counts_add_up_over_all_states(house: LedgerHouse) -> None:
    house.ledger.add([new("a"), new("a"), new("b", queue=OTHER)])
    house.running(name="c", priority=9)
    house.failed(name="d", priority=9)
    house.ledger.write_short([short(house), short(house, state=TaskState.SUCCEEDED, finished_at=1)])
    found = {(c.mode.value, c.state.value, c.name): c.tasks for c in house.ledger.counts()}
    assert found.pop(("short", "running", "reply")) == found.pop(("short", "succeeded", "reply")) == 1
    assert found.pop(("long", "running", "c")) == found.pop(("long", "failed", "d")) == 1
    assert sum(found.values()) == 3
    assert all(not c.state.finished for c in house.ledger.counts(finished=False))
    assert house.ledger.size().tasks in (7, 0)  # PostgreSQL estimates
    assert house.ledger.size().bytes > 8_192


# Short tasks and their processes --------------------------------------------------------------------------------------


def test_a_short_task_is_written_and_overwritten(house: LedgerHouse) -> None:
    running = short(house, user_id="alice", attempt=1)
    house.ledger.write_short([running])
    assert house.ledger.get(running.id) == running
    done = replace(running, state=TaskState.SUCCEEDED, result="1", finished_at=house.ledger.now())
    house.ledger.write_short([running, done])
    assert house.ledger.get(running.id) == done
    house.ledger.write_short([])


def test_a_short_task_of_a_dead_process_is_interrupted(house: LedgerHouse) -> None:
    house.ledger.announce("manager", "manager", 5.0)
    running, done = short(house), short(house, state=TaskState.SUCCEEDED, finished_at=1)
    house.ledger.write_short([running, done])
    assert house.ledger.expire() == []
    house.clock.advance(6)
    assert house.ledger.expire() == [running.id]
    record = house.ledger.get(running.id)
    assert (record.state, record.error_type) == (TaskState.INTERRUPTED, "ProcessDied")
    assert house.ledger.get(done.id).state is TaskState.SUCCEEDED
    for action in (house.ledger.replay, house.ledger.retry):
        with pytest.raises(TaskStateError, match="short"):
            action(running.id)


def test_the_tasks_of_a_process_that_left_are_interrupted_too(house: LedgerHouse) -> None:
    house.ledger.announce("manager", "manager", 5.0)
    running = short(house)
    house.ledger.write_short([running])
    house.ledger.leave("manager")
    assert house.ledger.expire() == [running.id]


def test_a_short_task_can_be_asked_to_stop_from_anywhere(house: LedgerHouse) -> None:
    running = short(house)
    house.ledger.write_short([running])
    assert house.another().cancel(running.id).cancel_requested
    assert house.ledger.cancel_requests("manager") == [running.id]
    assert house.ledger.cancel_requests("another") == []
    house.ledger.write_short([running])  # its process has not heard of it yet
    assert house.ledger.get(running.id).cancel_requested


def test_processes_are_listed_until_they_leave(house: LedgerHouse) -> None:
    house.ledger.announce("w1", "worker", 5.0, info={"pid": 7})
    house.clock.advance(1)
    house.ledger.announce("w1", "worker", 5.0, info={"pid": 7})
    house.ledger.announce("r1", "relay", 5.0)
    (worker,) = house.ledger.owners("worker")
    assert (worker.id, worker.info, worker.seen_at - worker.started_at) == ("w1", {"pid": 7}, 1_000_000)
    house.ledger.leave("w1")
    assert [owner.id for owner in house.ledger.owners()] == ["r1"]
    house.clock.advance(90_000)
    house.ledger.checkpoint()
    assert house.ledger.owners() == []


def test_a_role_is_had_by_one(house: LedgerHouse) -> None:
    assert house.ledger.acquire("relay", "a", 6.0)
    assert not house.another().acquire("relay", "b", 6.0)
    assert house.ledger.acquire("beat", "b", 6.0)
    house.clock.advance(5)
    assert house.ledger.acquire("relay", "a", 6.0)
    house.clock.advance(5)
    assert not house.ledger.acquire("relay", "b", 6.0)
    house.clock.advance(2)
    assert house.ledger.acquire("relay", "b", 6.0)
    house.ledger.relinquish("relay", "a")
    assert not house.ledger.acquire("relay", "a", 6.0)
    house.ledger.relinquish("relay", "b")
    assert house.ledger.acquire("relay", "a", 6.0)


# Retention ------------------------------------------------------------------------------------------------------------


def test_finished_tasks_are_purged_in_batches_and_others_never(house: LedgerHouse) -> None:
    claims = [house.running() for _ in range(5)]
    house.ledger.complete_many([(claim, None) for claim in claims])
    dead = house.failed()
    waiting, running = house.add(idempotency_key="k"), house.running()
    house.clock.advance(10)
    young = house.failed()
    before = house.ledger.now() - 5_000_000
    succeeded = frozenset({TaskState.SUCCEEDED})
    assert [house.ledger.purge(before, states=succeeded, batch=2) for _ in range(4)] == [2, 2, 1, 0]
    assert house.ledger.purge(before) == 1
    with pytest.raises(TaskNotFoundError):
        house.ledger.get(dead.id)
    house.clock.advance(1_000)
    assert house.ledger.purge(house.ledger.now(), states=frozenset(TaskState)) == 1
    left = {record.id for record in house.ledger.find().records}
    assert left == {waiting.id, running.id}
    assert young.id not in left


def test_a_purged_key_makes_a_new_task(house: LedgerHouse) -> None:
    first = house.add(idempotency_key="k")
    house.ledger.complete(house.claimed(first.id), None)
    house.clock.advance(1)
    house.ledger.purge(house.ledger.now())
    assert house.add(idempotency_key="k").id != first.id
