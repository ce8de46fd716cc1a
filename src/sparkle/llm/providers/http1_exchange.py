"""The exchange: one request over one connection of the pooled HTTP/1.1 client, seen from the caller's side."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from sparkle.llm.providers.transport import FailureKind, TransportError

if TYPE_CHECKING:
    from sparkle.llm.providers.http1 import Http1Connection

DETACHED_SECONDS = 1.0
DETACHED_BYTES = 64 * 1024

# What an exchange waits for; the protocol wakes it for nothing less.
_NOTHING, _HEAD, _DATA, _END = range(4)


class Http1Exchange:
    """One request and its answer; see :class:`~sparkle.llm.providers.transport.Exchange`."""

    __slots__ = (
        "_awaited",
        "_chunks",
        "_connection",
        "_limit",
        "_waiter",
        "complete",
        "detached",
        "error",
        "expires",
        "has_head",
        "headers",
        "reused",
        "size",
        "status",
        "total_expires",
        "unread",
    )

    def __init__(
        self, connection: Http1Connection, reused: bool, expires: float, total_expires: float
    ) -> None:
        self._connection = connection
        self._chunks: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._awaited = _NOTHING
        self._limit = 0
        self.reused = reused
        self.expires = expires
        self.total_expires = total_expires
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.has_head = False
        self.complete = False
        self.detached = False
        self.error: TransportError | None = None
        self.size = 0  # bytes of the body so far
        self.unread = 0  # of these, bytes nobody has taken yet

    @property
    def wants_all(self) -> bool:
        """The whole body is being gathered: unread bytes are no reason to stop reading the socket."""
        return self._awaited == _END

    async def head(self) -> int:
        """Wait for the headers; returns the status."""
        if not self.has_head:
            await self._wait(_HEAD)
        return self.status

    async def read(self, limit: int) -> bytes:
        """Wait for the whole answer."""
        self._limit = limit
        if not self.complete:
            self._connection.resume()
            await self._wait(_END)
        if self.size > limit:
            raise TransportError("too_large", f"answer larger than {limit} bytes")
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.unread = 0
        return body

    async def chunk(self) -> bytes:
        """The next bytes of the body; ``b""`` at its end."""
        chunks = self._chunks
        if not chunks:
            if self.complete:
                return b""
            await self._wait(_DATA)
            if not chunks:
                return b""
        data = chunks.popleft() if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.unread = 0
        if not self.complete:
            self._connection.resume()
        return data

    def close(self) -> None:
        """Give up; cuts the connection unless the answer is complete."""
        if not self.complete:
            self.fail("broken", "closed")
            self._connection.abort()

    def detach(self) -> None:
        """Let the rest of the body run out, within limits."""
        if not self.complete:
            self.detached = True
            self.size = 0
            self._chunks.clear()
            self._connection.resume()
            self._connection.expire_in(DETACHED_SECONDS)

    async def _wait(self, awaited: int) -> None:
        if self.error is None:
            self._awaited = awaited
            self._waiter = self._connection.loop.create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                self.close()
                raise
            finally:
                self._waiter = None
                self._awaited = _NOTHING
        if self.error is not None:
            raise self.error

    def got_head(self) -> None:
        """The headers are complete."""
        self.has_head = True
        self._wake(_HEAD)

    def got_body(self, data: bytes) -> bool:
        """A part of the body came; False when it is too much."""
        self.size += len(data)
        if self.detached:
            return self.size <= DETACHED_BYTES
        self._chunks.append(data)
        self.unread += len(data)
        if self._awaited == _END:
            if self.size > self._limit:
                self.fail("too_large", f"answer larger than {self._limit} bytes")
                return False
        else:
            self._wake(_DATA)
        return True

    def got_end(self) -> None:
        """The answer is complete."""
        self.complete = True
        self._wake(_END)

    def fail(self, kind: FailureKind, detail: str) -> None:
        """The answer will never be complete; the first reason stands."""
        if self.error is None and not self.complete:
            self.error = TransportError(kind, detail, reused=self.reused)
            self._wake(_END)

    def _wake(self, event: int) -> None:
        waiter = self._waiter
        if waiter is not None and event >= self._awaited and not waiter.done():
            waiter.set_result(None)
