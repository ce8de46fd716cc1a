"""Deadlines fire once, never early, and leave nothing behind when they are taken out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.clock import ManualClock
from tests.support.short_tasks import settle

from sparkle.tasks.deadlines import Deadlines


@asynccontextmanager
async def running(deadlines: Deadlines[str]) -> AsyncGenerator[None]:
    task = asyncio.ensure_future(deadlines.run())
    try:
        await settle()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_item_fires_when_its_time_has_come_and_not_before() -> None:
    clock, fired = ManualClock(), list[str]()
    deadlines = Deadlines(clock, fired.append)
    async with running(deadlines):
        deadlines.add("a", 1.0)
        clock.advance(0.99)
        await settle()
        assert not fired
        clock.advance(0.02)
        await settle()
        assert fired == ["a"]
        assert len(deadlines) == 0


async def test_an_earlier_deadline_wakes_whoever_sleeps_for_a_later_one() -> None:
    clock, fired = ManualClock(), list[str]()
    deadlines = Deadlines(clock, fired.append)
    async with running(deadlines):
        deadlines.add("late", 100.0)
        await settle()
        deadlines.add("early", 1.0)
        await settle()
        clock.advance(1.01)
        await settle()
        assert fired == ["early"]


async def test_what_is_taken_out_does_not_fire_not_even_when_a_neighbour_takes_it_out() -> None:
    clock, fired = ManualClock(), list[str]()
    ticks: dict[str, int] = {}

    def fire(item: str) -> None:
        fired.append(item)
        for other in ticks:
            if other != item:
                deadlines.remove(other, ticks[other])

    deadlines = Deadlines(clock, fire)
    async with running(deadlines):
        for item in ("a", "b", "c"):
            ticks[item] = deadlines.add(item, 1.0)
        clock.advance(2.0)
        await settle()
        assert len(fired) == 1


async def test_what_fires_may_set_a_new_deadline_of_no_time() -> None:
    clock, fired = ManualClock(), list[str]()

    def fire(item: str) -> None:
        fired.append(item)
        deadlines.add(item, 0.0)

    deadlines = Deadlines(clock, fire)
    async with running(deadlines):
        deadlines.add("a", 0.0)
        for _ in range(3):
            clock.advance(0.01)
            await settle()
    assert fired == ["a", "a", "a"]


async def test_a_million_short_lived_items_leave_nothing() -> None:
    clock, fired = ManualClock(), list[str]()
    deadlines = Deadlines(clock, fired.append)
    for number in range(50_000):
        clock.elapsed += 0.001
        deadlines.remove("x", deadlines.add("x", 60.0 if number % 2 else 30.0))
    assert len(deadlines) == 0
    assert deadlines.remembered <= 1_000


@given(st.lists(st.floats(0.0, 400.0), max_size=40), st.floats(0.0, 1e6))
@settings(max_examples=100, deadline=None)
def test_no_deadline_is_early_and_none_is_later_than_promised(delays: list[float], start: float) -> None:
    asyncio.run(_check(delays, start))


async def _check(delays: list[float], start: float) -> None:
    clock = ManualClock()
    clock.elapsed = start
    fired: dict[str, float] = {}

    def fire(item: str) -> None:
        fired[item] = clock.elapsed

    deadlines = Deadlines(clock, fire)
    async with running(deadlines):
        for number, delay in enumerate(delays):
            deadlines.add(str(number), delay)
        while len(fired) < len(delays):
            await settle(4)
            clock.advance(max(deadlines.next_in(), 0.0) + 1e-9)
            await settle(4)
    for number, delay in enumerate(delays):
        late = fired[str(number)] - start - delay
        assert -1e-6 <= late <= max(0.02, delay / 64 + 0.02)
