"""A clock that a test moves."""

from __future__ import annotations

import asyncio


class ManualClock:
    """Wall time and monotonic time advance together, and only by :meth:`advance`."""

    def __init__(self, now: float = 1_795_000_000.0) -> None:
        self.wall = now
        self.elapsed = 0.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []
        self._sleeping = asyncio.Event()

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.elapsed

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        self._sleepers.append((self.elapsed + seconds, event))
        self._sleeping.set()
        await event.wait()

    def advance(self, seconds: float) -> None:
        """Move both times on and wake whoever slept until then."""
        self.wall += seconds
        self.elapsed += seconds
        due = [event for when, event in self._sleepers if when <= self.elapsed]
        self._sleepers = [entry for entry in self._sleepers if entry[0] > self.elapsed]
        for event in due:
            event.set()

    async def somebody_sleeps(self) -> None:
        """Return once a coroutine waits in :meth:`sleep`."""
        self._sleeping.clear()
        if not self._sleepers:
            await self._sleeping.wait()

    @property
    def sleeping(self) -> int:
        """How many coroutines wait in :meth:`sleep`."""
        return len(self._sleepers)
