"""Task managers for tests: moved by a manual clock, with what they need to be watched."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs
from tests.support.clock import ManualClock

from sparkle.settings_tasks import ShortTasksSettings
from sparkle.tasks.manager import TaskManager


async def settle(turns: int = 10) -> None:
    """Let the loop run until whatever could go on has gone on."""
    for _ in range(turns):
        await asyncio.sleep(0)


def numbered_ids() -> Callable[[], str]:
    """Ids that a test can foresee: task-1, task-2, ..."""
    numbers = itertools.count(1)
    return lambda: f"task-{next(numbers)}"


@asynccontextmanager
async def manager(
    clock: ManualClock | None = None, *, seed: int = 1, **settings: Any
) -> AsyncGenerator[TaskManager]:
    """An open manager; at the end everything that still runs is cancelled."""
    made = TaskManager(
        structs.replace(ShortTasksSettings(drain_seconds=0.0, cancel_seconds=60.0), **settings),
        clock=clock or ManualClock(),
        rng=random.Random(seed),
        ids=numbered_ids(),
    )
    async with made:
        yield made


@dataclass
class Gate:
    """A coroutine that runs until it is told to end, and notes what happened to it."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    began: list[str] = field(default_factory=list[str])
    ended: list[str] = field(default_factory=list[str])
    cancelled: list[str] = field(default_factory=list[str])

    async def work(self, name: str = "it") -> str:
        self.began.append(name)
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        self.ended.append(name)
        return name
