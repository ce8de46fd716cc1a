from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.support.gateway import InProcessGateway

from sparkle.server.protocol import _OneWrite  # pyright: ignore[reportPrivateUsage]


class Wire:
    """Records what reaches the socket, write by write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> str:
        return f"info {name}"


HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def transport(wire: Wire) -> Any:
    return _OneWrite(wire)  # pyright: ignore[reportArgumentType]


def test_head_and_body_leave_in_one_write(wire: Wire, transport: Any) -> None:
    transport.write(HEAD)
    assert wire.writes == []
    transport.write(b"ok")
    transport.flush()
    assert wire.writes == [HEAD + b"ok"]


def test_the_head_of_a_stream_leaves_at_once(wire: Wire, transport: Any) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    transport.write(head)
    assert wire.writes == [head]


def test_a_head_without_a_body_leaves_when_the_answer_ends(wire: Wire, transport: Any) -> None:
    transport.write(HEAD)
    transport.flush()
    assert wire.writes == [HEAD]


def test_a_head_is_not_lost_when_the_handler_fails_and_the_connection_closes(
    wire: Wire, transport: Any
) -> None:
    transport.write(HEAD)
    transport.close()
    assert wire.writes == [HEAD]
    assert transport.is_closing()


def test_everything_else_is_the_transports(transport: Any) -> None:
    assert transport.get_extra_info("peername") == "info peername"


async def test_head_requests_are_answered_and_the_connection_goes_on(gw: InProcessGateway) -> None:
    url = urlsplit(gw.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    for _ in range(2):
        writer.write(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert answer.startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()
