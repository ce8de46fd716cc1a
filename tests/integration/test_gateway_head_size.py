"""A request head that is longer than anybody needs is refused, whole or in pieces, and holds no memory."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

import pytest
from tests.support.gateway import InProcessGateway

from sparkle.server.protocol import MAX_HEAD_BYTES

HEAD = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"


async def exchange(gw: InProcessGateway, parts: list[bytes]) -> bytes:
    """Write each part, then read until the server closes."""
    url = urlsplit(gw.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES + 1, 10 * MAX_HEAD_BYTES])
async def test_a_head_that_is_too_long_is_answered_with_431(gw: InProcessGateway, size: int) -> None:
    answer = await exchange(gw, [HEAD + b"x-long: " + b"a" * size + b"\r\n\r\n"])
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"x-should-retry: false" in head
    error = json.loads(body)["error"]
    assert (error["code"], error["type"]) == ("headers_too_large", "invalid_request_error")


async def test_a_head_that_never_ends_is_answered_too(gw: InProcessGateway) -> None:
    url = urlsplit(gw.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(HEAD)
    answering = asyncio.ensure_future(reader.readuntil(b"\r\n"))
    for index in range(100_000):
        if answering.done():
            break
        writer.write(b"x-more-%d: " % index + b"b" * 1000 + b"\r\n")
        await writer.drain()
    assert (await asyncio.wait_for(answering, 10)).startswith(b"HTTP/1.1 431 ")
    writer.close()


async def test_a_head_below_the_limit_and_a_large_body_behind_it_are_read(gw: InProcessGateway) -> None:
    long = b"x-long: " + b"a" * (MAX_HEAD_BYTES - 500) + b"\r\n"
    body = json.dumps({"text": "word " * 20_000}).encode()
    post = (
        b"POST /v1/guard/scan HTTP/1.1\r\nhost: x\r\n"
        + long
        + b"content-length: %d\r\n\r\n" % len(body)
        + body
    )
    last = HEAD + b"connection: close\r\n\r\n"
    answer = await exchange(gw, [post + HEAD + b"x-a: b\r\n", b"\r\n", last])
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert b" 431 " not in answer
