"""The pooled HTTP/1.1 client against a real server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.support.upstream import ScriptedUpstream

from sparkle.llm.providers.address import parse_address
from sparkle.llm.providers.http1 import HIGH_WATER
from sparkle.llm.providers.http1_exchange import Http1Exchange
from sparkle.llm.providers.http1_pool import WAITING_PER_CONNECTION, Http1Transport
from sparkle.llm.providers.transport import Timeouts, TransportError

LIMIT = 1_000_000
PATIENT = Timeouts(connect=5.0, first_byte=30.0, idle=30.0)
HASTY = Timeouts(connect=5.0, first_byte=0.05, idle=0.05)


@asynccontextmanager
async def client(
    up: ScriptedUpstream, *, timeouts: Timeouts = PATIENT, limit: int = 4, keepalive: float = 60.0
) -> AsyncGenerator[Http1Transport]:
    transport = Http1Transport(
        parse_address(up.url, "up"),
        authorization="Bearer key",
        timeouts=timeouts,
        limit=limit,
        keepalive=keepalive,
    )
    await transport.start()
    try:
        yield transport
    finally:
        await transport.close()


async def post(transport: Http1Transport, body: bytes = b"{}", timeout: float = 30.0) -> Http1Exchange:
    return await transport.send("POST", "/chat/completions", b"", body, timeout)


async def failed(awaitable: Any) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await awaitable
    return caught.value


async def test_one_connection_serves_calls_that_follow_each_other() -> None:
    async with ScriptedUpstream() as up, client(up) as transport:
        for _ in range(5):
            exchange = await post(transport)
            assert b"gateway" in await exchange.read(LIMIT)
            assert exchange.status == 200
        assert up.connections == 1
        assert transport.connections == 1


async def test_a_request_arrives_with_its_headers_and_its_whole_body() -> None:
    async with ScriptedUpstream() as up, client(up) as transport:
        for body in (b'{"a":"' + b"x" * 10 + b'"}', b'{"a":"' + b"x" * 300_000 + b'"}'):
            exchange = await transport.send("POST", "/chat/completions", b"traceparent: 00-1\r\n", body, 30.0)
            await exchange.read(LIMIT)
            request = up.requests[-1]
            assert request.body == body
            assert request.path == "/v1/chat/completions"
            assert request.headers["authorization"] == "Bearer key"
            assert request.headers["traceparent"] == "00-1"
            assert request.headers["content-type"] == "application/json"
            assert request.headers["accept-encoding"] == "identity"
            assert request.headers["host"] == f"127.0.0.1:{up.port}"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"Content-Length: 2\r\n\r\nok", b"ok"),
        (b"Content-Length: 0\r\n\r\n", b""),
        (b"\r\nuntil the end", b"until the end"),
    ],
)
async def test_a_body_is_read_to_its_end_however_it_is_framed(answer: bytes, body: bytes) -> None:
    async with ScriptedUpstream() as up, client(up) as transport:
        up.raw(b"HTTP/1.1 200 OK\r\n" + answer)
        assert await (await post(transport)).read(LIMIT) == body


async def test_interim_answers_are_skipped() -> None:
    async with ScriptedUpstream() as up, client(up) as transport:
        up.raw(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: 1\r\n\r\n"
            b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nY: 2\r\n\r\nok"
        )
        exchange = await post(transport)
        assert await exchange.read(LIMIT) == b"ok"
        assert exchange.status == 201
        assert [name for name, _ in exchange.headers] == [b"Content-Length", b"Y"]


async def test_a_streams_chunks_come_as_they_arrive() -> None:
    gate = asyncio.Event()
    async with ScriptedUpstream() as up, client(up) as transport:
        up.stream([b"first", gate, b"second"])
        exchange = await post(transport, b'{"stream":true}')
        assert await exchange.head() == 200
        assert await exchange.chunk() == b"first"
        gate.set()
        assert await exchange.chunk() == b"second"
        assert await exchange.chunk() == b""
        assert await exchange.chunk() == b""


async def test_a_slow_reader_holds_the_upstream_back_instead_of_filling_memory() -> None:
    size = 8 * 1024 * 1024
    sent = asyncio.Event()
    async with ScriptedUpstream() as up, client(up) as transport:
        up.stream([b"x" * size, sent])
        sent.set()
        exchange = await post(transport, b'{"stream":true}')
        await exchange.head()
        received = len(await exchange.chunk())
        while received < size:
            assert exchange.unread <= HIGH_WATER + 512 * 1024
            received += len(await exchange.chunk())
        assert await exchange.chunk() == b""
        assert received == size


async def test_an_answer_above_the_bound_is_refused_and_its_connection_cut() -> None:
    async with ScriptedUpstream() as up, client(up) as transport:
        up.stream([b"x" * 50_000, asyncio.Event()])
        exchange = await post(transport, b'{"stream":true}')
        assert (await failed(exchange.read(10_000))).kind == "too_large"
        await up.requests[0].closed.wait()


async def test_a_reset_before_the_answer_is_told_apart_from_one_within_it() -> None:
    async with ScriptedUpstream() as up, client(up) as transport:
        up.reset()
        first = await failed((await post(transport)).read(LIMIT))
        assert (first.kind, first.reused) == ("reset", False)
        up.answer(times=1)
        await (await post(transport)).read(LIMIT)
        up.reset()
        second = await failed((await post(transport)).read(LIMIT))
        assert (second.kind, second.reused) == ("reset", True)
        up.reset(after=b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        assert (await failed((await post(transport)).read(LIMIT))).kind == "broken"
        up.reset(after=b"HTTP/1.1 200 O")
        assert (await failed((await post(transport)).read(LIMIT))).kind == "broken"


async def test_a_chunked_body_that_just_ends_is_broken_not_complete() -> None:
    async with ScriptedUpstream() as up, client(up) as transport:
        up.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        assert (await failed((await post(transport)).read(LIMIT))).kind == "broken"


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nabcdefg",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_not_the_http_we_asked_for_is_a_protocol_failure(answer: bytes) -> None:
    async with ScriptedUpstream() as up, client(up) as transport:
        up.raw(answer)
        assert (await failed((await post(transport)).read(LIMIT))).kind in ("protocol", "broken")


async def test_a_connection_that_says_more_than_it_was_asked_is_not_used_again() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with ScriptedUpstream() as up, client(up) as transport:
        up.stream([], times=0)
        up.raw(answer + answer.replace(b"ok", b"no"), times=2)
        assert await (await post(transport)).read(LIMIT) == b"ok"
        assert await (await post(transport)).read(LIMIT) == b"ok"
        assert up.connections == 2


async def test_silence_is_a_timeout_and_cuts_the_connection() -> None:
    async with ScriptedUpstream() as up, client(up, timeouts=HASTY) as transport:
        up.hang()
        assert (await failed((await post(transport)).read(LIMIT))).kind == "timeout"
        await up.requests[0].closed.wait()
        up.stream([b"a", asyncio.Event()])
        exchange = await post(transport, b'{"stream":true}')
        assert await exchange.chunk() == b"a"
        assert (await failed(exchange.chunk())).kind == "timeout"
        await up.requests[1].closed.wait()


async def test_the_deadline_of_the_call_is_told_apart_from_the_upstreams_silence() -> None:
    async with ScriptedUpstream() as up, client(up) as transport:
        up.hang()
        assert (await failed((await post(transport, timeout=0.05)).read(LIMIT))).kind == "deadline"


async def test_a_cancelled_caller_cuts_the_connection_at_once() -> None:
    async with ScriptedUpstream() as up, client(up) as transport:
        up.hang()
        task = asyncio.create_task((await post(transport)).read(LIMIT))
        await up.wait_for_requests(1)
        task.cancel()
        await up.requests[0].closed.wait()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_a_closed_exchange_stops_the_upstream_and_frees_its_place() -> None:
    async with ScriptedUpstream() as up, client(up, limit=1) as transport:
        up.stream([b"a", asyncio.Event()], times=1)
        exchange = await post(transport, b'{"stream":true}')
        assert await exchange.chunk() == b"a"
        waiting = asyncio.create_task(post(transport))
        exchange.close()
        await up.requests[0].closed.wait()
        assert await (await waiting).read(LIMIT)
        assert up.connections == 2


async def test_a_detached_exchange_gives_its_connection_back_when_it_ends() -> None:
    gate = asyncio.Event()
    async with ScriptedUpstream() as up, client(up, limit=1) as transport:
        up.stream([b"a", gate, b"rest"], times=1)
        exchange = await post(transport, b'{"stream":true}')
        assert await exchange.chunk() == b"a"
        exchange.detach()
        waiting = asyncio.create_task(post(transport))
        gate.set()
        assert await (await waiting).read(LIMIT)
        assert up.connections == 1


async def test_callers_beyond_the_pool_wait_in_line_and_all_are_served() -> None:
    async with ScriptedUpstream() as up, client(up, limit=2) as transport:

        async def call() -> bytes:
            return await (await post(transport)).read(LIMIT)

        answers = await asyncio.gather(*(call() for _ in range(2 * WAITING_PER_CONNECTION)))
        assert all(answers)
        assert up.connections <= 2


async def test_the_line_for_a_connection_is_bounded() -> None:
    async with ScriptedUpstream() as up, client(up, limit=1) as transport:
        up.hang()
        held = await post(transport)
        line = [asyncio.create_task(post(transport)) for _ in range(WAITING_PER_CONNECTION)]
        await up.wait_for_requests(1)
        assert (await failed(post(transport))).kind == "busy"
        for task in line[1:]:
            task.cancel()
        held.close()
        assert await (await line[0]).read(LIMIT)
        await asyncio.wait(line)


async def test_callers_that_left_the_line_take_no_place_in_it() -> None:
    async with ScriptedUpstream() as up, client(up, limit=1) as transport:
        up.hang()
        held = await post(transport)
        line = [asyncio.create_task(post(transport)) for _ in range(WAITING_PER_CONNECTION)]
        await up.wait_for_requests(1)
        for task in line:
            task.cancel()
        await asyncio.wait(line)
        staying = asyncio.create_task(post(transport))
        await asyncio.sleep(0)
        held.close()
        assert await (await staying).read(LIMIT)


async def test_waiting_in_line_ends_with_the_calls_time() -> None:
    async with ScriptedUpstream() as up, client(up, limit=1) as transport:
        up.hang()
        held = await post(transport)
        assert (await failed(post(transport, timeout=0.02))).kind == "busy"
        held.close()


async def test_a_caller_that_leaves_when_its_turn_comes_passes_the_connection_on() -> None:
    async with ScriptedUpstream() as up, client(up, limit=1) as transport:
        held = await post(transport)
        leaving, staying = asyncio.create_task(post(transport)), asyncio.create_task(post(transport))
        await held.read(LIMIT)
        leaving.cancel()  # the freed connection is already on its way to it
        assert await (await staying).read(LIMIT)
        await asyncio.wait([leaving])
        assert up.connections == 1


async def test_a_caller_that_leaves_when_it_may_open_a_connection_passes_the_place_on() -> None:
    async with ScriptedUpstream() as up, client(up, limit=1) as transport:
        up.hang()
        held = await post(transport)
        leaving, staying = asyncio.create_task(post(transport)), asyncio.create_task(post(transport))
        await up.wait_for_requests(1)
        held.close()
        while transport.connections:  # noqa: ASYNC110  its end comes through the loop
            await asyncio.sleep(0)
        leaving.cancel()
        assert await (await staying).read(LIMIT)
        await asyncio.wait([leaving])


async def test_idle_connections_are_closed_after_a_while() -> None:
    async with ScriptedUpstream() as up, client(up, keepalive=0.03) as transport:
        gate = asyncio.Event()
        up.answer(gate=gate)
        held = [await post(transport) for _ in range(3)]
        gate.set()
        for exchange in held:
            await exchange.read(LIMIT)
        assert transport.connections == 3
        while transport.connections:  # noqa: ASYNC110  what is waited for is a timer of the pool's own
            await asyncio.sleep(0.005)


async def test_nobody_listening_is_a_connect_failure_that_names_no_address() -> None:
    async with ScriptedUpstream() as up:
        pass
    async with client(up) as transport:
        error = await failed(post(transport))
        assert error.kind == "connect"
        assert "127.0.0.1" not in str(error)
        assert transport.connections == 0


async def test_a_failed_connect_gives_its_place_to_the_next_in_line() -> None:
    async with ScriptedUpstream() as up:
        pass
    async with client(up, limit=1) as transport:
        errors = await asyncio.gather(*(failed(post(transport)) for _ in range(4)))
        assert [error.kind for error in errors] == ["connect"] * 4


async def test_closing_ends_running_exchanges_and_refuses_new_ones() -> None:
    async with ScriptedUpstream() as up, client(up) as transport:
        up.hang()
        exchange = await post(transport)
        running = asyncio.create_task(failed(exchange.read(LIMIT)))
        await up.wait_for_requests(1)
        await transport.close()
        assert (await running).kind == "reset"
        assert transport.connections == 0
        assert (await failed(post(transport))).kind == "connect"


async def test_a_server_that_closes_idle_connections_costs_a_new_one_and_no_error() -> None:
    async with ScriptedUpstream() as up, client(up) as transport:
        await (await post(transport)).read(LIMIT)
        await up.close()
        await up.start()
        while transport.connections:  # noqa: ASYNC110  the end of the idle connection comes through the loop
            await asyncio.sleep(0)
        assert await (await post(transport)).read(LIMIT)
