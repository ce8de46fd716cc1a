"""The shared store: Valkey or Redis, for many machines.

A batch is one script call (``batch.lua``), so one round trip carries whatever arrived during the last one.
Everything lives under one hash tag: a cluster keeps it in one slot, where a script is atomic. The server's
clock decides about leases and rates, and its distance from this machine's clock is followed, so that days
begin together everywhere.

The server must not evict these keys (``maxmemory-policy noeviction``) and should persist (``appendonly
yes``): what it forgets was never spent. A replica that takes over may lack the last writes; no limit can be
exact across that.
"""

from __future__ import annotations

import asyncio
import hashlib
from importlib import resources
from typing import Any, Protocol, cast

import msgspec

from sparkle.clock import Clock
from sparkle.errors import ConfigurationError, MissingExtraError, StoreUnavailableError
from sparkle.llm.quota.ops import Batch, OutcomeUnknownError, Result

#: Below this many seconds the difference of two clocks is mostly the network's.
_SKEW_WORTH_KEEPING = 0.5

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, list[Result]]).decode


class _Connection(Protocol):
    """What is used of redis-py's connection, whose annotations are partial."""

    @property
    def is_connected(self) -> bool: ...
    async def connect(self) -> None: ...
    async def disconnect(self) -> None: ...
    async def send_command(self, *args: str | bytes) -> None: ...
    async def read_response(self) -> Any: ...


class ValkeyStore:
    """Reservations in Valkey or Redis (6 or later). One connection per process, one batch at a time.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with password and database as redis-py reads them.
        clock: This machine's time.
        prefix: Before every key; keep its ``{tag}``.
        timeout: Seconds to connect, and again for each batch.
        server_time: False takes ``clock`` instead of the server's time: for tests that turn the hands
            themselves.

    Raises:
        MissingExtraError: redis-py is not installed.
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
        self._prefix = prefix
        self._timeout = timeout
        self._server_time = server_time
        self._script = resources.files(__package__ or "sparkle.llm.quota").joinpath("batch.lua").read_bytes()
        self._sha = hashlib.sha1(self._script, usedforsecurity=False).hexdigest()
        self._conn = _connection(url, timeout)

    async def start(self) -> None:
        """Connect once, so that a wrong address is known at the start. Raises StoreUnavailableError."""
        await self._connect()

    async def apply(self, batch: Batch) -> list[Result]:
        """See :class:`~sparkle.llm.quota.ops.QuotaStore`."""
        now = -1 if self._server_time else int(self._clock.now() * 1000)
        payload = _encode((batch.owner, batch.lease_ms, batch.ops, now))
        if not self._conn.is_connected:
            await self._connect()
        server_ms, results = _decode(await self._call(payload))
        if self._server_time:
            skew = server_ms / 1000 - self._clock.now()
            self.offset = skew if abs(skew) > _SKEW_WORTH_KEEPING else 0.0
        return results

    async def maintain(self) -> None:
        """Nothing to do: keys expire by themselves."""

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        from redis.exceptions import RedisError

        try:
            await self._conn.disconnect()
        except (RedisError, OSError, TimeoutError):
            # The other side is gone already.
            return

    async def _connect(self) -> None:
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(self._timeout):
                await self._conn.connect()
        except (RedisError, OSError, TimeoutError) as exc:
            await self.close()
            raise StoreUnavailableError(details={"cause": type(exc).__name__}, retry_after=1.0) from None

    async def _call(self, payload: bytes) -> bytes:
        from redis.exceptions import ConnectionError as Lost
        from redis.exceptions import NoScriptError, ResponseError

        try:
            async with asyncio.timeout(self._timeout):
                try:
                    return await self._ask("EVALSHA", self._sha, "1", self._prefix, payload)
                except NoScriptError:
                    # A server that was restarted; it has run nothing.
                    return await self._ask("EVAL", self._script, "1", self._prefix, payload)
        except (Lost, OSError, TimeoutError, ResponseError) as exc:
            # LOADING, READONLY, OOM, NOPERM and the like refuse a script as a whole, before it began.
            refused = isinstance(exc, ResponseError) and not str(exc).startswith("ERR")
            await self.close()
            kind = StoreUnavailableError if refused else OutcomeUnknownError
            raise kind(details={"cause": type(exc).__name__}, retry_after=1.0) from None
        except BaseException:
            # Cancelled in mid-answer: the next answer on this connection would be the wrong one.
            await self.close()
            raise

    async def _ask(self, *command: str | bytes) -> bytes:
        await self._conn.send_command(*command)
        return await self._conn.read_response()


def _connection(url: str, timeout: float) -> _Connection:
    try:
        from redis.asyncio.connection import ConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise MissingExtraError("redis", "a quota store at a redis:// address") from None
    try:
        # redis-py retries by default; a batch must never be sent twice behind our back.
        once = Retry(NoBackoff(), 0)
        pool = ConnectionPool.from_url(url, socket_connect_timeout=timeout, retry=once)  # pyright: ignore[reportUnknownMemberType] - untyped **kwargs
    except ValueError:
        # The URL may hold a password, so it is not repeated.
        raise ConfigurationError("quota.store_url cannot be read as a Redis URL") from None
    return cast("_Connection", pool.make_connection())
