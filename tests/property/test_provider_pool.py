"""Whatever callers and upstream do to each other, the pool loses no connection, no place and no caller."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.upstream import RecordedRequest, ScriptedUpstream, Step

from sparkle.llm.providers.address import parse_address
from sparkle.llm.providers.http1_pool import Http1Transport
from sparkle.llm.providers.transport import Timeouts, TransportError

LIMIT = 3
UPSTREAM = st.sampled_from(["answer", "stream", "reset", "cut", "close", "garbage", "fail"])
CALLER = st.sampled_from(["read", "chunks", "close early", "detach", "cancel at once", "cancel later"])

STEPS = {
    "answer": Step(),
    "stream": Step(pieces=(b"one", b"two", b"three")),
    "reset": Step("reset"),
    "cut": Step("reset", body=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"),
    "close": Step("raw", body=b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"),
    "garbage": Step("raw", body=b"\x00\x01\x02\r\n\r\n"),
    "fail": Step("fail", status=500, body=b"{}"),
}


async def call(transport: Http1Transport, manner: str, upstream: str) -> None:
    body = b'{"stream":true,"do":"%s"}' % upstream.encode()
    exchange = await transport.send("POST", "/chat/completions", b"", body, 20.0)
    match manner:
        case "chunks":
            while await exchange.chunk():
                pass
        case "close early":
            await exchange.head()
            exchange.close()
        case "detach":
            await exchange.chunk()
            exchange.detach()
        case _:
            await exchange.read(1_000_000)


async def play(plan: list[tuple[str, str]]) -> None:
    def step(request: RecordedRequest) -> Step:
        return STEPS[request.json.get("do", "answer")]

    async with ScriptedUpstream() as up:
        up.respond(step)
        transport = Http1Transport(
            parse_address(up.url, "up"), authorization="", timeouts=Timeouts(5.0, 20.0, 20.0), limit=LIMIT
        )
        await transport.start()
        try:
            tasks: list[asyncio.Task[None]] = []
            for number, (manner, upstream) in enumerate(plan):
                task = asyncio.create_task(call(transport, manner, upstream))
                tasks.append(task)
                if manner == "cancel at once":
                    task.cancel()
                elif manner == "cancel later":
                    for _ in range(number % 7):
                        await asyncio.sleep(0)
                    task.cancel()
                assert transport.connections <= LIMIT
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for result in results:
                assert result is None or isinstance(result, TransportError | asyncio.CancelledError)
            # Every place is free again: as many calls as there are places can wait for each other.
            await asyncio.gather(*(call(transport, "read", "answer") for _ in range(4 * LIMIT)))
            assert transport.connections <= LIMIT
        finally:
            await transport.close()
        assert transport.connections == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CALLER, UPSTREAM), min_size=1, max_size=20))
def test_after_any_mishaps_the_pool_still_serves_every_caller(plan: list[tuple[str, str]]) -> None:
    asyncio.run(play(plan))
