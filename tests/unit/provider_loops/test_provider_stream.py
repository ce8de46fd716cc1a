"""Streams: what is handed on, how they end, and that nothing goes on when nobody listens."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.support.providers import KEY, request, started
from tests.support.upstream import ScriptedUpstream, Step

from sparkle.errors import (
    ProviderError,
    ProviderRateLimitError,
    ProviderRejectedError,
    ProviderTimeoutError,
)
from sparkle.llm.providers import ProviderStream

DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'


async def texts(stream: ProviderStream) -> str:
    found = ""
    async for payload in stream:
        for choice in json.loads(payload)["choices"]:
            found += choice["delta"].get("content", "")
    return found


async def test_a_stream_yields_each_events_payload_and_ends_at_done() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.stream(["Hel", "lo"])
        stream = await h.router.stream(request("m", stream_options={"include_usage": True}))
        assert (stream.upstream, stream.model, stream.attempts) == ("up0", "m", 1)
        payloads = [json.loads(payload) async for payload in stream]
        assert [p["choices"][0]["delta"].get("content") for p in payloads[:-1]] == ["Hel", "lo", None]
        assert payloads[-1]["usage"]["completion_tokens"] == 2
        assert h.outcomes == ["ok"]


async def test_chunks_are_handed_on_one_by_one_not_at_the_end() -> None:
    gate = asyncio.Event()
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.stream(["first", gate, "second"])
        stream = await h.router.stream(request())
        assert b"first" in await anext(stream)
        gate.set()
        assert await texts(stream) == "second"


async def test_the_connection_serves_the_next_stream() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        for _ in range(4):
            await texts(await h.router.stream(request()))
        assert up.connections == 1


async def test_closing_a_stream_stops_the_upstream_at_once() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.stream(["a", asyncio.Event()])
        async with await h.router.stream(request()) as stream:
            await anext(stream)
        await up.requests[0].closed.wait()
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert h.outcomes == ["ok"]


async def test_a_cancelled_reader_stops_the_upstream_at_once() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.stream(["a", asyncio.Event()])
        reader = asyncio.create_task(texts(await h.router.stream(request())))
        await up.wait_for_requests(1)
        await asyncio.sleep(0)
        reader.cancel()
        await up.requests[0].closed.wait()


async def test_a_caller_that_is_cancelled_before_the_answer_stops_the_upstream() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.hang()
        task = asyncio.create_task(h.router.stream(request()))
        await up.wait_for_requests(1)
        task.cancel()
        await up.requests[0].closed.wait()
        assert h.events == []


async def test_before_the_first_byte_a_stream_is_retried_and_falls_back() -> None:
    async with (
        ScriptedUpstream() as one,
        ScriptedUpstream() as two,
        started(one.url, two.url, max_retries=1) as h,
    ):
        one.fail(503, times=None)
        stream = await h.router.stream(request())
        assert (stream.upstream, stream.attempts) == ("up1", 3)
        assert await texts(stream)


@pytest.mark.parametrize(("status", "error"), [(400, ProviderRejectedError), (429, ProviderRateLimitError)])
async def test_an_error_instead_of_a_stream_is_raised_before_the_stream(
    status: int, error: type[Exception]
) -> None:
    async with ScriptedUpstream() as up, started(up.url, max_retries=0) as h:
        up.fail(status, message="no")
        with pytest.raises(error):
            await h.router.stream(request())


async def test_an_answer_that_is_no_stream_is_an_error() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.fail(200, body=b'{"choices": []}')
        with pytest.raises(ProviderError, match="not a stream"):
            await h.router.stream(request())
        up.fail(200, body=b'{"error": {"message": "no", "code": 400}}')
        with pytest.raises(ProviderRejectedError):
            await h.router.stream(request())


async def test_a_stream_without_done_is_whole_when_it_gave_a_finish_reason() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.stream([DELTA, FINISH], times=1)
        assert await texts(await h.router.stream(request())) == "hi"
        up.stream([DELTA, FINISH.rstrip()], times=1)  # the blank line at the end is missing, too
        assert await texts(await h.router.stream(request())) == "hi"
        assert h.outcomes == ["ok", "ok"]


async def test_a_stream_that_ends_too_early_is_an_error_after_what_had_come() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.stream([DELTA])
        stream = await h.router.stream(request())
        await anext(stream)
        with pytest.raises(ProviderError, match="broke off"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert h.outcomes == ["server_error"]


async def test_a_connection_lost_in_mid_stream_is_an_error_and_not_retried() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.reset(
            after=b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"%x\r\n%s\r\n" % (len(DELTA), DELTA)
        )
        stream = await h.router.stream(request())
        with pytest.raises(ProviderError, match="in the middle"):
            await texts(stream)
        assert len(up.requests) == 1


async def test_a_stream_that_falls_silent_is_a_timeout() -> None:
    async with ScriptedUpstream() as up, started(up.url, idle_timeout=0.05) as h:
        up.stream([DELTA, asyncio.Event()])
        stream = await h.router.stream(request())
        await anext(stream)
        with pytest.raises(ProviderTimeoutError):
            await anext(stream)
        await up.requests[0].closed.wait()
        assert h.outcomes == ["timeout"]


async def test_comments_keep_a_stream_alive_and_are_not_handed_on() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.stream([b": ping\n\n", DELTA, b":\n\n", FINISH, b"data: [DONE]\n\n"])
        assert await texts(await h.router.stream(request())) == "hi"


async def test_an_error_event_in_mid_stream_is_raised_without_the_key() -> None:
    error = {"error": {"message": f"key {KEY} exhausted", "code": 429}}
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.stream([DELTA, b"data: " + json.dumps(error).encode() + b"\n\n"])
        with pytest.raises(ProviderRateLimitError) as caught:
            await texts(await h.router.stream(request()))
        assert KEY not in str(caught.value)
        assert h.outcomes == ["rate_limit"]


async def test_an_endless_event_is_cut_off() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.stream([b"data: " + b"x" * 65536] + [b"x" * 65536] * 200 + [asyncio.Event()])
        with pytest.raises(ProviderError, match="too large"):
            await texts(await h.router.stream(request()))
        await up.requests[0].closed.wait()


async def test_streams_that_break_off_open_the_circuit() -> None:
    async with ScriptedUpstream() as up, started(up.url, breaker_failures=2) as h:
        up.stream([DELTA])
        for _ in range(2):
            with pytest.raises(ProviderError):
                await texts(await h.router.stream(request()))
        assert h.router.circuits() == {"up0": "open"}


async def test_many_streams_at_once_do_not_mix() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.respond(lambda asked: echo(asked.json["messages"][0]["content"]))

        async def one(n: int) -> None:
            body = {"model": "m", "messages": [{"role": "user", "content": f"word{n} " * 20}]}
            assert (await texts(await h.router.stream(body))).split() == [f"word{n}"] * 20

        await asyncio.gather(*(one(n) for n in range(40)))


def echo(text: str) -> Step:
    return Step(pieces=tuple(f"{word} " for word in text.split()))
