"""What a task manager takes, refuses and shows."""

from __future__ import annotations

import asyncio
import gc
import math

import pytest
from tests.support.short_tasks import Gate, manager, settle

from sparkle.errors import TaskCancelledError
from sparkle.errors_tasks import (
    TaskManagerClosedError,
    TaskNotFoundError,
    TaskQueueFullError,
    TaskStateError,
)
from sparkle.tasks.manager import TaskManager
from sparkle.tasks.states import TaskState


async def answer(value: object = 42) -> object:
    await asyncio.sleep(0)
    return value


async def fail(message: str = "no") -> None:
    await asyncio.sleep(0)
    raise LookupError(message)


async def test_a_full_queue_is_a_typed_error_and_the_coroutine_is_closed() -> None:
    gate = Gate()
    async with manager(concurrency=1, queue=1) as tasks:
        await tasks.spawn(gate.work(), task_name="a")
        await tasks.spawn(gate.work(), task_name="a")
        with pytest.raises(TaskQueueFullError, match="SPARKLE_TASKS__SHORT__QUEUE") as caught:
            await tasks.spawn(gate.work(), task_name="a")
        assert caught.value.http_status == 429
        assert caught.value.retry_after
        assert tasks.health_check().status == "full"
        assert tasks.health_check().refused == 1
        assert b'refused_total{reason="queue_full"} 1.0' in tasks.render_metrics()[0]
    gc.collect()  # a coroutine that was never closed would warn here


async def test_a_task_may_spawn_tasks() -> None:
    async with manager(concurrency=2) as tasks:

        async def tree(depth: int) -> int:
            if depth == 0:
                return 1
            child = await tasks.spawn(tree(depth - 1), task_name="tree")
            return 1 + await child

        assert await (await tasks.spawn(tree(1), task_name="tree")) == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"task_name": ""}, ValueError),
        ({"task_name": "x" * 201}, ValueError),
        ({"task_name": "x", "user_id": "u" * 201}, ValueError),
        ({"task_name": "x", "priority": 10}, ValueError),
        ({"task_name": "x", "priority": -1}, ValueError),
        ({"task_name": "x", "timeout": 0.0}, ValueError),
        ({"task_name": "x", "timeout": math.nan}, ValueError),
    ],
)
async def test_a_wrong_argument_is_refused_and_the_coroutine_closed(
    arguments: dict[str, object], error: type[Exception]
) -> None:
    async with manager() as tasks:
        with pytest.raises(error):
            await tasks.spawn(answer(), **arguments)  # pyright: ignore[reportArgumentType]  that is the test
    gc.collect()


async def test_only_coroutines_are_spawned() -> None:
    async with manager() as tasks:
        with pytest.raises(TypeError, match="not a function"):
            await tasks.spawn(answer, task_name="x")  # pyright: ignore[reportArgumentType]  that is the test
        with pytest.raises(TypeError, match="not a int"):
            await tasks.spawn_with_retry(3, task_name="x")  # pyright: ignore[reportArgumentType]  that is the test
        with pytest.raises(ValueError, match="max_attempts"):
            await tasks.spawn_with_retry(answer, task_name="x", max_attempts=0)


async def test_asking_for_a_result_too_early_is_an_error() -> None:
    async with manager() as tasks:
        handle = await tasks.spawn(answer(), task_name="x")
        with pytest.raises(TaskStateError, match="running"):
            handle.result()
        assert "x" in repr(handle)


async def test_tasks_can_be_listed_found_and_cancelled_by_id() -> None:
    gate = Gate()
    async with manager() as tasks:
        done = await tasks.spawn(answer(), task_name="quick", user_id="ann")
        await done
        slow = await tasks.spawn(gate.work(), task_name="slow", user_id="bob")
        await settle()
        assert [record.id for record in tasks.tasks()] == [slow.id, done.id]
        assert [record.id for record in tasks.tasks(user_id="ann")] == [done.id]
        assert [record.id for record in tasks.tasks(task_name="slow")] == [slow.id]
        assert [r.id for r in tasks.tasks(states=frozenset({TaskState.SUCCEEDED}))] == [done.id]
        assert tasks.tasks(limit=1)[0].id == slow.id
        assert tasks.cancel(slow.id)
        assert not tasks.cancel(done.id)
        with pytest.raises(TaskNotFoundError):
            tasks.get("nothing")
        with pytest.raises(TaskCancelledError):
            await slow


async def test_a_manager_that_is_not_open_takes_no_task() -> None:
    tasks = TaskManager()
    assert tasks.health_check().status == "closed"
    with pytest.raises(TaskManagerClosedError, match="async with"):
        await tasks.spawn(answer(), task_name="x")
    async with tasks:
        await (await tasks.spawn(answer(), task_name="x"))
    with pytest.raises(TaskManagerClosedError):
        await tasks.spawn(answer(), task_name="x")
    with pytest.raises(TaskManagerClosedError, match="new one"):
        await tasks.start()
    gc.collect()


def test_a_manager_serves_one_event_loop() -> None:
    async def elsewhere(tasks: TaskManager) -> None:
        with pytest.raises(TaskManagerClosedError, match="another event loop"):
            await tasks.spawn(answer(), task_name="x")

    async def here() -> None:
        async with manager() as tasks:
            await asyncio.to_thread(lambda: asyncio.run(elsewhere(tasks)))

    asyncio.run(here())


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_error_that_ends_the_process_is_recorded_and_goes_on_its_way(error: type[BaseException]) -> None:
    managers: list[TaskManager] = []
    attempts: list[int] = []

    async def leave() -> None:
        attempts.append(1)
        raise error("bye")

    async def main() -> None:
        async with manager() as tasks:
            managers.append(tasks)
            await tasks.spawn_with_retry(leave, task_name="leave", max_attempts=3)
            await asyncio.Event().wait()

    with pytest.raises(error):
        asyncio.run(main())
    [record] = managers[0].tasks()
    assert (record.state, record.error_type) == (TaskState.FAILED, error.__name__)
    assert attempts == [1], "not tried again"
