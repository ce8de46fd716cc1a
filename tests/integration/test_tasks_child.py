"""A worker child's parts in this process, over a real ledger: what happens in moments that processes rarely hit."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from sparkle.clock import SystemClock
from sparkle.errors import SparkleError
from sparkle.errors_tasks import LedgerUnavailableError
from sparkle.settings_tasks import TasksSettings
from sparkle.tasks.context import current_task
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.record import NO_ARGS, NewTask, TaskRecord
from sparkle.tasks.registry import TaskRegistry, long_task
from sparkle.tasks.retry import NO_RETRY, RetryPolicy
from sparkle.tasks.states import TaskState
from sparkle.tasks.worker.board import Board
from sparkle.tasks.worker.child import Child

SETTINGS = TasksSettings(heartbeat_seconds=0.2, lease_seconds=30, shutdown_seconds=1, async_in_flight=3)


class Host:
    """A child without a broker: messages are handed to it by hand."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger.open(folder)
        self.known = TaskRegistry()
        self.board = Board(1)
        self.children: list[Child] = []

    def child(self, settings: TasksSettings = SETTINGS) -> Child:
        """A child in the one place there is; it reports its predecessor's death."""
        made = Child(
            self.ledger,
            self.known,
            settings,
            board=self.board,
            index=0,
            clock=SystemClock(),
            rng=random.Random(1),
        )
        made.start()
        self.children.append(made)
        return made

    def queued(self, name: str, count: int = 1, args: str = NO_ARGS) -> list[str]:
        """Tasks for which a doorbell has been rung."""
        self.ledger.add([NewTask(name=name, queue="q", args=args, max_attempts=3) for _ in range(count)])
        return [task.id for task in self.ledger.hand_over({"q": 1000})]

    def get(self, id: str) -> TaskRecord:
        return self.ledger.get(id)

    def until(self, condition: Callable[[], bool]) -> None:
        pause = threading.Event()
        for _ in range(3000):
            if condition():
                return
            pause.wait(0.01)  # threads of this process make it true
        raise AssertionError("waited in vain")

    def close(self) -> None:
        for child in self.children:
            child.close()
        self.ledger.close()
        self.board.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.close()


def test_a_message_of_many_ids_runs_each_and_drops_what_is_no_longer_its_own(host: Host) -> None:
    ran: list[str] = []

    @long_task("note", into=host.known)
    def note() -> int:
        ran.append(current_task().id)
        return len(ran)

    ids = host.queued("note", 5)
    host.ledger.cancel(ids[2])
    child = host.child()
    child.handle([*ids, ids[0], "unknown-id"])
    child.handle(ids)
    assert ran == [id for number, id in enumerate(ids) if number != 2]
    assert [host.get(id).value for id in ids] == [1, 2, None, 3, 4]
    assert child.claims() == []


def test_no_more_async_tasks_run_than_may_be_in_flight(host: Host) -> None:
    now: list[int] = [0, 0]

    @long_task("count", into=host.known)
    async def count() -> None:
        now[0] += 1
        now[1] = max(now)
        await asyncio.sleep(0.005)
        now[0] -= 1

    ids = host.queued("count", 20)
    child = host.child()
    child.handle(ids)
    host.until(lambda: all(host.get(id).state is TaskState.SUCCEEDED for id in ids))
    assert now == [0, 3]


def test_an_async_task_that_swallows_its_limit_fails_by_it(host: Host) -> None:
    @long_task("deaf", timeout=0.1, hard_timeout=60, retry=NO_RETRY, into=host.known)
    async def deaf() -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue
        raise asyncio.CancelledError

    (id,) = host.queued("deaf")
    host.child().handle([id])
    host.until(lambda: host.get(id).state.finished)
    assert (host.get(id).state, host.get(id).error_type) == (TaskState.FAILED, "TaskTimeoutError")


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("is_async", [False, True])
def test_whatever_a_task_raises_is_its_own_failure(
    host: Host, kind: type[BaseException], is_async: bool
) -> None:
    if is_async:

        @long_task("odd", retry=NO_RETRY, into=host.known)
        async def odd_async() -> None:
            raise kind

        name = odd_async.name
    else:

        @long_task("odd", retry=NO_RETRY, into=host.known)
        def odd() -> None:
            raise kind

        name = odd.name
    (id,) = host.queued(name)
    host.child().handle([id])
    host.until(lambda: host.get(id).state.finished)
    assert (host.get(id).state, host.get(id).error_type) == (TaskState.FAILED, kind.__name__)


def test_what_a_lost_attempt_wrote_is_rolled_back(host: Host) -> None:
    with host.ledger.write() as connection:
        connection.execute(text("CREATE TABLE wrote (word TEXT)"))

    @long_task("late", into=host.known)
    def late() -> None:
        # While it computes, its lease ends and the task is handed to somebody else.
        assert host.ledger.expire(owner=child.owner) == [current_task().id]
        current_task().connection().execute(text("INSERT INTO wrote VALUES ('late')"))

    @long_task("late_async", into=host.known)
    async def late_async() -> None:
        current_task().on_completion(
            lambda connection: connection.execute(text("INSERT INTO wrote VALUES ('x')"))
        )
        assert host.ledger.expire(owner=child.owner) == [current_task().id]

    child = host.child()
    for name in ("late", "late_async"):
        (id,) = host.queued(name)
        child.handle([id])
        host.until(lambda: not child.claims())
        assert host.get(id).state is TaskState.WAITING
        host.ledger.cancel(id)
    with host.ledger.read() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM wrote")).scalar() == 0


def test_callbacks_that_fail_fail_the_attempt_and_leave_nothing(host: Host) -> None:
    with host.ledger.write() as connection:
        connection.execute(text("CREATE TABLE wrote (word TEXT UNIQUE)"))

    @long_task("twice", retry=NO_RETRY, into=host.known)
    async def twice() -> None:
        for _ in range(2):
            current_task().on_completion(
                lambda connection: connection.execute(text("INSERT INTO wrote VALUES ('same')"))
            )

    @long_task("plain_twice", retry=NO_RETRY, into=host.known)
    def plain_twice() -> None:
        current_task().connection().execute(text("INSERT INTO wrote VALUES ('same')"))
        current_task().on_completion(
            lambda connection: connection.execute(text("INSERT INTO wrote VALUES ('same')"))
        )

    child = host.child()
    for name in ("twice", "plain_twice"):
        (id,) = host.queued(name)
        child.handle([id])
        host.until(lambda id=id: host.get(id).state.finished)
        assert (host.get(id).state, host.get(id).error_type) == (TaskState.FAILED, "IntegrityError")
    with host.ledger.read() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM wrote")).scalar() == 0


def test_an_error_that_names_its_time_is_not_tried_earlier(host: Host) -> None:
    @long_task("busy", retry=RetryPolicy(base_seconds=0, max_seconds=0), into=host.known)
    def busy() -> None:
        raise SparkleError("come back later", retry_after=3600)

    (id,) = host.queued("busy")
    before = host.ledger.now()
    host.child().handle([id])
    record = host.get(id)
    assert record.state is TaskState.RETRYING
    assert record.due_at >= before + 3600 * 1_000_000


def test_a_stopping_child_runs_nothing_more_and_hands_back_the_rest_of_its_message(host: Host) -> None:
    ran: list[str] = []

    @long_task("stop", into=host.known)
    def stop() -> None:
        ran.append(current_task().id)
        host.board.stop_at = SystemClock().monotonic() + 30

    ids = host.queued("stop", 4)
    more = host.queued("stop", 2)
    child = host.child()
    child.handle(ids)
    child.handle(more)
    assert ran == ids[:1]
    assert [host.get(id).state for id in ids] == [TaskState.SUCCEEDED, *[TaskState.WAITING] * 3]
    assert [(host.get(id).state, host.get(id).attempt) for id in more] == [(TaskState.WAITING, 0)] * 2
    host.board.stop_at = SystemClock().monotonic()


def test_a_successor_hands_its_predecessors_tasks_on_at_once(host: Host) -> None:
    @long_task("held", into=host.known)
    async def held() -> None:
        await asyncio.sleep(60)

    (id,) = host.queued("held")
    first = host.child()
    first.handle([id])
    host.until(lambda: host.get(id).state is TaskState.RUNNING)
    # The first one dies without a word: its place still holds its name.
    host.child()
    record = host.get(id)
    assert (record.state, record.crashes, record.attempt) == (TaskState.WAITING, 1, 0)
    assert first.owner not in {owner.id for owner in host.ledger.owners()}


def test_finished_work_is_noted_once_the_ledger_answers_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    complete_many = Ledger.complete_many

    def sometimes(self: Ledger, results: Any) -> list[str]:
        calls.append(1)
        if len(calls) < 3:
            raise LedgerUnavailableError
        return complete_many(self, results)

    monkeypatch.setattr(Ledger, "complete_many", sometimes)

    @long_task("done", into=host.known)
    def done() -> str:
        return "once"

    (id,) = host.queued("done")
    host.child().handle([id])
    assert (host.get(id).state, host.get(id).value, len(calls)) == (TaskState.SUCCEEDED, "once", 3)
