"""What happens to reservations when their process dies, stalls, or loses its store; on every store."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.quota import ALICE, House, amounts, ask, used

from sparkle.errors import RateLimitError
from sparkle.llm.quota.ops import (
    TOKENS,
    Batch,
    Beat,
    Cancel,
    Charge,
    Done,
    Entry,
    Look,
    Reserve,
    Seen,
    Settle,
)
from sparkle.llm.usage import Usage
from sparkle.settings import QuotaSettings, ScopeLimits

pytest_plugins = ["tests.support.quota_fixtures"]

SETTINGS = QuotaSettings(tokens_per_day=1_000, lease_seconds=9)
BEAT = 3.0


async def pass_time(house: House, seconds: float) -> None:
    """Time passes and every living process keeps beating."""
    for _ in range(round(seconds / BEAT)):
        house.clock.advance(BEAT)
        for guard in house.guards:
            await guard.beat()


async def test_a_killed_process_gives_its_reservations_back_within_its_lease(house: House) -> None:
    alive, doomed = await house.guard(SETTINGS), await house.guard(SETTINGS)
    await ask(doomed, tokens=900)
    await house.kill(doomed)
    await pass_time(house, 6)
    assert await amounts(alive) == {"tokens_per_day/user": (0, 900)}
    await pass_time(house, 3 + BEAT)
    assert await amounts(alive) == {"tokens_per_day/user": (0, 0)}


async def test_what_a_killed_process_is_known_to_have_spent_is_charged(house: House) -> None:
    settings = QuotaSettings(tokens_per_day=1_000, concurrency=5, usd_per_day=1, lease_seconds=9)
    alive, doomed = await house.guard(settings), await house.guard(settings)
    reservation = await ask(doomed, tokens=100, answer=800, model="gpt-4o")
    doomed.progress(reservation, Usage(100, 20, estimated=True))
    await pass_time(house, 3)
    doomed.progress(reservation, Usage(100, 60, estimated=True))
    await house.kill(doomed)
    await pass_time(house, 9 + BEAT)
    # The second note was never persisted: the last heartbeat knew of 120 tokens.
    assert await amounts(alive) == {
        "tokens_per_day/user": (120, 0),
        "usd_per_day/user": (450_000, 0),
        "concurrency/user": (0, 0),
    }


async def test_a_stalled_process_that_settles_late_is_still_charged_but_once(house: House) -> None:
    alive, stalled = await house.guard(SETTINGS), await house.guard(SETTINGS)
    await house.stall(stalled)
    reservation = await ask(stalled, tokens=900)
    stalled.progress(reservation, used(300))
    await stalled.beat()
    for _ in range(5):
        house.clock.advance(BEAT)
        await alive.beat()
    assert await amounts(alive) == {"tokens_per_day/user": (300, 0)}
    await stalled.settle(reservation, used(700))
    await stalled.settle(reservation, used(700))
    assert await amounts(stalled) == {"tokens_per_day/user": (700, 0)}


async def test_usage_that_was_charged_is_never_returned_by_a_late_settlement(house: House) -> None:
    alive, stalled = await house.guard(SETTINGS), await house.guard(SETTINGS)
    await house.stall(stalled)
    reservation = await ask(stalled, tokens=900)
    stalled.progress(reservation, used(300))
    await stalled.beat()
    for _ in range(5):
        house.clock.advance(BEAT)
        await alive.beat()
    await stalled.release(reservation)
    assert await amounts(stalled) == {"tokens_per_day/user": (300, 0)}


async def test_a_process_that_was_taken_for_dead_works_on_under_a_new_lease(house: House) -> None:
    alive, stalled = await house.guard(SETTINGS), await house.guard(SETTINGS)
    await house.stall(stalled)
    for _ in range(5):
        house.clock.advance(BEAT)
        await alive.beat()
    reservation = await ask(stalled, tokens=500)
    await alive.beat()
    assert await amounts(alive) == {"tokens_per_day/user": (0, 500)}
    await stalled.settle(reservation, used(400))
    assert await amounts(stalled) == {"tokens_per_day/user": (400, 0)}


async def test_after_a_long_pause_of_everything_nobody_is_taken_for_dead(house: House) -> None:
    # The machine was suspended, or the store was away: all leases look expired at once.
    one, two = await house.guard(SETTINGS), await house.guard(SETTINGS)
    await ask(one, tokens=400)
    await ask(two, tokens=500)
    house.clock.advance(3_600)
    await one.beat()
    await two.beat()
    await pass_time(house, 12)
    assert await amounts(one) == {"tokens_per_day/user": (0, 900)}


async def test_a_clock_set_back_keeps_no_dead_lease_alive_for_long(house: House) -> None:
    alive, doomed = await house.guard(SETTINGS), await house.guard(SETTINGS)
    await ask(doomed, tokens=900)
    await house.kill(doomed)
    house.clock.wall -= 7_200
    await alive.beat()
    await pass_time(house, 9 + 2 * BEAT)
    assert (await amounts(alive))["tokens_per_day/user"] == (0, 0)


async def test_a_clock_set_back_blocks_no_rate_for_longer_than_a_minute(house: House) -> None:
    guard = await house.guard(QuotaSettings(requests_per_minute=1, lease_seconds=9))
    await ask(guard)
    house.clock.wall -= 7_200
    with pytest.raises(RateLimitError) as refused:
        await ask(guard)
    assert refused.value.retry_after is not None
    assert refused.value.retry_after <= 60
    house.clock.advance(60)
    await ask(guard)


async def test_closing_ends_the_lease_and_leaves_nothing_behind(house: House) -> None:
    leaving, staying = await house.guard(SETTINGS), await house.guard(SETTINGS)
    await leaving.settle(await ask(leaving, tokens=200), used(150))
    await leaving.close()
    await leaving.close()
    house.guards.remove(leaving)
    assert await amounts(staying) == {"tokens_per_day/user": (150, 0)}


async def test_closing_gives_back_nothing_that_is_in_use_until_the_lease_has_run_out(house: House) -> None:
    leaving, staying = await house.guard(SETTINGS), await house.guard(SETTINGS)
    reservation = await ask(leaving, tokens=200)
    leaving.progress(reservation, used(50))
    await leaving.close()
    house.guards.remove(leaving)
    assert await amounts(staying) == {"tokens_per_day/user": (0, 200)}
    await pass_time(house, 9 + BEAT)
    assert await amounts(staying) == {"tokens_per_day/user": (50, 0)}


async def test_the_heartbeat_beats_by_itself_three_times_a_lease(house: House) -> None:
    alive, doomed = await house.guard(SETTINGS), await house.guard(SETTINGS)
    await ask(doomed, tokens=900)
    await house.kill(doomed)
    for _ in range(5):
        # Only the clock moves; a look behind the beat in the queue waits for it.
        await house.clock.somebody_sleeps()
        house.clock.advance(BEAT)
        await asyncio.sleep(0)
        await alive.ready()
        await alive.ready()
    assert await amounts(alive) == {"tokens_per_day/user": (0, 0)}


@pytest.mark.parametrize("steps", range(8))
async def test_a_caller_cancelled_at_any_await_leaves_nothing_reserved(house: House, steps: int) -> None:
    guard = await house.guard(
        QuotaSettings(tokens_per_day=1_000, concurrency=9, total=ScopeLimits(tokens_per_day=5_000))
    )
    task = asyncio.ensure_future(ask(guard, ALICE, 400, None))
    for _ in range(steps):
        await asyncio.sleep(0)
    cancelled = task.cancel()
    result = (await asyncio.gather(task, return_exceptions=True))[0]
    if not isinstance(result, BaseException):
        assert not cancelled
        await guard.release(result)
    assert all(state == (0, 0) for state in (await amounts(guard)).values())


async def test_a_cancellation_after_the_reaping_does_not_forget_what_was_charged(house: House) -> None:
    # Found by a long walk of the property tests: the late settlement charged everything a second time.
    store = house.open_store(house.clock)
    await store.start()
    meter = Charge("m", TOKENS, 1_000, int((house.clock.now() + 86_400) * 1000))
    reserve = Reserve("dead-1", (meter,), ((900, 0), (0, 0), (1, 0)), 0, 0)
    await store.apply(Batch("dead", 9_000, (reserve, Beat((("dead-1", (300,)),)))))
    for _ in range(5):
        await store.apply(Batch("alive", 9_000, (Beat(),)))
        house.clock.advance(BEAT)
    settle = Settle("dead-1", (Entry("m", 900, 700, meter.expires),))
    results = await store.apply(Batch("alive", 9_000, (Cancel("dead-1"), settle, Look((meter,)))))
    assert results == [Done(0), Done(2), Seen(((700, 0, 0),))]
    await store.close()
