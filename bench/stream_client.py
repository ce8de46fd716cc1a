"""A streaming client that adds next to nothing to what it measures: raw sockets on uvloop, answers read after the run.

Run: ``python -m bench.stream_client URL --prompts FILE --connections 64 --requests 2 --stagger 1.2``; prints one line
of JSON (:class:`StreamResult`).
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
import uvloop
from msgspec import Struct

from bench import prompts

_TEXT = re.compile(rb'"content": ?"[^"]')
"""A piece of text in an event (a first event may carry an empty one)."""
_END = b"0\r\n\r\n"
_DONE = b"data: [DONE]"


class StreamResult(Struct, frozen=True, forbid_unknown_fields=True):
    """What one run found. Times are milliseconds from sending the request.

    ``pieces`` is the number of events with text in an answer (lowest, median), ``alone`` the share of them that came
    in a read of their own, ``largest_burst`` the most that came in one read.
    """

    answers: int
    errors: int
    per_second: float
    ttft_p50: float
    ttft_p95: float
    ttft_p99: float
    total_p50: float
    total_p99: float
    pieces_min: int
    pieces_p50: float
    alone: float
    largest_burst: int
    texts: list[str]
    """The different complete texts; one, if every answer was as it should be."""


@dataclass(slots=True)
class Answer:
    """One streamed answer as it came in."""

    sent: float
    status: int = 0
    first: float = 0.0
    last: float = 0.0
    bursts: list[int] = field(default_factory=list[int])
    """Events with text in each read that had any."""
    raw: bytearray = field(default_factory=bytearray)


class Client(asyncio.Protocol):
    """One connection that asks ``bodies`` one after another."""

    def __init__(self, head: str, bodies: Sequence[bytes], finished: asyncio.Future[None]) -> None:
        self._head = head
        self._left = list(reversed(bodies))
        self._finished = finished
        self._transport: asyncio.Transport | None = None
        self.answers: list[Answer] = []
        self.errors = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask the first."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        body = self._left.pop()
        request = f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self.answers.append(Answer(time.perf_counter()))
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Note the time; everything else waits until the run is over."""
        now = time.perf_counter()
        answer = self.answers[-1]
        if not answer.status:
            answer.status = int(data[9:12])
        if count := len(_TEXT.findall(data)):
            answer.first = answer.first or now
            answer.bursts.append(count)
        answer.raw += data
        if answer.status != 200 or answer.raw.endswith(_END):
            answer.last = now
            if answer.status != 200 or not answer.first:
                self.errors += 1
            if self._left and answer.status == 200:
                self._ask()
            else:
                self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """An answer that was cut off is an error, and so is every one that was not asked any more."""
        if not self._finished.done():
            answer = self.answers[-1]
            if exc is None and _DONE in answer.raw:  # a server that ends its answer by hanging up
                answer.last = time.perf_counter()
            else:
                self.errors += 1
            self.errors += len(self._left)
        self._end()

    def _end(self) -> None:
        if not self._finished.done():
            self._finished.set_result(None)
        if self._transport is not None:
            self._transport.close()


async def measure(
    url: str, bodies: Callable[[int], bytes], *, connections: int, requests: int, stagger: float, key: str
) -> StreamResult:
    """Ask ``connections`` times ``requests`` streams.

    Args:
        url: Of the chat completions.
        bodies: Serial number to request body.
        connections: Held at a time.
        requests: One after another on each connection.
        stagger: Seconds over which the connections begin, so that they do not march in step; 0: all at once.
        key: Bearer token.
    """
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {key}\r\n"
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[None]] = []
    clients: list[Client] = []
    began = time.perf_counter()
    for i in range(connections):
        finished: asyncio.Future[None] = loop.create_future()
        client = Client(head, [bodies(i * requests + n) for n in range(requests)], finished)
        await loop.create_connection(lambda client=client: client, parts.hostname, parts.port)
        waiting.append(finished)
        clients.append(client)
        await asyncio.sleep(stagger / connections)
    await asyncio.wait(waiting, timeout=90)
    elapsed = time.perf_counter() - began
    errors = sum(c.errors for c in clients) + sum(not f.done() for f in waiting)
    return summarise(
        [a for c in clients for a in c.answers if a.status == 200 and a.last and a.first], errors, elapsed
    )


def summarise(answers: Sequence[Answer], errors: int, elapsed: float) -> StreamResult:
    """Percentiles, pieces and texts of complete answers."""
    first = [(a.first - a.sent) * 1000 for a in answers]
    total = [(a.last - a.sent) * 1000 for a in answers]
    bursts = [burst for a in answers for burst in a.bursts]
    pieces = [sum(a.bursts) for a in answers]
    return StreamResult(
        answers=len(answers),
        errors=errors,
        per_second=len(answers) / elapsed,
        ttft_p50=percentile(first, 50),
        ttft_p95=percentile(first, 95),
        ttft_p99=percentile(first, 99),
        total_p50=percentile(total, 50),
        total_p99=percentile(total, 99),
        pieces_min=min(pieces, default=0),
        pieces_p50=statistics.median(pieces) if pieces else 0,
        alone=sum(burst == 1 for burst in bursts) / max(1, sum(bursts)),
        largest_burst=max(bursts, default=0),
        texts=sorted({text_of(bytes(a.raw)) for a in answers})[:3],
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` per cent are not above (nearest rank); 0 of nothing."""
    if not values:
        return 0.0
    return sorted(values)[max(0, -int(-len(values) * share // 100) - 1)]


def text_of(raw: bytes) -> str:
    """The text of a complete streamed answer, HTTP head and all."""
    head, _, body = raw.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        body = _dechunk(body)
    text: list[str] = []
    for line in body.splitlines():
        if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
            event: Any = msgspec.json.decode(line[5:])
            text += [choice.get("delta", {}).get("content") or "" for choice in event.get("choices", [])]
    return "".join(text)


def _dechunk(body: bytes) -> bytes:
    out, at = bytearray(), 0
    while at < len(body):
        line_end = body.index(b"\r\n", at)
        size = int(body[at:line_end].split(b";")[0], 16)
        at = line_end + 2
        out += body[at : at + size]
        at += size + 2
    return bytes(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--prompts", type=Path, required=True, help="written by bench.prompts.write")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2)
    parser.add_argument("--stagger", type=float, default=0.0)
    parser.add_argument("--first", type=int, default=0, help="first serial number")
    parser.add_argument("--key", default="sk-bench")
    options = parser.parse_args()
    bodies = prompts.read(options.prompts)

    def body(serial: int) -> bytes:
        number: int = options.first + serial
        return bodies[number % len(bodies)].numbered(number)

    result = uvloop.run(
        measure(
            options.url,
            body,
            connections=options.connections,
            requests=options.requests,
            stagger=options.stagger,
            key=options.key,
        )
    )
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
