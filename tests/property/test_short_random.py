"""Random work for ``TaskManager``: limits are never exceeded, and every coroutine ends in exactly one final record."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.clock import ManualClock
from tests.support.short_tasks import manager, settle

from sparkle.errors_tasks import TaskQueueFullError
from sparkle.tasks.handle import TaskHandle
from sparkle.tasks.manager import TaskManager
from sparkle.tasks.retry import RetryPolicy
from sparkle.tasks.states import FINISHED, TaskMode, TaskState, may_become

CONCURRENCY, PER_USER, QUEUE = 4, 2, 6
KINDS = ("return", "raise", "sleep", "stubborn", "retry", "child", "exit late")


@dataclass
class World:
    """What is observed from inside the coroutines."""

    clock: ManualClock
    tasks: TaskManager
    running: Counter[str] = field(default_factory=Counter[str])
    most: int = 0
    most_of_user: int = 0
    children: list[TaskHandle[None]] = field(default_factory=list[TaskHandle[None]])
    children_made: int = 0

    async def work(self, kind: str, user: str | None, seconds: float) -> None:
        name = user or ""
        self.running[name] += 1
        self.most = max(self.most, self.running.total())
        if user is not None:
            self.most_of_user = max(self.most_of_user, self.running[name])
        try:
            await self._do(kind, user, seconds)
        finally:
            self.running[name] -= 1

    async def _do(self, kind: str, user: str | None, seconds: float) -> None:
        if kind in ("sleep", "exit late"):
            try:
                await self.clock.sleep(seconds)
            except asyncio.CancelledError:
                if kind == "exit late":
                    await asyncio.sleep(0)
                raise
        elif kind == "stubborn":
            try:
                await self.clock.sleep(seconds)
            except asyncio.CancelledError:
                return
        elif kind in ("raise", "retry"):
            await asyncio.sleep(0)
            raise LookupError(kind)
        elif kind == "child":
            try:
                child = await self.tasks.spawn(
                    self.work("sleep", user, seconds), task_name="child", user_id=user
                )
            except TaskQueueFullError:
                return
            self.children_made += 1
            self.children.append(child)


spawn = st.tuples(
    st.just("spawn"), st.sampled_from(KINDS), st.sampled_from([None, "ann", "bob"]), st.integers(0, 9)
)
step = st.one_of(
    spawn,
    spawn,
    spawn,
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("advance"), st.sampled_from([0.01, 0.5, 2.0])),
    st.tuples(st.just("settle")),
)


@given(
    steps=st.lists(step, min_size=10, max_size=60),
    seed=st.integers(0, 10),
    patience=st.sampled_from([0.0, 3.0]),
)
@settings(max_examples=150, deadline=None)
def test_limits_hold_and_every_coroutine_ends_in_exactly_one_record(
    steps: list[tuple[object, ...]], seed: int, patience: float
) -> None:
    asyncio.run(_live(steps, seed, patience))


async def _live(steps: list[tuple[object, ...]], seed: int, patience: float) -> None:
    clock, rng = ManualClock(), random.Random(seed)
    handles: list[TaskHandle[None]] = []
    refused = 0
    limits = {"concurrency": CONCURRENCY, "per_user": PER_USER, "queue": QUEUE, "timeout_seconds": 1.0}
    async with manager(clock, seed=seed, drain_seconds=patience, history_bytes=1_000_000, **limits) as tasks:
        world = World(clock, tasks)
        seen: dict[str, TaskState] = {}

        def look() -> None:
            for handle in (*handles, *world.children):
                before, now = seen.get(handle.id), handle.state
                if before is not None and before is not now:
                    # Looks are far apart: two steps of the table may lie between them.
                    assert _reachable(before, now), f"{before} became {now}"
                seen[handle.id] = now
            health = tasks.health_check()
            running = [one for one in (*handles, *world.children) if one.state is TaskState.RUNNING]
            assert health.running == len(running) <= CONCURRENCY
            users = Counter(one.user_id for one in running if one.user_id is not None)
            assert all(count <= PER_USER for count in users.values())
            assert health.waiting + health.retrying <= QUEUE + CONCURRENCY

        try:
            for one in steps:
                match one:
                    case ("spawn", str(kind), user, int(priority)):
                        assert user is None or isinstance(user, str)
                        seconds = rng.choice([0.0, 0.3, 1.5])
                        try:
                            if kind == "retry":
                                handle = await tasks.spawn_with_retry(
                                    lambda kind=kind, user=user, seconds=seconds: world.work(
                                        kind, user, seconds
                                    ),
                                    task_name=kind,
                                    user_id=user,
                                    priority=priority,
                                    retry=RetryPolicy(base_seconds=0.5),
                                )
                            else:
                                handle = await tasks.spawn(
                                    world.work(kind, user, seconds),
                                    task_name=kind,
                                    user_id=user,
                                    priority=priority,
                                )
                            handles.append(handle)
                        except TaskQueueFullError:
                            refused += 1
                    case ("cancel", int(number)) if handles:
                        handles[number % len(handles)].cancel()
                    case ("advance", float(seconds)):
                        clock.advance(seconds)
                        await settle()
                    case _:
                        await settle()
                look()
        except BaseException:
            await tasks.close(0.0)  # a finding must not wait for a clock that nobody moves any more
            raise
        closing = asyncio.ensure_future(tasks.close())
        while not closing.done():
            await settle()
            clock.advance(1.0)
        report = await closing
        look()

    everything = [*handles, *world.children]
    assert all(handle.state in FINISHED for handle in everything)
    assert world.most <= CONCURRENCY
    assert world.most_of_user <= PER_USER
    assert not world.running.total(), "nothing runs on"
    records = tasks.tasks(limit=10_000)
    assert sorted(r.id for r in records) == sorted(h.id for h in everything), "one record each, no other"
    assert {r.id: r for r in records} == {h.id: h.record for h in everything}
    health = tasks.health_check()
    assert health.succeeded + health.failed + health.cancelled == len(everything)
    assert not report.stuck
    for handle in everything:
        handle.exception()  # somebody has seen it


def _reachable(before: TaskState, after: TaskState) -> bool:
    reached, front = {before}, [before]
    while front:
        current = front.pop()
        following = [s for s in TaskState if may_become(TaskMode.SHORT, current, s) and s not in reached]
        reached.update(following)
        front += following
    return after in reached and before not in FINISHED
