"""Limits over several gateway processes: never one token too much, nothing lost when a process is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.gateway import Client, calls
from tests.support.quota_view import QuotaView, quota_view
from tests.support.serve import serving, wait_for_end
from tests.support.upstream import ScriptedUpstream
from tests.support.valkey import running_valkey

LIMIT = 12_000
ANSWER = 30
CLIENTS = 200


async def spend_until_refused(client: Client) -> int:
    """Call until the quota is used up; returns the tokens spent as the answers tell them."""
    spent = 0
    while True:
        answer = await client.chat("Count for me.", user="kim", max_tokens=ANSWER)
        if answer.status == 200:
            spent += answer.json["usage"]["total_tokens"]
        elif answer.error["code"] == "insufficient_quota":
            return spent
        else:
            # The rest is held by calls in flight: it may come back.
            assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded"), answer.body


async def watch(view: QuotaView, over: asyncio.Event) -> int:
    """Look at the store all the time; returns how often."""
    looks = 0
    while not over.is_set():
        used, reserved = await view.tokens("kim")
        assert used + reserved <= LIMIT
        looks += 1
    return looks


@pytest.mark.parametrize("store", ["sqlite", "valkey"])
async def test_200_clients_over_two_processes_never_exceed_a_limit_by_one_token(
    tmp_path: Path, up: ScriptedUpstream, store: str
) -> None:
    # The upstream and 200 clients share this process: on a busy machine it may be slow to accept.
    environ = {"SPARKLE_QUOTA__TOKENS_PER_DAY": str(LIMIT), "SPARKLE_PROVIDER__CONNECT_TIMEOUT": "60"}
    with ExitStack() as stack:
        if store == "sqlite":
            servers = [stack.enter_context(serving(tmp_path, upstream=up.url, workers=2, environ=environ))]
        else:
            environ["SPARKLE_QUOTA__STORE_URL"] = stack.enter_context(running_valkey()).url
            folders = [tmp_path / name for name in ("one", "two")]
            for folder in folders:
                folder.mkdir()
            servers = [
                stack.enter_context(serving(folder, upstream=up.url, environ=environ)) for folder in folders
            ]
        clients = [Client(servers[i % len(servers)].url) for i in range(CLIENTS)]
        async with quota_view(servers[0].data_dir, environ) as view:
            over = asyncio.Event()
            watching = asyncio.ensure_future(watch(view, over))
            spent = sum(await asyncio.gather(*map(spend_until_refused, clients)))
            over.set()
            assert await watching > 0
            for client in clients:
                await client.close()
            while (await view.tokens("kim"))[1]:  # the last settlements reach the store in a moment
                continue
            assert await view.tokens("kim") == (spent, 0)
        assert (
            LIMIT - 2 * ANSWER < spent <= LIMIT
        )  # and what was left would not have been enough for one more call


async def test_a_killed_workers_reservation_comes_back(tmp_path: Path, up: ScriptedUpstream) -> None:
    up.hang(times=1)
    up.answer("ok", usage=(5, 1))
    environ = {"SPARKLE_QUOTA__TOKENS_PER_DAY": "1000", "SPARKLE_QUOTA__LEASE_SECONDS": "0.5"}
    with serving(tmp_path, upstream=up.url, environ=environ) as server:
        client = Client(server.url)
        doomed = asyncio.ensure_future(client.chat(user="kim", max_tokens=900))
        await up.wait_for_requests(2)  # the model list and the call
        refused = await client.chat(user="kim", max_tokens=900)
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        wait_for_end([worker])
        assert isinstance((await asyncio.gather(doomed, return_exceptions=True))[0], Exception)
        while (answer := await client.chat(user="kim", max_tokens=900)).status != 200:
            assert answer.error["code"] == "rate_limit_exceeded"
        await client.close()
    assert len(calls(up)) == 2
