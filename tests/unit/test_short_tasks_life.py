"""What ``TaskManager`` promises about retries, limits and its own end."""

from __future__ import annotations

import asyncio
import gc
from contextvars import ContextVar
from typing import Any

import pytest
from tests.support.clock import ManualClock
from tests.support.short_tasks import Gate, manager, settle

from sparkle.errors import TaskCancelledError, TaskTimeoutError
from sparkle.errors_tasks import TaskManagerClosedError
from sparkle.settings_tasks import ShortTasksSettings
from sparkle.tasks.handle import TaskHandle
from sparkle.tasks.manager import TaskManager
from sparkle.tasks.record import TaskRecord
from sparkle.tasks.retry import RetryPolicy
from sparkle.tasks.states import TaskState

WHOLE = RetryPolicy(base_seconds=4.0, jitter=False)
"""Waits 4, 8, 16 ... seconds."""


class Flaky:
    """Fails so many times, then succeeds."""

    def __init__(self, failures: int, error: type[Exception] = LookupError) -> None:
        self.left = failures
        self.error = error
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.left:
            raise self.error(f"failure {self.calls}")
        return self.calls


# Retries ----------------------------------------------------------------------------------------------------------


async def test_a_failed_attempt_is_tried_again_after_its_wait() -> None:
    clock, work = ManualClock(1_000.0), Flaky(2)
    async with manager(clock) as tasks:
        handle = await tasks.spawn_with_retry(work, task_name="flaky", max_attempts=3, retry=WHOLE)
        await settle()
        assert (handle.state, handle.attempt) == (TaskState.RETRYING, 1)
        assert handle.record.due_at == 1_004_000_000
        assert handle.record.error_message == "failure 1"
        clock.advance(3.9)
        await settle()
        assert work.calls == 1
        clock.advance(0.2)
        await settle()
        assert (handle.state, handle.attempt) == (TaskState.RETRYING, 2)
        clock.advance(8.2)
        assert await handle == 3
        record = handle.record
        assert (record.state, record.attempt, record.max_attempts) == (TaskState.SUCCEEDED, 3, 3)
        assert b'retries_total{name="flaky"} 2.0' in tasks.render_metrics()[0]


async def test_the_last_failure_is_the_outcome() -> None:
    clock, work = ManualClock(), Flaky(9)
    async with manager(clock) as tasks:
        handle = await tasks.spawn_with_retry(work, task_name="flaky", max_attempts=2, retry=WHOLE)
        await settle()
        clock.advance(5.0)
        with pytest.raises(LookupError, match="failure 2"):
            await handle
        assert handle.record.attempt == 2


async def test_waits_are_drawn_between_zero_and_the_ceiling() -> None:
    waits: list[float] = []
    for seed in range(40):
        clock = ManualClock(1_000.0)
        async with manager(clock, seed=seed) as tasks:
            policy = RetryPolicy(base_seconds=4.0)
            handle = await tasks.spawn_with_retry(Flaky(1), task_name="flaky", retry=policy)
            await settle()
            waits.append(handle.due - 1_000.0)
    assert 0.0 <= min(waits) < 1.0
    assert 3.0 < max(waits) <= 4.0


async def test_errors_that_no_retry_mends_end_the_task_at_once() -> None:
    work = Flaky(1, ValueError)
    async with manager() as tasks:
        policy = RetryPolicy(give_up_on=frozenset({"ValueError"}))
        handle = await tasks.spawn_with_retry(work, task_name="flaky", retry=policy)
        with pytest.raises(ValueError, match="failure 1"):
            await handle


async def test_an_attempt_over_its_time_limit_is_tried_again() -> None:
    clock, calls = ManualClock(), list[int]()

    async def slow_at_first() -> str:
        calls.append(1)
        if len(calls) == 1:
            await asyncio.Event().wait()
        return "quick"

    async with manager(clock) as tasks:
        handle = await tasks.spawn_with_retry(slow_at_first, task_name="slow", retry=WHOLE, timeout=1.0)
        await settle()
        clock.advance(1.1)
        await settle()
        assert handle.record.error_type == TaskTimeoutError.__name__
        clock.advance(4.1)
        assert await handle == "quick"


async def test_a_task_between_two_attempts_holds_no_slot() -> None:
    clock, gate = ManualClock(), Gate()
    async with manager(clock, concurrency=1, per_user=1) as tasks:
        flaky = await tasks.spawn_with_retry(Flaky(1), task_name="flaky", user_id="ann", retry=WHOLE)
        await settle()
        other = await tasks.spawn(gate.work(), task_name="other", user_id="ann")
        assert other.state is TaskState.RUNNING
        clock.advance(5.0)
        await settle()
        assert flaky.state is TaskState.RETRYING, "due, but the slot is taken"
        assert tasks.health_check().waiting == 1
        gate.opened.set()
        assert await flaky == 2


async def test_cancelling_between_two_attempts_ends_the_task_at_once() -> None:
    clock, work = ManualClock(), Flaky(1)
    async with manager(clock) as tasks:
        handle = await tasks.spawn_with_retry(work, task_name="flaky", retry=WHOLE)
        await settle()
        assert handle.cancel()
        assert handle.state is TaskState.CANCELLED
        clock.advance(100.0)
        await settle()
        assert work.calls == 1
        with pytest.raises(TaskCancelledError):
            await handle


async def test_a_cancelled_task_is_not_tried_again_whatever_it_raises() -> None:
    async def spiteful() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise LookupError("while cleaning up") from None

    async with manager() as tasks:
        handle = await tasks.spawn_with_retry(spiteful, task_name="spiteful", retry=WHOLE)
        await settle()
        handle.cancel()
        with pytest.raises(LookupError):
            await handle
        assert handle.record.attempt == 1


async def test_a_factory_that_fails_is_a_failed_attempt() -> None:
    calls: list[int] = []

    async def fine() -> str:
        return "fine"

    def factory() -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise LookupError("no connection")
        return fine() if len(calls) == 3 else "no coroutine"

    clock = ManualClock()
    async with manager(clock) as tasks:
        handle: TaskHandle[str] = await tasks.spawn_with_retry(factory, task_name="made", retry=WHOLE)
        assert handle.record.error_message == "no connection"
        clock.advance(4.1)
        await settle()
        assert handle.record.error_type == "TypeError"
        clock.advance(8.2)
        assert await handle == "fine"


async def test_an_attempt_does_not_see_what_the_one_before_left_in_its_context() -> None:
    left: ContextVar[int] = ContextVar("left", default=0)
    seen: list[int] = []

    async def work() -> None:
        seen.append(left.get())
        left.set(9)
        if len(seen) < 3:
            raise LookupError

    clock = ManualClock()
    async with manager(clock) as tasks:
        left.set(1)
        handle = await tasks.spawn_with_retry(work, task_name="retry", retry=WHOLE)
        left.set(2)
        for _ in range(2):
            await settle()
            clock.advance(20.0)
        await handle
    assert seen == [1, 1, 1]


# The end ----------------------------------------------------------------------------------------------------------


async def test_the_end_waits_for_tasks_those_waiting_included() -> None:
    gate = Gate()
    async with manager(concurrency=1, drain_seconds=5.0) as tasks:
        handles = [await tasks.spawn(gate.work(str(n)), task_name="t") for n in range(3)]
        asyncio.get_running_loop().call_soon(gate.opened.set)
    assert gate.ended == ["0", "1", "2"]
    assert all(handle.record.state is TaskState.SUCCEEDED for handle in handles)


async def test_while_it_drains_strangers_are_refused_and_tasks_may_still_spawn() -> None:
    clock, gate = ManualClock(), Gate()

    async def parent(tasks: TaskManager) -> str:
        await gate.opened.wait()
        return await (await tasks.spawn(gate.work("child"), task_name="child"))

    async with manager(clock) as tasks:
        handle = await tasks.spawn(parent(tasks), task_name="parent")
        await settle()
        draining = asyncio.ensure_future(tasks.drain(60.0))
        await settle()
        assert tasks.health_check().status == "closing"
        with pytest.raises(TaskManagerClosedError):
            await tasks.spawn(gate.work(), task_name="stranger")
        gate.opened.set()
        assert await draining is True
        assert await handle == "child"
    gc.collect()


async def test_what_is_left_at_the_deadline_is_cancelled_and_reported() -> None:
    clock, gate, quick = ManualClock(), Gate(), Gate()
    async with manager(clock, concurrency=2, drain_seconds=5.0, cancel_seconds=1.0) as tasks:
        running = await tasks.spawn(gate.work("running"), task_name="t")
        await tasks.spawn(quick.work("quick"), task_name="t")
        await settle()
        closing = asyncio.ensure_future(tasks.close())
        quick.opened.set()
        await settle()
        clock.advance(5.0)
        report = await closing
    assert [record.id for record in report.cancelled] == [running.id]
    assert report.finished == 1
    assert not report.stuck
    assert not report.clean
    assert gate.cancelled == ["running"]


async def test_waiting_and_retrying_tasks_are_cancelled_at_the_deadline_too() -> None:
    clock, gate = ManualClock(), Gate()
    async with manager(clock, concurrency=1) as tasks:
        retrying = await tasks.spawn_with_retry(Flaky(9), task_name="flaky", retry=WHOLE)
        await settle()
        running = await tasks.spawn(gate.work("running"), task_name="t")
        waiting = await tasks.spawn(gate.work("waiting"), task_name="t")
        await settle()
        closing = asyncio.ensure_future(tasks.close(1.0))
        await settle()
        clock.advance(1.0)
        report = await closing
    assert {record.id for record in report.cancelled} == {retrying.id, running.id, waiting.id}
    assert gate.began == ["running"]
    gc.collect()


async def test_a_task_that_will_not_end_is_given_up_and_reported() -> None:
    clock = ManualClock()
    release, deaf = asyncio.Event(), list[int]()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                deaf.append(1)

    tasks = TaskManager(ShortTasksSettings(drain_seconds=1.0, cancel_seconds=2.0), clock=clock)
    async with tasks:
        handle = await tasks.spawn(stubborn(), task_name="deaf")
        waiter = asyncio.ensure_future(_error_of(handle))
        await settle()
        closing = asyncio.ensure_future(tasks.close())
        for seconds in (1.0, 2.0):
            await settle()
            clock.advance(seconds)
        report = await closing
        assert deaf, "it was told"
        assert [record.state for record in report.stuck] == [TaskState.INTERRUPTED]
        assert isinstance(await waiter, TaskCancelledError)
        release.set()
        await settle()
        assert handle.record.state is TaskState.INTERRUPTED
        assert tasks.health_check().running == 0


async def _error_of(handle: TaskHandle[None]) -> Exception | None:
    try:
        await handle
    except TaskCancelledError as exc:
        return exc
    return None


async def test_closing_that_is_cancelled_still_cancels_the_tasks() -> None:
    gate = Gate()
    tasks = TaskManager(clock=ManualClock())
    await tasks.start()
    await tasks.spawn(gate.work(), task_name="t")
    await settle()
    closing = asyncio.ensure_future(tasks.close())
    await settle()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await settle()
    assert gate.cancelled == ["it"]
    assert (await tasks.close()).clean, "closing twice does nothing"


async def test_a_task_that_cleans_up_after_the_deadline_can_spawn_nothing() -> None:
    errors: list[BaseException] = []

    async def clean_up(tasks: TaskManager) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await tasks.spawn(asyncio.sleep(0), task_name="late")
            except TaskManagerClosedError as exc:
                errors.append(exc)

    async with manager(timeout_seconds=60.0) as tasks:
        await tasks.spawn(clean_up(tasks), task_name="t")
        await settle()
    assert len(errors) == 1
    gc.collect()


async def test_a_closed_manager_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    async with manager() as tasks:
        await tasks.spawn(asyncio.sleep(0), task_name="t")
    await settle()
    assert asyncio.all_tasks() == before


async def test_finished_tasks_are_forgotten_in_order_of_their_end() -> None:
    records: list[TaskRecord] = []
    async with manager(history_bytes=3_000) as tasks:
        for number in range(100):
            await (await tasks.spawn(asyncio.sleep(0), task_name=f"t{number}"))
        records = tasks.tasks()
    assert 5 < len(records) < 40
    assert [record.name for record in records] == [f"t{99 - n}" for n in range(len(records))]
