"""Adding tasks: all or none, once per key, in the caller's transaction; the same over both databases."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.ledgers import WIDE, LedgerHouse, new

from sparkle.errors import IdempotencyConflictError
from sparkle.errors_tasks import LedgerUnavailableError, TaskNotFoundError
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.states import TaskMode, TaskState

pytest_plugins = ["tests.support.ledger_fixtures"]


def test_a_new_task_waits_and_is_due_at_once(house: LedgerHouse) -> None:
    record = house.add(user_id="alice", priority=7, args='{"args":[1],"kwargs":{}}', trace="00-x")
    assert house.ledger.get(record.id) == record
    assert (record.mode, record.state) == (TaskMode.LONG, TaskState.WAITING)
    assert record.due_at == record.created_at == int(house.clock.now() * 1_000_000)
    assert record.arguments == ([1], {})
    assert record.attempt == record.fence == record.crashes == 0


def test_a_task_of_nobody_has_no_user(house: LedgerHouse) -> None:
    assert house.ledger.get(house.add().id).user_id is None


def test_texts_of_any_script_come_back_as_they_were(house: LedgerHouse) -> None:
    record = house.add("复习", user_id="小明 🌟", args='{"args":["导数\\u0000"],"kwargs":{}}')
    assert house.ledger.get(record.id) == record


def test_a_batch_comes_back_in_its_order(house: LedgerHouse) -> None:
    records = house.ledger.add([new(f"n{i}") for i in range(50)])
    assert [record.name for record in records] == [f"n{i}" for i in range(50)]
    assert [record.id for record in records] == sorted(record.id for record in records)
    assert house.ledger.add([]) == []


def test_the_same_idempotency_key_is_the_same_task_whatever_became_of_it(house: LedgerHouse) -> None:
    first = house.add(user_id="alice", idempotency_key="k")
    assert house.add(user_id="alice", idempotency_key="k") == first
    claim = house.claimed(first.id)
    house.ledger.complete(claim, "42")
    again = house.add(user_id="alice", idempotency_key="k")
    assert (again.id, again.result) == (first.id, "42")


def test_keys_of_two_users_do_not_meet(house: LedgerHouse) -> None:
    ids = {house.add(user_id=user, idempotency_key="k").id for user in ("alice", "bob", None)}
    assert len(ids) == 3
    assert house.add(idempotency_key="k").id in ids


def test_a_key_used_for_another_name_is_refused_and_the_batch_with_it(house: LedgerHouse) -> None:
    house.add("one", idempotency_key="k")
    with pytest.raises(IdempotencyConflictError, match="'two' task was used for a 'one' task"):
        house.ledger.add([new("other"), new("two", idempotency_key="k")])
    assert house.states() == {"waiting": 1}


def test_a_refused_batch_leaves_nothing_in_a_transaction_that_goes_on(house: LedgerHouse) -> None:
    first = house.add("one", idempotency_key="k")
    with house.ledger.write() as connection:
        with pytest.raises(IdempotencyConflictError):
            house.ledger.add(
                [new("other"), new("more", idempotency_key="a"), new("two", idempotency_key="k")],
                connection=connection,
            )
        after = house.ledger.add([new("after")], connection=connection)[0]
    assert {record.id for record in house.ledger.find().records} == {first.id, after.id}


def test_a_batch_may_name_one_key_twice(house: LedgerHouse) -> None:
    a, b, c = house.ledger.add([new(idempotency_key="k"), new(), new(idempotency_key="k")])
    assert a.id == c.id != b.id
    assert house.states() == {"waiting": 2}


def test_of_a_unique_task_there_is_one_unfinished(house: LedgerHouse) -> None:
    first = house.add(unique_key="u")
    assert house.add(unique_key="u").id == first.id
    claim = house.claimed(first.id)
    assert house.add(unique_key="u").id == first.id
    house.ledger.complete(claim, None)
    second = house.add(unique_key="u")
    assert second.id != first.id
    assert house.add(unique_key="u").id == second.id


def test_a_tick_of_a_schedule_makes_one_task(house: LedgerHouse) -> None:
    first = house.add(schedule="nightly@2026-11-23T00:00Z")
    house.ledger.complete(house.claimed(first.id), None)
    assert house.another().add([new(schedule="nightly@2026-11-23T00:00Z")])[0].id == first.id
    assert house.add(schedule="nightly@2026-11-24T00:00Z").id != first.id


def test_fifty_callers_with_one_key_make_one_task(house: LedgerHouse) -> None:
    ledgers = [house.another() for _ in range(5)]
    together = threading.Barrier(50)

    def call(number: int) -> str:
        together.wait()
        return ledgers[number % 5].add([new(user_id="alice", idempotency_key="k")])[0].id

    with ThreadPoolExecutor(50) as pool:
        ids = set(pool.map(call, range(50)))
    assert len(ids) == 1
    assert house.states() == {"waiting": 1}


def test_batches_that_share_keys_do_not_block_each_other(house: LedgerHouse) -> None:
    keys = [f"k{i}" for i in range(30)]
    ledgers = [house.another() for _ in range(4)]
    together = threading.Barrier(8)

    def call(number: int) -> list[str]:
        order = keys if number % 2 else keys[::-1]
        together.wait()
        records = ledgers[number % 4].add([new(idempotency_key=key) for key in order])
        return [record.id for record in (records if number % 2 else records[::-1])]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(call, range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert house.states() == {"waiting": 30}


def test_a_task_of_a_transaction_exists_when_it_commits(house: LedgerHouse) -> None:
    with house.ledger.write() as connection:
        record = house.ledger.add([new()], connection=connection)[0]
        assert house.ledger.hand_over(WIDE) == []
    assert house.ledger.get(record.id) == record


def test_a_task_of_a_transaction_never_was_when_it_rolls_back(house: LedgerHouse) -> None:
    ids: list[str] = []

    def give_up_half_way() -> None:
        with house.ledger.write() as connection:
            added = house.ledger.add([new(), new(idempotency_key="k")], connection=connection)
            ids.extend(record.id for record in added)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        give_up_half_way()
    for id in ids:
        with pytest.raises(TaskNotFoundError):
            house.ledger.get(id)
    assert house.add(idempotency_key="k").id not in ids


def test_reading_waits_for_no_writer(house: LedgerHouse) -> None:
    record = house.add()
    with house.ledger.write() as connection:
        house.ledger.add([new()], connection=connection)
        assert house.another().get(record.id) == record
        assert house.ledger.find().records == (record,)
        assert house.ledger.hand_over({}) == []


def test_a_database_that_is_locked_for_too_long_is_unavailable(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as one, Ledger.open(tmp_path, busy_seconds=0.05) as other:
        with one.write(), pytest.raises(LedgerUnavailableError, match="locked"):
            other.add([new()])
        assert other.add([new()])


def test_a_ledger_may_be_used_on_both_sides_of_a_fork(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from sparkle.tasks.ledger import Ledger\n"
        "from sparkle.tasks.record import NewTask\n"
        "ledger = Ledger.open(Path(sys.argv[1])); task = NewTask(name='n', queue='q')\n"
        "ids = [ledger.add([task])[0].id]\n"
        "child = os.fork()\n"
        "for _ in range(20): ledger.add([task])\n"
        "if not child: os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "print(ledger.size().tasks, len({r.id for r in ledger.find().records}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["41", "41"]
