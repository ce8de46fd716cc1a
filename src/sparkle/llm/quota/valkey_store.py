"""The shared store: Valkey or Redis, for many machines.

A batch is one script call (``batch.lua``), so one round trip carries whatever arrived during the last one. Everything
lives under one hash tag: a cluster keeps it in one slot, where a script is atomic (``MOVED`` is followed). The server's
clock decides about leases and rates, and its distance from this machine's clock is followed, so that days begin
together everywhere.

The server must not evict these keys (``maxmemory-policy noeviction``) and should persist (``appendonly yes``): what it
forgets was never spent. A replica that takes over may lack the last writes; no limit can be exact across that.
"""

from __future__ import annotations

import asyncio
import hashlib
from importlib import resources

import msgspec

from sparkle.clock import Clock
from sparkle.errors import StoreUnavailableError
from sparkle.llm.quota.ops import Batch, OutcomeUnknownError, Result
from sparkle.llm.quota.resp import Address, Connection, ProtocolError, ReplyError

#: Below this many seconds the difference of two clocks is mostly the network's.
_SKEW_WORTH_KEEPING = 0.5

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, list[Result]]).decode


class ValkeyStore:
    """Reservations in Valkey or Redis (5 or later). One connection per process, one batch at a time.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://`` (:meth:`~sparkle.llm.quota.resp.Address.parse`).
        clock: This machine's time.
        prefix: Before every key; keep its ``{tag}``.
        timeout: Seconds to connect, and again for each batch.
        server_time: False takes ``clock`` instead of the server's time: for tests that turn the hands themselves.

    Raises:
        ConfigurationError: The URL cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        prefix: str = "{sparkle:quota}",
        timeout: float = 1.0,
        server_time: bool = True,
    ) -> None:
        self.offset = 0.0
        self._clock = clock
        self._prefix = prefix.encode()
        self._timeout = timeout
        self._server_time = server_time
        self._script = resources.files(__package__ or "sparkle.llm.quota").joinpath("batch.lua").read_bytes()
        self._sha = hashlib.sha1(self._script, usedforsecurity=False).hexdigest().encode()
        self._connection = Connection(Address.parse(url))

    async def start(self) -> None:
        """Connect once, so that a wrong address is known at the start. Raises StoreUnavailableError."""
        await self._connect()

    async def apply(self, batch: Batch) -> list[Result]:
        """See :class:`~sparkle.llm.quota.ops.QuotaStore`."""
        now = -1 if self._server_time else int(self._clock.now() * 1000)
        payload = _encode((batch.owner, batch.lease_ms, batch.ops, now))
        if not self._connection.connected:
            await self._connect()
        answer = await self._call(payload)
        try:
            server_ms, results = _decode(answer)
            if len(results) != len(batch.ops):
                raise msgspec.ValidationError("too few results")
        except msgspec.DecodeError:
            await self._connection.close()
            raise OutcomeUnknownError(details={"cause": "answer"}, retry_after=1.0) from None
        if self._server_time:
            skew = server_ms / 1000 - self._clock.now()
            self.offset = skew if abs(skew) > _SKEW_WORTH_KEEPING else 0.0
        return results

    async def maintain(self) -> None:
        """Nothing to do: keys expire by themselves."""

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        await self._connection.close()

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._connection.connect()
        except (OSError, EOFError, ReplyError, ProtocolError, asyncio.LimitOverrunError) as exc:
            raise StoreUnavailableError(details={"cause": _cause(exc)}, retry_after=1.0) from None

    async def _call(self, payload: bytes) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    return await self._connection.ask(b"EVALSHA", self._sha, b"1", self._prefix, payload)
                except ReplyError as exc:
                    if exc.code != "NOSCRIPT":
                        raise
                    # A server that was restarted; it has run nothing.
                    return await self._connection.ask(b"EVAL", self._script, b"1", self._prefix, payload)
        except (OSError, EOFError, ReplyError, ProtocolError, asyncio.LimitOverrunError) as exc:
            await self._connection.close()
            if isinstance(exc, ReplyError) and exc.code == "MOVED":
                _, _, node = str(exc).rpartition(" ")
                host, _, port = node.rpartition(":")
                self._connection.move(host, int(port))
            # LOADING, READONLY, OOM, NOPERM and the like refuse a script as a whole, before it began. ERR may come
            # from its middle.
            refused = isinstance(exc, ReplyError) and exc.code != "ERR"
            kind = StoreUnavailableError if refused else OutcomeUnknownError
            raise kind(details={"cause": _cause(exc)}, retry_after=1.0) from None
        except BaseException:
            # Cancelled in mid-answer: the next answer on this connection would be the wrong one.
            await self._connection.close()
            raise


def _cause(exc: Exception) -> str:
    """What may be told about a failure: the server's one word, never its text."""
    return exc.code if isinstance(exc, ReplyError) else type(exc).__name__
