"""How many short tasks run, who waits, and what is told of it."""

from __future__ import annotations

import asyncio
import gc

import pytest
from tests.support.clock import ManualClock
from tests.support.short_tasks import Gate, manager, settle

from sparkle.errors_tasks import TaskQueueFullError
from sparkle.series import Exposition
from sparkle.settings_tasks import ShortTasksSettings
from sparkle.tasks.manager import TaskManager
from sparkle.tasks.short_metrics import ShortTaskMetrics
from sparkle.tasks.states import TaskState

# Limits -----------------------------------------------------------------------------------------------------------


async def test_who_waits_is_started_by_priority_and_then_by_age() -> None:
    order: list[str] = []

    async def note(name: str) -> None:
        order.append(name)

    gate = Gate()
    async with manager(concurrency=1) as tasks:
        await tasks.spawn(gate.work(), task_name="block")
        waiting = [
            await tasks.spawn(note(name), task_name="note", priority=priority)
            for name, priority in [("b1", 5), ("c", 0), ("a1", 9), ("b2", 5), ("a2", 9)]
        ]
        gate.opened.set()
        await asyncio.gather(*waiting)
    assert order == ["a1", "a2", "b1", "b2", "c"]


async def test_a_user_at_the_limit_holds_up_nobody_else() -> None:
    first, second = Gate(), Gate()
    async with manager(concurrency=3, per_user=1) as tasks:
        await tasks.spawn(first.work("ann 1"), task_name="t", user_id="ann")
        waits = await tasks.spawn(first.work("ann 2"), task_name="t", user_id="ann", priority=9)
        await tasks.spawn(second.work("bob"), task_name="t", user_id="bob")
        await tasks.spawn(second.work("nobody"), task_name="t")
        await settle()
        assert first.began == ["ann 1"]
        assert second.began == ["bob", "nobody"]
        assert waits.state is TaskState.WAITING
        first.opened.set()
        assert await waits == "ann 2"


async def test_cancelling_one_who_waits_lets_the_next_one_have_the_slot() -> None:
    gate, other = Gate(), Gate()
    async with manager(concurrency=1, per_user=1) as tasks:
        blocking = await tasks.spawn(gate.work(), task_name="t", user_id="ann")
        gone = await tasks.spawn(other.work("gone"), task_name="t", user_id="ann", priority=9)
        comes = await tasks.spawn(other.work("comes"), task_name="t", user_id="ann")
        assert gone.cancel()
        gate.opened.set()
        other.opened.set()
        assert await comes == "comes"
        assert other.began == ["comes"]
        await blocking
    gc.collect()


async def test_a_queue_of_none_refuses_whoever_would_have_to_wait() -> None:
    gate = Gate()
    async with manager(concurrency=1, queue=0) as tasks:
        await tasks.spawn(gate.work(), task_name="t")
        with pytest.raises(TaskQueueFullError):
            await tasks.spawn(gate.work(), task_name="t")


async def test_one_user_cannot_fill_the_queue_for_all() -> None:
    gate = Gate()
    async with manager(concurrency=1, queue=10, queue_per_user=2) as tasks:
        await tasks.spawn(gate.work(), task_name="t", user_id="ann")
        for priority in (1, 9):
            await tasks.spawn(gate.work(), task_name="t", user_id="ann", priority=priority)
        with pytest.raises(TaskQueueFullError, match="of this user"):
            await tasks.spawn(gate.work(), task_name="t", user_id="ann")
        await tasks.spawn(gate.work(), task_name="t", user_id="bob")
        assert tasks.health_check().waiting == 3


async def test_health_tells_how_busy_it_is() -> None:
    clock, gate = ManualClock(), Gate()
    async with manager(clock, concurrency=1, queue=2) as tasks:
        assert tasks.health_check().status == "ok"
        assert tasks.health_check().healthy
        await tasks.spawn(gate.work(), task_name="t")
        await tasks.spawn(gate.work(), task_name="t")
        clock.advance(3.0)
        health = tasks.health_check()
        assert (health.status, health.running, health.waiting) == ("busy", 1, 1)
        assert health.oldest_waiting_seconds == 3.0
        await tasks.spawn(gate.work(), task_name="t")
        assert tasks.health_check().status == "full"
        assert not tasks.health_check().healthy
        gate.opened.set()
        await settle(20)
        health = tasks.health_check()
        assert (health.status, health.succeeded, health.history) == ("ok", 3, 3)


async def test_metrics_have_names_and_states_but_neither_users_nor_ids() -> None:
    async with manager() as tasks:
        for number in range(300):
            await (await tasks.spawn(asyncio.sleep(0), task_name=f"name {number}", user_id="secret-user"))
        text = tasks.render_metrics()[0].decode()
    assert 'sparkle_short_tasks_total{name="name 0",state="succeeded"} 1.0' in text
    assert 'sparkle_short_tasks_total{name="other",state="succeeded"} 100.0' in text
    assert "sparkle_short_tasks_running 0.0" in text
    assert "secret-user" not in text
    assert "task-" not in text


async def test_metrics_can_stand_in_an_applications_own_scrape() -> None:
    exposition = Exposition()
    own = exposition.counter("shop_orders_total", "Orders.")()
    own.inc()
    gate = Gate()
    async with TaskManager(
        ShortTasksSettings(drain_seconds=0.0), metrics=ShortTaskMetrics(exposition)
    ) as tasks:
        await tasks.spawn(gate.work(), task_name="t")
        text = exposition.render()[0].decode()
        assert "shop_orders_total 1.0" in text
        assert "sparkle_short_tasks_running 1.0" in text
    assert "sparkle_short_tasks_running 0.0" in exposition.render()[0].decode()
    del tasks
    gc.collect()
    exposition.render()
