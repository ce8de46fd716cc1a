"""The wire under :mod:`tests.support.upstream`: enough HTTP/1.1 to serve a script and to misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast

Serve = Callable[["Connection", "RecordedRequest"], Awaitable[None]]


@dataclass(slots=True)
class RecordedRequest:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client went away before the answer was complete."""
    done: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the answer was written completely."""

    @property
    def json(self) -> dict[str, Any]:
        """The body as JSON; an empty one is ``{}``."""
        return cast("dict[str, Any]", json.loads(self.body)) if self.body else {}


class Connection(asyncio.Protocol):
    """One accepted connection, serving its requests one after the other."""

    def __init__(self, serve: Serve, registry: set[Connection]) -> None:
        self._serve = serve
        self._registry = registry
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._current: RecordedRequest | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._registry.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._writable.set()
        if self._current is not None and not self._current.done.is_set():
            self._current.closed.set()
        self._gone.set()
        self._registry.discard(self)
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None:
            self._next()

    def _next(self) -> None:
        request = _parse(self._buffer)
        if request is None:
            return
        self._current = request
        self._task = asyncio.get_running_loop().create_task(self._run(request))
        self._task.add_done_callback(self._ended)

    async def _run(self, request: RecordedRequest) -> None:
        await self._serve(self, request)
        request.done.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (failure := task.exception()) is not None:
            self.cut()
            # A bug in a script must not pass in silence.
            task.get_loop().call_exception_handler({"message": "scripted upstream", "exception": failure})
        if self.transport is not None:
            self._next()

    async def write(self, data: bytes) -> None:
        """Write; wait while the client reads too slowly. A client that is gone is no error."""
        if self.transport is not None and data:
            self.transport.write(data)
        await self._writable.wait()

    def cut(self) -> None:
        """Close after what was written has left."""
        if self.transport is not None:
            self.transport.close()

    async def abort(self) -> None:
        """Cut at once and wait until the connection and its handler are gone."""
        if self.transport is not None:
            self.transport.abort()
        await self._gone.wait()
        if self._task is not None:
            await asyncio.wait([self._task])

    def reset(self) -> None:
        """Close with a TCP reset, once what was written has left."""
        if self.transport is None:
            return
        sock = cast("socket.socket", self.transport.get_extra_info("socket"))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def head(status: int, headers: Mapping[str, str], length: int | None) -> bytes:
    """A response head; ``length=None`` announces chunked encoding."""
    fields = {"content-type": "application/json"}
    fields |= {"transfer-encoding": "chunked"} if length is None else {"content-length": str(length)}
    fields |= {name.lower(): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}\r\n".encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; empty data ends the body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def _parse(buffer: bytearray) -> RecordedRequest | None:
    """Take one complete request out of ``buffer``."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
    }
    start = end + 4
    if headers.get("transfer-encoding", "").lower() == "chunked":
        parsed = _dechunk(buffer, start)
        if parsed is None:
            return None
        body, stop = parsed
    else:
        stop = start + int(headers.get("content-length", "0"))
        if len(buffer) < stop:
            return None
        body = bytes(buffer[start:stop])
    del buffer[:stop]
    return RecordedRequest(method, path, headers, body)


def _dechunk(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    parts: list[bytes] = []
    while (eol := buffer.find(b"\r\n", start)) >= 0:
        size = int(bytes(buffer[start:eol]).split(b";")[0], 16)
        start = eol + 2
        if len(buffer) < start + size + 2:
            return None
        if size == 0:
            return b"".join(parts), start + 2
        parts.append(bytes(buffer[start : start + size]))
        start += size + 2
    return None
