"""Waiting for something, but not for ever, by an injected clock."""

from __future__ import annotations

import asyncio

from sparkle.clock import Clock


async def happens_within(event: asyncio.Event, seconds: float, clock: Clock) -> bool:
    """Wait until ``event`` is set or so many seconds have passed; returns whether it is set."""
    if event.is_set() or seconds <= 0:
        return event.is_set()
    waits = (
        asyncio.create_task(event.wait(), name="wait for an event"),
        asyncio.create_task(clock.sleep(seconds), name="wait for a time"),
    )
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return event.is_set()
