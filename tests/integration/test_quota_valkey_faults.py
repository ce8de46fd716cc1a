"""A shared store that stops, freezes, restarts, or was never there: calls are refused, nothing hangs, nothing leaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.clock import ManualClock
from tests.support.quota import NOON, PRICES, abandon, amounts, ask, used
from tests.support.valkey import ValkeyProcess, running_valkey

from sparkle.clock import SystemClock
from sparkle.errors import ConfigurationError, StoreUnavailableError
from sparkle.llm.quota import LLMCostGuard, open_store
from sparkle.llm.quota.ops import Batch, Cancel, Charge, Done, Look, Refused, Reserve, Seen
from sparkle.llm.quota.resp import Address, Connection
from sparkle.llm.quota.valkey_store import ValkeyStore
from sparkle.settings import QuotaSettings

SETTINGS = QuotaSettings(tokens_per_day=1_000)
TIMEOUT = 0.2


@pytest.fixture
def server() -> Iterator[ValkeyProcess]:
    with running_valkey() as process:
        yield process


@pytest.fixture
async def guard(server: ValkeyProcess) -> AsyncIterator[LLMCostGuard]:
    clock = SystemClock()
    guard = LLMCostGuard(SETTINGS, ValkeyStore(server.url, clock=clock, timeout=TIMEOUT), PRICES, clock=clock)
    await guard.start()
    yield guard
    await abandon(guard)


@asynccontextmanager
async def admin(server: ValkeyProcess) -> AsyncGenerator[Callable[..., Awaitable[bytes]]]:
    """Says things to the server over a connection of its own."""
    connection = Connection(Address.parse(server.url))
    await connection.connect()
    try:
        yield lambda *words: connection.ask(*(word.encode() for word in words))
    finally:
        await connection.close()


async def until_it_answers(guard: LLMCostGuard) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await guard.ready()
                return
            except StoreUnavailableError:
                await asyncio.sleep(0.02)  # another process needs real time to come back


async def test_a_server_that_died_refuses_and_one_that_is_back_serves(
    server: ValkeyProcess, guard: LLMCostGuard
) -> None:
    reservation = await ask(guard, tokens=300)
    server.stop()
    with pytest.raises(StoreUnavailableError):
        await ask(guard)
    with pytest.raises(StoreUnavailableError):
        await guard.ready()
    await guard.settle(reservation, used(200))
    server.start()
    await until_it_answers(guard)
    # This server keeps nothing on disk: it knows neither script nor reservation, and says so without a crash.
    await guard.settle(await ask(guard, tokens=300), used(120))
    assert await amounts(guard) == {"tokens_per_day/user": (120, 0)}


async def test_what_a_frozen_server_does_later_holds_nothing(
    server: ValkeyProcess, guard: LLMCostGuard
) -> None:
    spent = await ask(guard, tokens=100)
    server.freeze()
    try:
        await guard.settle(spent, used(60))
        with pytest.raises(StoreUnavailableError):
            await ask(guard, tokens=500)
        with pytest.raises(StoreUnavailableError):
            await ask(guard, tokens=500)
    finally:
        server.thaw()
    await until_it_answers(guard)
    assert await guard._commit.flush(5)  # pyright: ignore[reportPrivateUsage]
    # The thawed server found the forgotten reservation in its socket, before or after its cancellation.
    assert await amounts(guard) == {"tokens_per_day/user": (60, 0)}


async def test_a_reservation_that_arrives_after_its_cancellation_is_refused(server: ValkeyProcess) -> None:
    store = ValkeyStore(server.url, clock=SystemClock(), timeout=5)
    late = Reserve("me-1", (Charge("k", 0, 100, 0),), ((7, 0), (0, 0), (1, 0)), 0, 0)
    results = await store.apply(Batch("me", 9_000, (Cancel("me-1"), late, Look(late.charges))))
    assert results == [Done(0), Refused(-1, 0, 0, 0), Seen(((0, 0, 0),))]
    await store.close()


async def test_an_address_where_nobody_answers_is_known_at_the_start(tmp_path: Path) -> None:
    store = ValkeyStore(f"unix://{tmp_path}/none.sock", clock=SystemClock(), timeout=TIMEOUT)
    with pytest.raises(StoreUnavailableError):
        await store.start()
    await store.close()


async def test_a_server_that_refuses_writes_refuses_calls(server: ValkeyProcess, guard: LLMCostGuard) -> None:
    async with admin(server) as say:
        await say("CONFIG", "SET", "min-replicas-to-write", "1")
        with pytest.raises(StoreUnavailableError):
            await ask(guard)
        await say("CONFIG", "SET", "min-replicas-to-write", "0")
        await until_it_answers(guard)
        await ask(guard)


async def test_an_idle_connection_that_the_server_closed_is_opened_again(
    server: ValkeyProcess, guard: LLMCostGuard
) -> None:
    await ask(guard, tokens=1)
    async with admin(server) as say:
        await say("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await until_it_answers(guard)
    await ask(guard, tokens=1)


async def test_the_servers_clock_decides_when_machines_disagree(server: ValkeyProcess) -> None:
    # This machine believes it is the year 2065; the days it charges are the server's.
    clock = ManualClock(NOON)
    store = ValkeyStore(server.url, clock=clock, timeout=5)
    await store.start()
    await store.apply(Batch("me", 9_000, (Look(()),)))
    assert abs(clock.now() + store.offset - SystemClock().now()) < 60
    await store.close()


async def test_every_key_carries_one_hash_tag_and_expires(server: ValkeyProcess) -> None:
    clock = SystemClock()
    settings = QuotaSettings(tokens_per_day=1_000, requests_per_minute=5, concurrency=5)
    guard = LLMCostGuard(settings, ValkeyStore(server.url, clock=clock), PRICES, clock=clock)
    await guard.start()
    await guard.settle(await ask(guard), used(1))
    await guard.ready()
    await guard.close()
    async with admin(server) as say:
        names = await say("EVAL", "return table.concat(redis.call('KEYS', '*'), ' ')", "0")
        keys = names.decode().split()
        assert len(keys) == 2
        for key in keys:
            assert key.startswith("{sparkle:quota}:m:")
            assert int(await say("EVAL", "return tostring(redis.call('TTL', KEYS[1]))", "1", key)) > 0


async def test_an_oversized_request_for_the_script_is_refused_without_harm(
    server: ValkeyProcess, guard: LLMCostGuard
) -> None:
    broken = Reserve("x-1", (), ((0, 0), (0, 0), (1, 0)), 0, 0)
    await guard._store.apply(Batch("x", 9_000, (broken,) * 5_000))  # pyright: ignore[reportPrivateUsage]
    await ask(guard)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:geheim@host",
        "geheim",
        "redis://",
        "redis://:geheim@host:notaport/0",
        "://geheim",
        "redis://:geheim@h/?x=geheim",
    ],
)
def test_a_url_that_makes_no_sense_is_refused_and_its_password_not_told(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_store(QuotaSettings(store_url=url), Path(), clock=SystemClock())
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "valkeys", "unix"])
def test_every_scheme_opens_a_shared_store(scheme: str) -> None:
    store = open_store(QuotaSettings(store_url=f"{scheme}://localhost/0"), Path(), clock=SystemClock())
    assert isinstance(store, ValkeyStore)
