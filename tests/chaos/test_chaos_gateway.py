"""Kill real processes under load: limits hold, nothing hangs, nobody is left behind.

``SPARKLE_CHAOS_ROUNDS`` makes it longer; the default is quick enough for every test run.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.support.gateway import Client, read_audit
from tests.support.quota_view import QuotaView, quota_view
from tests.support.serve import ServerProcess, descendants, is_alive, serving, wait_for_end
from tests.support.upstream import ScriptedUpstream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ROUNDS = int(os.environ.get("SPARKLE_CHAOS_ROUNDS", "3"))
LIMIT = 400_000
ENVIRON = {
    "SPARKLE_QUOTA__TOKENS_PER_DAY": str(LIMIT),
    "SPARKLE_QUOTA__LEASE_SECONDS": "1",
    "SPARKLE_SERVER__DRAIN_SECONDS": "3",
}


class Load:
    """Clients that call without pause and count what they get; a connection that breaks is opened again."""

    def __init__(self, count: int) -> None:
        self.url = ""
        self.outcomes: Counter[str] = Counter()
        self.spent = 0
        self.answered = asyncio.Event()
        self._count = count
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._over.clear()
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self._count)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks)

    async def some_more_answers(self, count: int) -> None:
        """Return once this many more calls were answered."""
        wanted = self.outcomes["200"] + count
        while self.outcomes["200"] < wanted:
            self.answered.clear()
            await self.answered.wait()

    async def _client(self, number: int) -> None:
        rng = random.Random(number)
        async with Client("") as client:
            while not self._over.is_set():
                client.url = self.url
                try:
                    stream = rng.random() < 0.5
                    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
                    answer = await client.chat("Go on.", user="kim", max_tokens=20, stream=stream, **options)
                except (aiohttp.ClientError, OSError, TimeoutError) as exc:
                    self.outcomes[type(exc).__name__] += 1
                    await asyncio.sleep(0)
                    continue
                self.outcomes[str(answer.status)] += 1
                if answer.status == 200:
                    usage = answer.chunks[-1].get("usage") if stream else answer.json["usage"]
                    self.spent += usage["total_tokens"] if usage else 0
                    self.answered.set()


async def watch(view: QuotaView, over: asyncio.Event) -> None:
    while not over.is_set():
        used, reserved = await view.tokens("kim")
        assert used + reserved <= LIMIT


async def nothing_is_reserved(view: QuotaView) -> int:
    """Return the tokens spent, once every reservation has been settled or returned."""
    while (state := await view.tokens("kim"))[1]:
        continue
    return state[0]


async def test_workers_killed_under_load_cost_only_their_own_calls(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    rng = random.Random(7)
    with serving(tmp_path, upstream=up.url, workers=2, environ=ENVIRON) as server:
        async with quota_view(server.data_dir, ENVIRON) as view:
            over = asyncio.Event()
            watching = asyncio.create_task(watch(view, over))
            load = Load(24)
            load.url = server.url
            async with load:
                for _ in range(ROUNDS):
                    await load.some_more_answers(50)
                    victim = rng.choice(server.workers())
                    os.kill(victim, signal.SIGKILL)
                    wait_for_end([victim])
                await load.some_more_answers(50)
            used = await nothing_is_reserved(view)
            over.set()
            await watching
        assert set(load.outcomes) <= {
            "200",
            "ServerDisconnectedError",
            "ClientOSError",
            "ClientPayloadError",
            "ClientConnectionResetError",
        }
        # What was answered is charged; what a killed worker had begun may be charged up to what it had reserved.
        assert load.spent <= used <= LIMIT
        assert server.stop() == 0
    check_audit(server)


async def test_a_killed_supervisor_leaves_nobody_behind_and_its_successor_goes_on(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    load = Load(12)
    used = 0
    for _ in range(max(1, ROUNDS - 1)):
        with serving(tmp_path, upstream=up.url, workers=2, environ=ENVIRON) as server:
            load.url = server.url
            async with load:
                await load.some_more_answers(50)
                family = descendants(server.pid)
                assert len(family) == 2
                server.signal(signal.SIGKILL)
                # The workers end by themselves, after the calls they had begun.
                await asyncio.to_thread(wait_for_end, [server.pid, *family])
        assert not any(is_alive(pid) for pid in family)
        async with quota_view(server.data_dir, ENVIRON) as view:
            before, used = used, await nothing_is_reserved(view)
            assert before < used <= LIMIT
        assert load.spent <= used
        check_audit(server)


async def test_a_killed_local_model_is_replaced_and_dies_with_its_server(tmp_path: Path) -> None:
    with serving(tmp_path, environ={"SPARKLE_PROVIDER__LOCAL_THREADS": "1"}) as server:
        async with Client(server.url) as client:
            assert (await client.chat("Hi", max_tokens=1)).status == 200
            model = next(pid for pid in server.workers() if "local_server" in command_line(pid))
            os.kill(model, signal.SIGKILL)
            wait_for_end([model])
            while (answer := await client.chat("Hi", max_tokens=1)).status != 200:
                assert answer.status in (502, 503)
            successor = next(pid for pid in server.workers() if "local_server" in command_line(pid))
            assert successor != model
            family = descendants(server.pid)
            server.signal(signal.SIGKILL)
            await asyncio.to_thread(wait_for_end, [server.pid, *family])


async def test_a_server_killed_at_its_start_leaves_nobody_behind(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    with serving(tmp_path, upstream=up.url, workers=4, environ=ENVIRON) as server:
        family = descendants(server.pid)
        server.signal(signal.SIGKILL)
        await asyncio.to_thread(wait_for_end, [server.pid, *family])


def check_audit(server: ServerProcess) -> None:
    """Every line is whole, although writers were killed, and no call was recorded twice."""
    ids = [record["request_id"] for record in read_audit(server.data_dir)]
    assert len(ids) == len(set(ids))
    assert ids


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return ""
