"""Looks at a running server's quota store from outside, as one more process that shares it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sparkle.clock import SystemClock
from sparkle.llm.quota import LLMCostGuard, PriceTable, open_store
from sparkle.llm.usage import Principal
from sparkle.settings import load_settings


class QuotaView:
    """Tokens of the day per user, as the store has them at this moment."""

    def __init__(self, guard: LLMCostGuard) -> None:
        self._guard = guard

    async def tokens(self, user: str) -> tuple[int, int]:
        """Spent and reserved."""
        states = await self._guard.snapshot(Principal(user))
        today = next(state for state in states if state.kind == "tokens_per_day")
        return today.used, today.reserved


@asynccontextmanager
async def quota_view(data_dir: Path, environ: dict[str, str]) -> AsyncGenerator[QuotaView]:
    """Join the store of a server that runs with these ``SPARKLE_*`` variables on this data folder."""
    overrides: dict[str, Any] = {"data_dir": data_dir}
    settings = load_settings(environ=environ, overrides=overrides)
    clock = SystemClock()
    guard = LLMCostGuard(
        settings.quota, open_store(settings.quota, data_dir, clock=clock), PriceTable.load(), clock=clock
    )
    await guard.start()
    try:
        yield QuotaView(guard)
    finally:
        await guard.close()
