"""Many deadlines, one sleeper: when running tasks time out and failed ones are tried again.

The event loop's own timers keep a cancelled timer, and what it refers to, until its time comes. With a time limit of a
minute and thousands of tasks a second that would be millions of dead entries. Here items lie in buckets of neighbouring
moments, and one that is taken out is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from math import ceil, inf
from typing import Generic, TypeVar

from sparkle.clock import Clock

T = TypeVar("T")
_PER_SECOND = 100
_KEPT_BITS = 7
"""Deadlines are kept to seven binary digits of their distance: a limit of 60 s may come 0.5 s late, never early."""


class Deadlines(Generic[T]):
    """Calls ``fire(item)`` once an item's time has come. For one event loop; not for other threads.

    Precision: 10 ms for up to 1.27 s, beyond that at most 1/64 of the distance; never early.

    Args:
        clock: Whose monotonic time and sleep are used.
        fire: Called on the loop with an item that is due and already taken out. It must not raise.
    """

    __slots__ = ("_buckets", "_clock", "_earlier", "_fire", "_sleeper", "_ticks", "_wake")

    def __init__(self, clock: Clock, fire: Callable[[T], None]) -> None:
        self._clock = clock
        self._fire = fire
        self._ticks: list[int] = []
        self._buckets: dict[int, dict[T, None] | None] = {}
        # An emptied bucket's tick stays in the heap, so that it is never there twice; its dict does not stay.
        self._wake: int | None = None
        self._sleeper: asyncio.Task[None] | None = None
        self._earlier = asyncio.Event()

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values() if bucket)

    @property
    def remembered(self) -> int:
        """Buckets it keeps, empty ones included: bounded by how far ahead deadlines lie, not by how many were set."""
        return len(self._buckets)

    def next_in(self) -> float:
        """Seconds until something may fire; infinite where nothing is set."""
        return self._ticks[0] / _PER_SECOND - self._clock.monotonic() if self._ticks else inf

    def add(self, item: T, seconds: float) -> int:
        """Let ``item`` fire ``seconds`` from now; returns what :meth:`remove` needs. Items are told apart by ``==``."""
        now = self._clock.monotonic()
        tick = max(ceil((now + seconds) * _PER_SECOND), int(now * _PER_SECOND) + 1)
        if (coarse := (tick - int(now * _PER_SECOND)).bit_length() - _KEPT_BITS) > 0:
            tick = -(-tick >> coarse) << coarse
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket[item] = None
            return tick
        if tick not in self._buckets:
            heappush(self._ticks, tick)
        self._buckets[tick] = {item: None}
        if self._wake is None or tick < self._wake:
            self._wake = tick
            self._earlier.set()
            if self._sleeper is not None:
                self._sleeper.cancel()
        return tick

    def remove(self, item: T, tick: int) -> None:
        """Take ``item`` out; does nothing if it has fired."""
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.pop(item, None)
            if not bucket:
                self._buckets[tick] = None

    async def run(self) -> None:
        """Fire what is due, for ever; to be run as a task and cancelled at the end."""
        while True:
            self._fire_due()
            if not self._ticks:
                self._wake = None
                self._earlier.clear()
                await self._earlier.wait()
                continue
            self._wake = self._ticks[0]
            sleep = self._clock.sleep(max(self.next_in(), 0.0))
            self._sleeper = asyncio.create_task(sleep, name="deadlines: sleep")
            try:
                await asyncio.wait((self._sleeper,))
            finally:
                self._sleeper.cancel()
                self._sleeper = None

    def _fire_due(self) -> None:
        while self._ticks and self._ticks[0] <= self._clock.monotonic() * _PER_SECOND:
            tick = self._ticks[0]
            # One by one, out of the bucket in its place: what fires may take its neighbours out.
            while bucket := self._buckets[tick]:
                item, _ = bucket.popitem()
                self._fire(item)
            del self._buckets[heappop(self._ticks)]
