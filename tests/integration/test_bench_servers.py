"""The servers the benchmarks bring along really do what the figures assume."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from bench import gateway, prompts, servers, stream_client, systems
from bench.servers import Server

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the mock upstream is compiled with gcc")

ONE = prompts.varied(count=2)[0].numbered(7)


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with gateway.upstream(tmp_path_factory.mktemp("mock"), ONE) as server:
        yield server


def post(body: bytes) -> bytes:
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def answers(port: int, writes: list[bytes], count: int) -> list[bytes]:
    """Bodies of ``count`` answers on one connection to which ``writes`` are written one by one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for data in writes:
        writer.write(data)
        await writer.drain()
    found: list[bytes] = []
    for _ in range(count):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        found.append(await reader.readexactly(int(length.split(b":")[1])))
    writer.close()
    return found


def test_the_mock_upstream_answers_sixty_tokens(direct: Server) -> None:
    status, answer = servers.ask(direct.spec.port, ONE)
    assert status == 200
    assert msgspec.json.decode(answer)["usage"] == {
        "prompt_tokens": 48,
        "completion_tokens": 60,
        "total_tokens": 108,
    }
    assert len(gateway.content(answer).split()) > 50


async def test_the_mock_upstream_answers_requests_that_come_together(direct: Server) -> None:
    (first, second, third) = await answers(direct.spec.port, [post(ONE) * 3], 3)
    assert first == second == third


async def test_the_mock_upstream_waits_for_a_request_that_comes_in_pieces(direct: Server) -> None:
    request = post(ONE)
    pieces = [request[i : i + 97] for i in range(0, len(request), 97)]
    assert len(await answers(direct.spec.port, pieces, 1)) == 1


async def test_the_mock_upstream_understands_chunked_requests(direct: Server) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked = head + b"%x\r\n" % len(ONE) + ONE + b"\r\n0\r\n\r\n"
    assert len(await answers(direct.spec.port, [chunked + post(ONE)], 2)) == 2


async def test_a_stream_of_the_mock_upstream_is_its_completion_in_sixty_pieces(direct: Server) -> None:
    bodies = prompts.varied(stream=True, count=4)
    result = await stream_client.measure(
        direct.url, lambda n: bodies[n % 4].numbered(n), connections=3, requests=2, stagger=0, key="k"
    )
    assert (result.answers, result.errors) == (6, 0)
    assert result.pieces_min == 60
    assert result.texts == [gateway.content(servers.ask(direct.spec.port, ONE)[1])]


async def test_the_pass_through_hands_on_answers_and_streams_unchanged(
    direct: Server, tmp_path: Path
) -> None:
    bench = systems.Bench(tmp_path, f"http://127.0.0.1:{direct.spec.port}/v1")
    with servers.running(systems.passthrough(bench), bench.workplace("pass"), ONE) as server:
        expected = servers.ask(direct.spec.port, ONE)
        assert servers.ask(server.spec.port, ONE) == expected
        bodies = prompts.varied(stream=True, count=2)
        result = await stream_client.measure(
            server.url, lambda n: bodies[n].numbered(n), connections=2, requests=1, stagger=0, key="k"
        )
        assert result.texts == [gateway.content(expected[1])]
        assert len(server.pids()) == 3
