"""Builds routers for tests: an injected clock whose sleeps pass at once and are noted, a seeded random source."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sparkle.llm.providers import ProviderRouter, Upstream, UpstreamEvent
from sparkle.settings import ProviderSettings

KEY = "sk-upstream-8f3a9c1d7e5b2046"
"""The upstream key of the tests; it must turn up nowhere."""


class SkippingClock:
    """Sleeping takes no time for the test and moves the clock; :meth:`advance` moves it too."""

    def __init__(self) -> None:
        self.elapsed = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return 1_795_000_000.0 + self.elapsed

    def monotonic(self) -> float:
        return self.elapsed

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.elapsed += seconds

    def advance(self, seconds: float) -> None:
        self.elapsed += seconds


@dataclass(slots=True)
class Harness:
    """A started router and what it was observed to do."""

    router: ProviderRouter
    clock: SkippingClock
    events: list[UpstreamEvent] = field(default_factory=list[UpstreamEvent])

    @property
    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.events]

    async def ask(self, model: str = "m", **more: Any) -> Any:
        return await self.router.chat(request(model, **more))


def request(model: str = "m", **more: Any) -> dict[str, Any]:
    """A small chat request."""
    return {"model": model, "messages": [{"role": "user", "content": "hello there"}], **more}


@asynccontextmanager
async def started(
    *upstreams: Upstream | str, seed: int = 7, clock: SkippingClock | None = None, **settings: Any
) -> AsyncGenerator[Harness]:
    """A router over these upstreams; a URL stands for one named ``up0``, ``up1`` ... with :data:`KEY`."""
    clock = clock or SkippingClock()
    events: list[UpstreamEvent] = []
    built: Sequence[Upstream] = [
        Upstream(f"up{i}", one, api_key=KEY) if isinstance(one, str) else one
        for i, one in enumerate(upstreams)
    ]
    router = ProviderRouter(
        ProviderSettings(**settings), built, clock=clock, rng=random.Random(seed), observe=events.append
    )
    await router.start()
    try:
        yield Harness(router, clock, events)
    finally:
        await router.close()
