"""What one in-process task costs in one system; run as a file, so that any Python can: no part of the repository is
needed but for Sparkle's own rows.

``python bench/short_tasks.py SYSTEM TASKS`` prints one line of JSON: microseconds of CPU and of wall time for a task
that is started and awaited before the next, and for one of a burst of 100; bytes of a task that waits, and of one that
is over and whose handle is dropped.
"""

# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false
# aiojobs is installed where this file is run for it, and not where it is checked.

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

Work = Coroutine[Any, Any, None]
Start = Callable[[Work], Awaitable[Any]]
"""Starts a task; what it gives is awaited for the task's end."""
_BURST = 100
_BLOCKS = 10
_LIVE = 5_000


async def nothing() -> None:
    """The task: what is measured is all around it."""


async def wait_for(event: asyncio.Future[None]) -> None:
    """A task that lives until it is told to end."""
    await event


@asynccontextmanager
async def create_task() -> AsyncGenerator[Start]:
    """asyncio's own, untracked: an exception is lost, nothing is limited, nothing is recorded."""

    async def start(work: Work) -> asyncio.Task[None]:
        return asyncio.create_task(work)

    yield start


@asynccontextmanager
async def task_group() -> AsyncGenerator[Start]:
    """asyncio's structured concurrency."""
    async with asyncio.TaskGroup() as group:

        async def start(work: Work) -> asyncio.Task[None]:
            return group.create_task(work)

        yield start


@asynccontextmanager
async def by_hand() -> AsyncGenerator[Start]:
    """create_task with a record, two counters and a histogram of prometheus_client, their labels cached."""
    from prometheus_client import CollectorRegistry, Counter, Histogram

    registry = CollectorRegistry()
    started = Counter("started", "Started.", ["name"], registry=registry).labels("noop")
    ended = Counter("ended", "Ended.", ["name", "state"], registry=registry).labels("noop", "ok")
    seconds = Histogram("seconds", "Time.", ["name"], registry=registry).labels("noop")
    records: list[dict[str, Any]] = []

    async def start(work: Work) -> asyncio.Task[None]:
        record: dict[str, Any] = {"id": len(records), "name": "noop", "user": "ann", "began": time.time()}
        records.append(record)
        started.inc()

        async def tracked() -> None:
            try:
                await work
                record["state"] = "ok"
            except BaseException as exc:
                record["state"] = type(exc).__name__
                raise
            finally:
                record["ended"] = time.time()
                ended.inc()
                seconds.observe(record["ended"] - record["began"])

        return asyncio.create_task(tracked())

    yield start


@asynccontextmanager
async def task_manager(ledger: Any = None) -> AsyncGenerator[Start]:
    """Sparkle's, as an application uses it: limits, time limit, history and metrics on."""
    from sparkle.settings_tasks import ShortTasksSettings
    from sparkle.tasks.manager import TaskManager

    settings = ShortTasksSettings(concurrency=2 * _LIVE, per_user=2 * _LIVE, history_bytes=100_000_000)
    async with TaskManager(settings, ledger=ledger) as manager:

        async def start(work: Work) -> Awaitable[None]:
            return await manager.spawn(work, task_name="noop", user_id="ann")

        yield start


@asynccontextmanager
async def task_manager_with_ledger() -> AsyncGenerator[Start]:
    """The same, its records written to SQLite."""
    from pathlib import Path

    from sparkle.tasks.ledger import Ledger

    with tempfile.TemporaryDirectory() as folder, Ledger.open(Path(folder)) as ledger:
        async with task_manager(ledger) as start:
            yield start


@asynccontextmanager
async def aiojobs_scheduler() -> AsyncGenerator[Start]:
    """aiojobs: limits and a place where exceptions go."""
    import aiojobs

    async with aiojobs.Scheduler(limit=2 * _LIVE) as scheduler:

        async def start(work: Work) -> Any:
            return (await scheduler.spawn(work)).wait()

        yield start


@asynccontextmanager
async def anyio_group() -> AsyncGenerator[Start]:
    """anyio's task group, with an event for whoever waits."""
    import anyio

    async with anyio.create_task_group() as group:

        async def start(work: Work) -> Awaitable[None]:
            ended = anyio.Event()

            async def tracked() -> None:
                await work
                ended.set()

            group.start_soon(tracked)
            return ended.wait()

        yield start


SYSTEMS: dict[str, Callable[[], Any]] = {
    "create_task": create_task,
    "TaskGroup": task_group,
    "by hand": by_hand,
    "TaskManager": task_manager,
    "TaskManager, ledger": task_manager_with_ledger,
    "aiojobs": aiojobs_scheduler,
    "anyio": anyio_group,
}


async def measure(system: str, tasks: int) -> dict[str, float]:
    """All figures of one system. Times are the best of 10 blocks: what others do to the machine only adds."""
    figures: dict[str, float] = {}
    async with SYSTEMS[system]() as start:
        for _ in range(500):
            await (await start(nothing()))
        each = tasks // _BLOCKS
        alone, bursts = list[tuple[float, float]](), list[tuple[float, float]]()
        for _ in range(_BLOCKS):
            alone.append(await _timed(_one_by_one, start, each))
            bursts.append(await _timed(_in_bursts, start, each))
        for name, blocks in (("alone", alone), ("burst", bursts)):
            figures[f"{name}_cpu_us"] = min(cpu for cpu, _ in blocks) / each * 1e6
            figures[f"{name}_wall_us"] = min(wall for _, wall in blocks) / each * 1e6
    async with SYSTEMS[system]() as start:
        figures |= await _memory(start)
    return figures


async def _timed(
    run: Callable[[Start, int], Awaitable[None]], start: Start, tasks: int
) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    await run(start, tasks)
    return time.process_time() - cpu, time.perf_counter() - wall


async def _one_by_one(start: Start, tasks: int) -> None:
    for _ in range(tasks):
        await (await start(nothing()))


async def _in_bursts(start: Start, tasks: int) -> None:
    for _ in range(tasks // _BURST):
        handles = [await start(nothing()) for _ in range(_BURST)]
        for handle in handles:
            await handle


async def _memory(start: Start) -> dict[str, float]:
    # Once before: asyncio's own set of tasks has its final size then, and does not count as left by finished ones.
    await _live_and_end(start)
    gc.collect()
    tracemalloc.start()
    empty = tracemalloc.get_traced_memory()[0]
    live = await _live_and_end(start)
    gc.collect()
    over = tracemalloc.get_traced_memory()[0] - empty
    tracemalloc.stop()
    return {"live_bytes": live / _LIVE, "finished_bytes": max(0, over) / _LIVE}


async def _live_and_end(start: Start) -> int:
    loop = asyncio.get_running_loop()
    events = [loop.create_future() for _ in range(_LIVE)]
    before = tracemalloc.get_traced_memory()[0]
    handles = [await start(wait_for(event)) for event in events]
    for _ in range(5):
        await asyncio.sleep(0)
    live = tracemalloc.get_traced_memory()[0] - before
    for event in events:
        event.set_result(None)
    for handle in handles:
        await handle
    return live


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1], int(sys.argv[2])))))
