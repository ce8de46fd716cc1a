"""The pool of direct HTTP/1.1 connections to one upstream."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from sparkle.llm.providers.address import Address
from sparkle.llm.providers.http1 import Http1Connection
from sparkle.llm.providers.transport import Timeouts, TransportError

if TYPE_CHECKING:
    from sparkle.llm.providers.http1_exchange import Http1Exchange

KEEPALIVE_SECONDS = 60.0
WAITING_PER_CONNECTION = 8


class Http1Transport:
    """Connections to one address: the freshest idle one first, at most ``limit`` of them, callers beyond wait in line.

    A name is resolved once per new connection, not per request. Idle connections are closed after a minute. Implements
    :class:`~sparkle.llm.providers.transport.Transport`.
    """

    def __init__(
        self,
        address: Address,
        *,
        authorization: str,
        timeouts: Timeouts,
        limit: int = 512,
        keepalive: float = KEEPALIVE_SECONDS,
        user_agent: str = "sparkle",
    ) -> None:
        self._address = address
        self._timeouts = timeouts
        self._limit = limit
        self._keepalive = keepalive
        self._lines = (
            f"Host: {address.authority}\r\nUser-Agent: {user_agent}\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
            + (f"Authorization: {authorization}\r\n" if authorization else "")
        ).encode("latin-1")
        self._heads: dict[tuple[str, str], bytes] = {}
        self._tls: ssl.SSLContext | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: deque[Http1Connection] = deque()  # the left end has been idle longest
        self._all: set[Http1Connection] = set()
        self._opening = 0
        self._waiting: deque[asyncio.Future[Http1Connection | None]] = deque()
        self._reaper: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event | None = None
        self._closed = False

    async def start(self) -> None:
        """Make ready; opens no connection."""
        self._loop = asyncio.get_running_loop()
        self._closed = False
        if self._address.scheme == "https":
            # Reading the system's certificates takes tens of milliseconds: not on the loop's thread.
            self._tls = await self._loop.run_in_executor(None, _tls_context)

    async def close(self) -> None:
        """Close every connection and wait until they are gone."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(TransportError("connect", "the client is closed"))
        self._waiting.clear()
        if self._all:
            self._empty = asyncio.Event()
            for connection in tuple(self._all):
                connection.abort()
            await self._empty.wait()

    @property
    def connections(self) -> int:
        """Open connections, idle ones included."""
        return len(self._all)

    async def send(self, method: str, path: str, extra: bytes, body: bytes, timeout: float) -> Http1Exchange:
        """Send one request; see :meth:`Transport.send`."""
        head = self._heads.get((method, path))
        if head is None:
            head = f"{method} {self._address.target(path)} HTTP/1.1\r\n".encode("ascii") + self._lines
            self._heads[method, path] = head
        if method == "POST":
            head += b"%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (extra, len(body))
        else:
            head += extra + b"\r\n"
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection.begin(head, body, timeout)
        return (await self._connection(timeout)).begin(head, body, timeout)

    # What connections call

    def free(self, connection: Http1Connection) -> None:
        """A connection has completed an exchange."""
        if not connection.usable or self._closed:
            connection.abort()
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        connection.idle_since = connection.loop.time()
        self._idle.append(connection)
        if self._reaper is None:
            self._reaper = connection.loop.call_later(self._keepalive, self._reap)

    def lost(self, connection: Http1Connection) -> None:
        """A connection is gone."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._let_one_open()
        if self._empty is not None and not self._all:
            self._empty.set()

    async def _connection(self, timeout: float) -> Http1Connection:
        """A connection that is free, a new one, or the next one that becomes free."""
        if self._loop is None or self._closed:
            raise TransportError("connect", "the client is not started")
        expires = self._loop.time() + min(timeout, self._timeouts.first_byte)
        while True:
            if len(self._all) + self._opening < self._limit:
                self._opening += 1
                return await self._open(timeout)
            if len(self._waiting) >= WAITING_PER_CONNECTION * self._limit:
                raise TransportError("busy", "too many calls wait for a connection")
            connection = await self._wait_in_line(expires)
            if connection is None:
                return await self._open(timeout)
            if connection.usable:
                return connection
            # It died between its last answer and our turn: stand in line again.

    async def _wait_in_line(self, expires: float) -> Http1Connection | None:
        """A freed connection, or ``None`` for the right to open one (already counted in ``_opening``)."""
        waiter: asyncio.Future[Http1Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout_at(expires):
                return await waiter
        except (TimeoutError, asyncio.CancelledError) as exc:
            self._pass_on(waiter)
            if isinstance(exc, TimeoutError):
                raise TransportError("busy", "no connection became free in time") from None
            raise

    def _pass_on(self, waiter: asyncio.Future[Http1Connection | None]) -> None:
        """The caller gave up; what was already on its way to it goes to the next one."""
        if not waiter.done() or waiter.cancelled():
            with suppress(ValueError):  # it may have been passed over already
                self._waiting.remove(waiter)
        elif waiter.exception() is None:
            connection = waiter.result()
            if connection is None:
                self._opening -= 1
                self._let_one_open()
            else:
                self.free(connection)

    async def _open(self, timeout: float) -> Http1Connection:
        """Open a connection in a place that the caller has counted in ``_opening``."""
        loop, address = asyncio.get_running_loop(), self._address
        made = Http1Connection(self, loop, self._timeouts)
        try:
            async with asyncio.timeout(min(timeout, self._timeouts.connect)):
                await loop.create_connection(
                    lambda: made,
                    address.host,
                    address.port,
                    ssl=self._tls,
                    server_hostname=address.host if self._tls is not None else None,
                )
        except BaseException as exc:
            self._opening -= 1
            made.abort()
            self._let_one_open()
            if isinstance(exc, TimeoutError):
                kind = "connect_timeout" if self._timeouts.connect <= timeout else "deadline"
                raise TransportError(kind, "timed out connecting") from None
            if isinstance(exc, ssl.SSLCertVerificationError):
                raise TransportError("connect", f"certificate not accepted: {exc.verify_message}") from None
            if isinstance(exc, OSError):
                # Its text names addresses of the operator's network: the reason alone is told.
                raise TransportError("connect", f"cannot connect ({_reason(exc)})") from None
            raise
        self._opening -= 1
        self._all.add(made)
        return made

    def _let_one_open(self) -> None:
        while self._waiting and not self._closed and len(self._all) + self._opening < self._limit:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._opening += 1
                waiter.set_result(None)

    def _reap(self) -> None:
        self._reaper = None
        if self._loop is None:
            return
        now = self._loop.time()
        while self._idle and self._idle[0].idle_since + self._keepalive <= now:
            self._idle.popleft().abort()
        if self._idle:
            self._reaper = self._loop.call_at(self._idle[0].idle_since + self._keepalive, self._reap)


def _reason(exc: OSError) -> str:
    if isinstance(exc, socket.gaierror):
        return "the host name is not known"
    if exc.errno is not None and exc.errno > 0:
        return os.strerror(exc.errno).lower()
    return type(exc).__name__


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
