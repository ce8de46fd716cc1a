"""One connection of the pooled HTTP/1.1 client.

Written on ``asyncio.Protocol`` and llhttp (``httptools``) because the client is the dearest part of a gateway: a
POST costs about a fifth of the CPU of a general-purpose client (``bench/provider.py``; docs/decisions/0040). It
speaks what an OpenAI-compatible API needs and nothing else: no redirects (a key must not be led elsewhere), no
cookies, no compression, no upgrade.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import httptools

from sparkle.llm.providers.http1_exchange import Http1Exchange
from sparkle.llm.providers.transport import Timeouts

if TYPE_CHECKING:
    from sparkle.llm.providers.http1_pool import Http1Transport

MAX_HEAD_BYTES = 64 * 1024
HIGH_WATER = 256 * 1024  # unread bytes of a stream at which the socket is no longer read


class Http1Connection(asyncio.Protocol):
    """One TCP (or TLS) connection; one exchange at a time."""

    __slots__ = (
        "_fires_at",
        "_head_bytes",
        "_interim",
        "_parser",
        "_paused",
        "_pool",
        "_timeouts",
        "_timer",
        "_transport",
        "exchange",
        "idle_since",
        "loop",
        "served",
        "usable",
    )

    def __init__(self, pool: Http1Transport, loop: asyncio.AbstractEventLoop, timeouts: Timeouts) -> None:
        self._pool = pool
        self._timeouts = timeouts
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = 0.0
        self._paused = False
        self._interim = False
        self._head_bytes = 0
        self.loop = loop
        self.exchange: Http1Exchange | None = None
        self.usable = False
        self.served = 0
        self.idle_since = 0.0

    # What the pool calls

    def begin(self, head: bytes, body: bytes, timeout: float) -> Http1Exchange:
        """Send a request, ``head`` complete with its blank line; the exchange may take ``timeout`` seconds."""
        now = self.loop.time()
        total = now + timeout
        expires = min(now + self._timeouts.first_byte, total)
        exchange = self.exchange = Http1Exchange(self, self.served > 0, expires, total)
        self.served += 1
        self._head_bytes = 0
        self._timer = self.loop.call_at(expires, self._expired)
        self._fires_at = expires
        transport = cast("asyncio.Transport", self._transport)
        # One write is one segment and one wake-up of the other side; a long body is not copied for it.
        if len(body) < 65536:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        return exchange

    def abort(self) -> None:
        """Cut the connection now."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    # What the exchange calls

    def resume(self) -> None:
        """Read the socket again after :data:`HIGH_WATER` had stopped it."""
        if self._paused:
            self._paused = False
            if self._transport is not None:
                self._transport.resume_reading()

    def expire_in(self, seconds: float) -> None:
        """Cut the exchange unless it ends within ``seconds``."""
        if self.exchange is not None:
            self.exchange.expires = self.exchange.total_expires = self.loop.time() + seconds
            self._arm(self.exchange.expires)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast("asyncio.Transport", transport)
        self.usable = True

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        exchange = self.exchange
        if exchange is None:  # nobody asked: whatever it is, this connection is no longer in step
            self.abort()
            return
        if not exchange.has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            exchange.fail("protocol", "the answer is not valid HTTP/1.1")
            self.abort()
            return
        if self.exchange is None:
            if not self.usable:
                self.abort()
            return
        if not exchange.has_head:
            if self._head_bytes > MAX_HEAD_BYTES:
                exchange.fail("protocol", "the answer's headers are too large")
                self.abort()
            return
        if exchange.error is not None:
            self.abort()
            return
        if not exchange.detached:
            exchange.expires = min(self.loop.time() + self._timeouts.idle, exchange.total_expires)
            # Usually it moves away and the timer looks again when it fires; only the first time may bring it closer.
            if exchange.expires < self._fires_at:
                self._arm(exchange.expires)
        if exchange.unread > HIGH_WATER and not exchange.wants_all and not self._paused:
            self._paused = True
            cast("asyncio.Transport", self._transport).pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.usable = False
        self._transport = None
        exchange = self.exchange
        if exchange is not None:
            self._disarm()
            self.exchange = None
            if (
                exchange.has_head
                and exc is None
                and exchange.error is None
                and _ends_with_connection(exchange)
            ):
                exchange.got_end()
            elif exchange.has_head or self._head_bytes:
                exchange.fail("broken", "the connection ended in the middle of the answer")
            else:
                exchange.fail("reset", "the connection ended before the answer")
        self._pool.lost(self)

    # httptools callbacks; an exception here would surface as a parser error, so they raise none

    def on_message_begin(self) -> None:
        """The first byte of an answer. One that nobody asked for puts the connection out of step."""
        if self.exchange is None:
            self.usable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field."""
        if self.exchange is not None and not self.exchange.has_head:
            self.exchange.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete."""
        exchange = self.exchange
        if exchange is None:
            return
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue, 103 Early Hints: the real answer follows
            self._interim = True
            exchange.headers.clear()
            return
        exchange.status = status
        for name, value in exchange.headers:
            if len(name) == 16 and name.lower() == b"content-encoding" and value.lower() != b"identity":
                exchange.fail("protocol", "the answer is compressed although identity was asked for")
        exchange.got_head()

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        exchange = self.exchange
        if exchange is not None and exchange.error is None and not exchange.got_body(data):
            self.abort()

    def on_message_complete(self) -> None:
        """The answer is complete."""
        if self._interim:
            self._interim = False
            return
        exchange = self.exchange
        if exchange is None:
            return
        self._disarm()
        self.exchange = None
        exchange.got_end()
        transport = self._transport
        # An answer that came before the whole request had left ends the connection: the rest would be out of step.
        if transport is None or transport.get_write_buffer_size() or not self._parser.should_keep_alive():
            self.usable = False
        self.resume()
        self._pool.free(self)

    def _expired(self) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        now = self.loop.time()
        if exchange.unread and now < exchange.total_expires:
            # The reader is slow, not the upstream.
            exchange.expires = min(now + self._timeouts.idle, exchange.total_expires)
        if now < exchange.expires:
            self._arm(exchange.expires)
            return
        self._timer = None
        waited_for = "the next part of the answer" if exchange.has_head else "an answer"
        exchange.fail(
            "deadline" if now >= exchange.total_expires else "timeout", f"timed out waiting for {waited_for}"
        )
        self.abort()

    def _arm(self, when: float) -> None:
        self._disarm()
        self._timer = self.loop.call_at(when, self._expired)
        self._fires_at = when

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _ends_with_connection(exchange: Http1Exchange) -> bool:
    return not any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in exchange.headers)
