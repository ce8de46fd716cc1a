"""Whatever breaks a call off, its reservation ends: nothing stays held, and an answer that came is paid for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.upstream import ScriptedUpstream

from sparkle import compose
from sparkle.llm import security_wrapper
from sparkle.llm.usage import Principal
from sparkle.settings import load_settings

HELLO = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def services(tmp_path: Path, url: str) -> AsyncGenerator[compose.Services]:
    settings = load_settings(environ={}, overrides={"data_dir": str(tmp_path), "provider.upstream": url})
    built = compose.build_services(settings, compose.preload(settings))
    await built.start()
    try:
        yield built
    finally:
        await built.close()


async def held_and_used(built: compose.Services) -> tuple[int, int]:
    [tokens] = [s for s in await built.quota.snapshot(Principal(user="u")) if s.kind == "tokens_per_day"]
    return tokens.reserved, tokens.used


async def test_a_call_cancelled_while_the_upstream_thinks_holds_nothing(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, services(tmp_path, up.url) as built:
        up.hang()
        call = asyncio.ensure_future(built.wrapper.chat("u", HELLO, model="gpt-test"))
        await up.wait_for_requests(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await held_and_used(built) == (0, 0)


async def test_a_call_cancelled_while_its_long_answer_is_checked_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checking, go_on = threading.Event(), threading.Event()
    real = security_wrapper.guard_answer

    def slow(*args: Any) -> Any:
        checking.set()
        go_on.wait(10)
        return real(*args)

    monkeypatch.setattr(security_wrapper, "guard_answer", slow)
    async with ScriptedUpstream() as up, services(tmp_path, up.url) as built:
        up.answer(text="interminable " * 10_000, usage=(7, 5_000))  # judged in a thread
        call = asyncio.ensure_future(built.wrapper.chat("u", HELLO, model="gpt-test"))
        await asyncio.to_thread(checking.wait, 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        go_on.set()
        assert await held_and_used(built) == (0, 5_007)
