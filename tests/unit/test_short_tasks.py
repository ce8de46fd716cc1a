"""What ``TaskManager`` promises about one task."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import uuid
from contextvars import ContextVar

import pytest
from tests.support.clock import ManualClock
from tests.support.short_tasks import Gate, manager, settle

from sparkle.errors import TaskCancelledError, TaskTimeoutError
from sparkle.tasks.manager import TaskManager
from sparkle.tasks.record import TaskRecord
from sparkle.tasks.states import TaskMode, TaskState
from sparkle.tasks.trace import current_traceparent, traced


async def answer(value: object = 42) -> object:
    await asyncio.sleep(0)
    return value


async def fail(message: str = "no") -> None:
    await asyncio.sleep(0)
    raise LookupError(message)


async def test_awaiting_the_handle_gives_the_result() -> None:
    async with manager() as tasks:
        handle = await tasks.spawn(answer(7), task_name="add", user_id="ann")
        assert await handle == 7
        assert await handle == 7, "again, after the end"
        assert handle.done()
        assert handle.result() == 7
        assert handle.exception() is None


async def test_the_record_tells_the_whole_story() -> None:
    clock = ManualClock(1_000.0)
    gate = Gate()
    async with manager(clock) as tasks:
        handle = await tasks.spawn(gate.work(), task_name="embed", user_id="ann", priority=7, trace="00-t")
        assert handle.record.state is TaskState.RUNNING
        clock.advance(2.5)
        gate.opened.set()
        await handle
        record = handle.record
        assert record == tasks.get(handle.id), "the history tells the same"
    assert record == TaskRecord(
        id="task-1",
        mode=TaskMode.SHORT,
        name="embed",
        user_id="ann",
        state=TaskState.SUCCEEDED,
        priority=7,
        attempt=1,
        created_at=1_000_000_000,
        due_at=1_000_000_000,
        started_at=1_000_000_000,
        finished_at=1_002_500_000,
        progress=1.0,
        trace="00-t",
    )


async def test_ids_are_version_7() -> None:
    async with TaskManager() as tasks:
        handles = [await tasks.spawn(answer(), task_name="a") for _ in range(3)]
        assert [uuid.UUID(handle.id).version for handle in handles] == [7, 7, 7]
        assert sorted(handle.id for handle in handles) == [handle.id for handle in handles]


async def test_an_error_reaches_every_waiter() -> None:
    async with manager() as tasks:
        handle = await tasks.spawn(fail("gone"), task_name="look")
        errors = await asyncio.gather(handle, handle, return_exceptions=True)
        assert [str(error) for error in errors] == ["gone", "gone"]
        assert isinstance(handle.exception(), LookupError)
        assert handle.record.state is TaskState.FAILED
        assert (handle.record.error_type, handle.record.error_message) == ("LookupError", "gone")


async def test_secrets_in_an_error_message_do_not_reach_the_record() -> None:
    async with manager() as tasks:
        handle = await tasks.spawn(fail("cannot reach postgres://ann:hunter2@db/x"), task_name="look")
        await asyncio.wait([asyncio.ensure_future(_outcome(handle))])
        assert "hunter2" not in repr(handle.record)
        assert "hunter2" not in repr(tasks.get(handle.id))


async def _outcome(handle: object) -> BaseException | None:
    try:
        await handle  # pyright: ignore[reportGeneralTypeIssues]  any handle
    except (Exception, asyncio.CancelledError) as exc:  # noqa: BLE001  the error is what the test looks at
        return exc
    return None


async def test_a_failure_that_nobody_awaits_is_logged_once_without_its_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with manager() as tasks:
        await tasks.spawn(fail("the prompt"), task_name="look")
        await settle()
        gc.collect()
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        text = caplog.text
        assert "look" in text
        assert "LookupError" in text
        assert "in tests.unit.test_short_tasks.fail" in text or "test_short_tasks.fail" in text
        assert "the prompt" not in text
        assert b"sparkle_short_task_failures_unseen_total 1.0" in tasks.render_metrics()[0]
    assert len(caplog.records) == 1


async def test_a_failure_that_is_awaited_later_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with manager() as tasks:
        handle = await tasks.spawn(fail(), task_name="look")
        await settle()
        with pytest.raises(LookupError):
            await handle
        del handle
        gc.collect()
    assert not caplog.records


async def test_failures_whose_handles_are_kept_are_logged_when_the_manager_closes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with manager() as tasks:
        handle = await tasks.spawn(fail(), task_name="look")
        await settle()
        assert not caplog.records
    assert len(caplog.records) == 1
    del handle
    gc.collect()
    assert len(caplog.records) == 1


async def test_a_waiter_that_is_cancelled_leaves_the_task_alone() -> None:
    gate = Gate()
    async with manager() as tasks:
        handle = await tasks.spawn(gate.work(), task_name="wait")
        waiter = asyncio.ensure_future(_outcome(handle))
        await settle()
        waiter.cancel()
        assert isinstance(await waiter, asyncio.CancelledError)
        assert handle.state is TaskState.RUNNING
        gate.opened.set()
        assert await handle == "it"


async def test_a_cancelled_task_tells_its_waiter_so_with_an_error_of_its_own() -> None:
    gate = Gate()
    async with manager() as tasks:
        handle = await tasks.spawn(gate.work(), task_name="wait")
        await settle()
        assert handle.cancel()
        with pytest.raises(TaskCancelledError):
            await handle
        assert gate.cancelled == ["it"]
        assert handle.cancelled()
        assert not handle.cancel(), "it is over"
        assert handle.record.cancel_requested


async def test_a_coroutine_cancelled_before_its_first_step_never_runs() -> None:
    gate = Gate()
    async with manager() as tasks:
        handle = await tasks.spawn(gate.work(), task_name="wait")
        handle.cancel()
        with pytest.raises(TaskCancelledError):
            await handle
        assert not gate.began


async def test_a_coroutine_that_cancels_itself_counts_as_cancelled() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    async with manager() as tasks:
        handle = await tasks.spawn(give_up(), task_name="wait")
        with pytest.raises(TaskCancelledError):
            await handle
        assert handle.record.state is TaskState.CANCELLED
        assert not handle.record.cancel_requested


async def test_a_task_that_ends_well_although_it_was_cancelled_has_ended_well() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "saved"
        return "never"

    async with manager() as tasks:
        handle = await tasks.spawn(stubborn(), task_name="wait")
        await settle()
        handle.cancel()
        assert await handle == "saved"
        assert handle.record.cancel_requested


async def test_a_task_over_its_time_limit_fails_with_a_timeout() -> None:
    clock, gate = ManualClock(), Gate()
    async with manager(clock) as tasks:
        handle = await tasks.spawn(gate.work(), task_name="slow", timeout=2.0)
        await settle()
        clock.advance(1.9)
        await settle()
        assert not handle.done()
        clock.advance(0.2)
        with pytest.raises(TaskTimeoutError, match="slow task-1 ran longer than 2 s"):
            await handle
        assert gate.cancelled == ["it"]
        assert handle.record.error_type == "TaskTimeoutError"


async def test_the_default_time_limit_is_the_settings_and_infinity_is_none() -> None:
    clock, gate = ManualClock(), Gate()
    async with manager(clock, timeout_seconds=1.0) as tasks:
        limited = await tasks.spawn(gate.work("limited"), task_name="slow")
        free = await tasks.spawn(gate.work("free"), task_name="slow", timeout=math.inf)
        await settle()
        clock.advance(1e9)
        await settle()
        assert isinstance(limited.exception(), TaskTimeoutError)
        assert not free.done()


async def test_waiting_for_a_slot_does_not_count_against_the_time_limit() -> None:
    clock, first, second = ManualClock(), Gate(), Gate()
    async with manager(clock, concurrency=1) as tasks:
        await tasks.spawn(first.work(), task_name="first", timeout=math.inf)
        handle = await tasks.spawn(second.work(), task_name="second", timeout=1.0)
        await settle()
        clock.advance(5.0)
        await settle()
        assert handle.state is TaskState.WAITING
        first.opened.set()
        second.opened.set()
        assert await handle == "it"


async def test_cancelling_beats_a_time_limit_that_strikes_in_the_same_moment() -> None:
    clock, gate = ManualClock(), Gate()
    async with manager(clock) as tasks:
        handle = await tasks.spawn(gate.work(), task_name="slow", timeout=1.0)
        await settle()
        clock.advance(2.0)
        handle.cancel()
        with pytest.raises(TaskCancelledError):
            await handle


async def test_context_variables_are_those_of_the_moment_of_spawning() -> None:
    who: ContextVar[str] = ContextVar("who", default="nobody")

    async def ask() -> str:
        return who.get()

    gate = Gate()
    async with manager(concurrency=1) as tasks:
        who.set("ann")
        blocking = await tasks.spawn(gate.work(), task_name="block")
        waiting = await tasks.spawn(ask(), task_name="ask")
        who.set("bob")
        gate.opened.set()
        assert await waiting == "ann"
        await blocking


async def test_the_trace_goes_with_the_task() -> None:
    async def ask() -> str | None:
        return current_traceparent()

    async with manager() as tasks:
        with traced("00-abc-def-01"):
            handle = await tasks.spawn(ask(), task_name="ask")
        assert await handle == "00-abc-def-01"
        assert handle.record.trace == "00-abc-def-01"
        assert (await tasks.spawn(answer(), task_name="ask")).record.trace is None
