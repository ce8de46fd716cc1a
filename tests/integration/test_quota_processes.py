"""Real processes share a real store: no limit is passed by one token, nothing is lost, kill -9 included."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.support.quota import amounts, ask
from tests.support.quota_process import Order, guard_for, start
from tests.support.valkey import ValkeyProcess, running_valkey

from sparkle.errors import RateLimitError
from sparkle.llm.usage import Principal

WHO = Principal("everybody")


@pytest.fixture(params=["sqlite", "valkey"])
def order(request: pytest.FixtureRequest, tmp_path: Path) -> Order:
    """An order for a store of this test's own."""
    base = Order(do="hammer", store_url="", data_dir=str(tmp_path), limit=10_000, size=37, clients=100)
    if request.param == "sqlite":
        return base
    server: ValkeyProcess = request.getfixturevalue("own_valkey")
    return msgspec.structs.replace(base, store_url=server.url)


@pytest.fixture
def own_valkey() -> Iterator[ValkeyProcess]:
    with running_valkey() as server:
        yield server


@pytest.mark.slow
async def test_two_hundred_clients_of_two_processes_use_a_quota_to_the_last_call_and_not_beyond(
    order: Order,
) -> None:
    order = msgspec.structs.replace(order, least_used=order.size)
    processes = [await start(order) for _ in range(2)]
    reports = [await process.report() for process in processes]
    for process in processes:
        await process.process.communicate()
    assert sum(report.granted for report in reports) == order.limit // order.size
    assert max(report.most_seen for report in reports) <= order.limit
    guard = guard_for(order)
    await guard.start()
    assert (await amounts(guard, WHO))["tokens_per_day/user"] == (order.limit // order.size * order.size, 0)
    assert (await amounts(guard, WHO))["concurrency/user"] == (0, 0)
    await guard.close()


@pytest.mark.slow
async def test_calls_that_use_less_give_back_the_rest_and_every_token_is_accounted_for(order: Order) -> None:
    orders = [msgspec.structs.replace(order, seed=seed, limit=4_000) for seed in (1, 2)]
    processes = [await start(one) for one in orders]
    reports = [await process.report() for process in processes]
    for process in processes:
        await process.process.communicate()
    spent = sum(report.spent for report in reports)
    assert 4_000 - order.size < spent <= 4_000
    assert max(report.most_seen for report in reports) <= 4_000
    guard = guard_for(orders[0])
    await guard.start()
    assert (await amounts(guard, WHO))["tokens_per_day/user"] == (spent, 0)
    await guard.close()


@pytest.mark.slow
async def test_kill_9_in_mid_call_charges_what_was_generated_and_returns_the_rest(order: Order) -> None:
    order = msgspec.structs.replace(order, do="hold", limit=1_000, size=900, lease_seconds=0.9, progress=250)
    guard = guard_for(order)
    await guard.start()
    doomed = await start(order)
    await doomed.report()
    await doomed.kill()
    with pytest.raises(RateLimitError):
        await ask(guard, WHO, 700)
    async with asyncio.timeout(30):
        # Another process's lease runs out on the machine's own clock.
        while (await amounts(guard, WHO))["tokens_per_day/user"][1]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (await amounts(guard, WHO))["tokens_per_day/user"] == (250, 0)
    await guard.release(await ask(guard, WHO, 750))
    await guard.close()


@pytest.mark.slow
async def test_kill_9_right_after_an_answer_does_not_make_it_free(order: Order) -> None:
    order = msgspec.structs.replace(order, do="spend", limit=1_000, size=600)
    doomed = await start(order)
    await doomed.report()
    await doomed.kill()
    guard = guard_for(order)
    await guard.start()
    assert (await amounts(guard, WHO))["tokens_per_day/user"] == (600, 0)
    await guard.close()
