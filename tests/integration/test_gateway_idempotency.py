"""The same Idempotency-Key and body get the same answer, paid once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.support.gateway import InProcessGateway, calls, gateway
from tests.support.upstream import ScriptedUpstream

KEY = {"idempotency-key": "order-17"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_repeated_call_is_answered_alike_and_paid_once(
    gw: InProcessGateway, up: ScriptedUpstream, stream: bool
) -> None:
    up.answer("The first answer", usage=(5, 3), times=1)
    up.answer("Another answer", usage=(5, 2))
    first = await gw.chat(stream=stream, headers=KEY)
    again = await gw.chat(stream=stream, headers=KEY)
    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["x-sparkle-idempotent-replay"] == "true"
    assert "x-sparkle-idempotent-replay" not in first.headers
    assert len(calls(up)) == 1
    assert (await gw.tokens_used()) == (8, 0)


async def test_another_body_under_the_same_key_is_a_422(gw: InProcessGateway, up: ScriptedUpstream) -> None:
    await gw.chat("One", headers=KEY)
    answer = await gw.chat("Two", headers=KEY)
    assert (answer.status, answer.error["code"]) == (422, "idempotency_conflict")
    assert answer.error["param"] == "Idempotency-Key"
    assert len(calls(up)) == 1


async def test_while_the_first_call_runs_the_second_is_a_409(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    gate = asyncio.Event()
    up.answer("done", gate=gate)
    first = asyncio.ensure_future(gw.chat(headers=KEY))
    await up.wait_for_requests(2)  # the model list and the call
    second = await gw.chat(headers=KEY)
    assert (second.status, second.error["code"]) == (409, "idempotency_in_flight")
    assert second.headers["retry-after"] == "1"
    gate.set()
    assert (await first).text == "done"
    assert (await gw.chat(headers=KEY)).text == "done"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_call_frees_its_key(gw: InProcessGateway, up: ScriptedUpstream, stream: bool) -> None:
    up.fail(500)
    up.answer("ok")
    assert (await gw.chat(stream=stream, headers=KEY)).status == 502
    assert (await gw.chat(stream=stream, headers=KEY)).status == 200
    assert len(calls(up)) == 2


async def test_a_stream_that_broke_off_is_not_replayed(gw: InProcessGateway, up: ScriptedUpstream) -> None:
    up.stream(["Half"], finish=None, done=False, times=1)
    up.answer("All of it")
    assert "error" in (await gw.chat(stream=True, headers=KEY)).chunks[-1]
    assert (await gw.chat(stream=True, headers=KEY)).events[-1] == b"[DONE]"


async def test_a_client_that_hangs_up_frees_its_key(gw: InProcessGateway, up: ScriptedUpstream) -> None:
    up.stream(["One ", "two ", asyncio.Event(), "three"], times=1)
    up.answer("All of it")
    body = {"model": "gpt-test", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with gw.session.post(gw.url + "/v1/chat/completions", json=body, headers=KEY) as response:
        await response.content.readline()
        response.close()
    await calls(up)[0].closed.wait()
    while (await gw.post("/v1/chat/completions", body, headers=KEY)).status == 409:
        continue  # the hang-up travels through another connection than this request
    assert len(calls(up)) == 2


async def test_users_do_not_see_each_others_answers(gw: InProcessGateway, up: ScriptedUpstream) -> None:
    assert (await gw.chat("Hi", user="ann", headers=KEY)).status == 200
    assert (await gw.chat("Hi", user="bob", headers=KEY)).status == 200
    assert len(calls(up)) == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "ключ"])
async def test_a_key_that_is_none_is_a_400(gw: InProcessGateway, key: str) -> None:
    answer = await gw.chat(headers={"idempotency-key": key})
    assert (answer.status, answer.error["param"]) == (400, "Idempotency-Key")


async def test_it_can_be_switched_off(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with gateway(tmp_path, upstream=up.url, server={"idempotency_seconds": 0}) as gw:
        assert [(await gw.chat(headers=KEY)).status for _ in range(2)] == [200, 200]
    assert len(calls(up)) == 2
