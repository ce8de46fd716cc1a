"""What every quota store keeps; each test runs on SQLite and on a real Valkey."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.quota import ALICE, BOB, NOON, House, amounts, ask, used

from sparkle.errors import ConcurrencyLimitError, InvalidRequestError, QuotaExceededError, RateLimitError
from sparkle.llm.usage import Principal, Usage
from sparkle.settings import QuotaSettings, ScopeLimits

pytest_plugins = ["tests.support.quota_fixtures"]

TOKENS_1000 = QuotaSettings(tokens_per_day=1_000)


async def test_what_is_reserved_is_held_and_what_is_settled_is_spent(house: House) -> None:
    guard = await house.guard(TOKENS_1000)
    reservation = await ask(guard, tokens=100, answer=200)
    assert await amounts(guard) == {"tokens_per_day/user": (0, 300)}
    settlement = await guard.settle(reservation, Usage(100, 50))
    assert settlement.returned_tokens == 150
    assert settlement.recorded
    assert not settlement.exceeded
    assert await amounts(guard) == {"tokens_per_day/user": (150, 0)}


async def test_a_limit_is_reached_to_the_token_and_not_passed_by_one(house: House) -> None:
    guard = await house.guard(TOKENS_1000)
    await ask(guard, tokens=999)
    with pytest.raises(RateLimitError):
        await ask(guard, tokens=2)
    await ask(guard, tokens=1)
    assert await amounts(guard) == {"tokens_per_day/user": (0, 1_000)}


async def test_used_up_tells_when_a_retry_can_succeed_and_it_does(house: House) -> None:
    guard = await house.guard(TOKENS_1000)
    await guard.settle(await ask(guard, tokens=950), used(950))
    with pytest.raises(QuotaExceededError) as refused:
        await ask(guard, tokens=51)
    assert refused.value.retry_after == pytest.approx(43_200)  # pyright: ignore[reportUnknownMemberType]
    assert refused.value.details == {
        "limit_name": "tokens_per_day",
        "scope": "user",
        "unit": "tokens",
        "limit": 1_000,
        "used": 950,
        "reserved": 0,
        "requested": 51,
        "reset_at": NOON + 43_200,
    }
    house.clock.advance(43_200 - 0.001)
    with pytest.raises(QuotaExceededError):
        await ask(guard, tokens=51)
    house.clock.advance(0.001)
    await ask(guard, tokens=51)


async def test_quota_held_by_calls_in_flight_is_not_quota_used_up(house: House) -> None:
    guard = await house.guard(TOKENS_1000)
    first = await ask(guard, tokens=10, answer=900)
    with pytest.raises(RateLimitError) as refused:
        await ask(guard, tokens=10, answer=900)
    assert not isinstance(refused.value, QuotaExceededError)
    assert refused.value.retry_after == 1.0
    await guard.settle(first, used(20))
    await ask(guard, tokens=10, answer=900)


async def test_a_caller_without_max_tokens_gets_what_is_left(house: House) -> None:
    guard = await house.guard(
        QuotaSettings(tokens_per_day=1_000, default_max_output_tokens=600, min_output_tokens=50)
    )
    first = await ask(guard, tokens=100, answer=None)
    assert first.max_output_tokens == 600
    second = await ask(guard, tokens=100, answer=None)
    assert second.max_output_tokens == 200
    await guard.settle(first, used(700))
    await guard.release(second)
    # 300 are left: 251 of prompt would leave fewer than the least worth starting.
    with pytest.raises(QuotaExceededError):
        await ask(guard, tokens=251, answer=None)
    assert (await ask(guard, tokens=250, answer=None)).max_output_tokens == 50


async def test_an_explicit_max_tokens_is_held_exactly_or_refused(house: House) -> None:
    guard = await house.guard(TOKENS_1000)
    with pytest.raises(QuotaExceededError, match="lower max_tokens"):
        await ask(guard, tokens=100, answer=901)
    assert (await ask(guard, tokens=100, answer=900)).max_output_tokens == 900


async def test_choices_multiply_the_answer(house: House) -> None:
    guard = await house.guard(TOKENS_1000)
    reservation = await guard.reserve(
        ALICE, model="free", prompt_tokens=100, max_output_tokens=300, choices=3
    )
    assert (reservation.tokens, reservation.max_output_tokens) == (1_000, 300)
    await guard.release(reservation)
    elastic = await guard.reserve(ALICE, model="free", prompt_tokens=99, max_output_tokens=None, choices=3)
    assert (elastic.tokens, elastic.max_output_tokens) == (999, 300)


async def test_an_upstream_that_uses_more_is_recorded_as_it_is_and_the_next_call_refused(
    house: House,
) -> None:
    guard = await house.guard(TOKENS_1000)
    settlement = await guard.settle(await ask(guard, tokens=100), used(5_000))
    assert settlement.exceeded
    assert settlement.returned_tokens == -4_900
    assert await amounts(guard) == {"tokens_per_day/user": (5_000, 0)}
    with pytest.raises(QuotaExceededError):
        await ask(guard, tokens=0)


async def test_settling_twice_counts_once_and_the_first_counts(house: House) -> None:
    guard = await house.guard(TOKENS_1000)
    reservation = await ask(guard, tokens=100)
    await guard.settle(reservation, used(70))
    again = await guard.settle(reservation, used(99))
    await guard.release(reservation)
    assert not again.recorded
    assert await amounts(guard) == {"tokens_per_day/user": (70, 0)}


async def test_a_release_spends_nothing_but_the_request_stays_counted(house: House) -> None:
    guard = await house.guard(QuotaSettings(tokens_per_day=1_000, requests_per_minute=5, concurrency=3))
    await guard.release(await ask(guard))
    assert await amounts(guard) == {
        "tokens_per_day/user": (0, 0),
        "requests_per_minute/user": (1, 0),
        "concurrency/user": (0, 0),
    }


async def test_all_limits_take_a_call_or_none_does(house: House) -> None:
    everything = ScopeLimits(tokens_per_day=10_000, concurrency=50, usd_per_day=100, usd_per_month=100)
    guard = await house.guard(
        QuotaSettings(
            tokens_per_day=5_000,
            requests_per_minute=60,
            concurrency=1,
            team=everything,
            total=everything,
            key=everything,
        )
    )
    await ask(guard, model="gpt-4o", tokens=10, answer=10)
    before = await amounts(guard)
    with pytest.raises(ConcurrencyLimitError) as refused:
        await ask(guard, model="gpt-4o", tokens=10, answer=10)
    assert refused.value.details["limit_name"] == "concurrency"
    assert await amounts(guard) == before


async def test_a_team_a_key_and_everybody_share_their_limits(house: House) -> None:
    guard = await house.guard(
        QuotaSettings(
            tokens_per_day=1_000,
            team=ScopeLimits(tokens_per_day=1_500),
            total=ScopeLimits(tokens_per_day=1_700),
            key=ScopeLimits(tokens_per_day=900),
        )
    )
    await guard.settle(await ask(guard, ALICE, 900), used(900))
    for who, tokens, scope in [
        (ALICE, 101, "user"),
        (ALICE, 1, "key"),
        (BOB, 601, "team"),
        (Principal("carol"), 801, "total"),
    ]:
        with pytest.raises(QuotaExceededError) as refused:
            await ask(guard, who, tokens)
        assert refused.value.details["scope"] == scope
    await ask(guard, BOB, 600)


async def test_who_has_no_team_and_no_key_is_not_charged_to_one(house: House) -> None:
    guard = await house.guard(
        QuotaSettings(
            tokens_per_day=1_000, team=ScopeLimits(tokens_per_day=1), key=ScopeLimits(tokens_per_day=1)
        )
    )
    reservation = await ask(guard, Principal("dave"), 500)
    assert [(s.kind, s.scope) for s in reservation.limits] == [("tokens_per_day", "user")]


async def test_money_is_held_at_the_highest_and_charged_at_the_true_price(house: House) -> None:
    # gpt-4o: 2.50 and 10 USD per million tokens are 2,500 and 10,000 nano-USD a token.
    guard = await house.guard(QuotaSettings(tokens_per_day=0, usd_per_day=0.01, usd_per_month=0.02))
    reservation = await ask(guard, model="gpt-4o", tokens=1_000, answer=700)
    assert reservation.cost_nano == 9_500_000
    settlement = await guard.settle(reservation, Usage(1_000, 100))
    assert settlement.cost_nano == 3_500_000
    assert await amounts(guard) == {"usd_per_month/user": (3_500_000, 0), "usd_per_day/user": (3_500_000, 0)}
    with pytest.raises(QuotaExceededError) as refused:
        await ask(guard, model="gpt-4o", tokens=1_000, answer=401)
    assert refused.value.details["unit"] == "nano_usd"
    assert "$0.0035 of $0.0100" in refused.value.message
    elastic = await ask(guard, model="gpt-4o", tokens=1_000, answer=None)
    assert elastic.max_output_tokens == 400


async def test_a_month_outlasts_its_days(house: House) -> None:
    guard = await house.guard(QuotaSettings(tokens_per_day=0, usd_per_day=0.01, usd_per_month=0.012))
    await guard.settle(await ask(guard, model="gpt-4o", tokens=3_000), Usage(3_000, 0))
    house.clock.advance(86_400)
    with pytest.raises(QuotaExceededError) as refused:
        await ask(guard, model="gpt-4o", tokens=2_000)
    assert refused.value.details["limit_name"] == "usd_per_month"


async def test_a_model_without_a_price_costs_nothing_but_counts(house: House) -> None:
    guard = await house.guard(QuotaSettings(tokens_per_day=1_000, usd_per_day=0.000001))
    await guard.settle(await ask(guard, model="nobody-knows-it", tokens=500), used(500))
    assert await amounts(guard) == {"usd_per_day/user": (0, 0), "tokens_per_day/user": (500, 0)}


async def test_requests_per_minute_hold_in_any_sixty_seconds(house: House) -> None:
    guard = await house.guard(QuotaSettings(requests_per_minute=3))
    house.clock.advance(59.0)
    for _ in range(3):
        await guard.release(await ask(guard))
    # The next minute of the clock has begun; the last sixty seconds are still full.
    house.clock.advance(2.0)
    with pytest.raises(RateLimitError) as refused:
        await ask(guard)
    assert refused.value.retry_after == pytest.approx(58.0)  # pyright: ignore[reportUnknownMemberType]
    house.clock.advance(57.999)
    with pytest.raises(RateLimitError):
        await ask(guard)
    house.clock.advance(0.001)
    await ask(guard)


async def test_retry_after_leads_to_the_first_request_that_leaves_the_window(house: House) -> None:
    guard = await house.guard(QuotaSettings(requests_per_minute=2))
    await ask(guard)
    house.clock.advance(25.0)
    await ask(guard)
    with pytest.raises(RateLimitError) as refused:
        await ask(guard)
    assert refused.value.retry_after == pytest.approx(35.0)  # pyright: ignore[reportUnknownMemberType]
    house.clock.advance(35.0)
    reservation = await ask(guard)
    assert next(s.remaining for s in reservation.limits if s.kind == "requests_per_minute") == 0


async def test_concurrency_counts_calls_in_flight(house: House) -> None:
    guard = await house.guard(QuotaSettings(concurrency=2))
    first, _ = await ask(guard), await ask(guard)
    with pytest.raises(ConcurrencyLimitError) as refused:
        await ask(guard)
    assert refused.value.retry_after is not None
    await guard.settle(first, used(1))
    await ask(guard)


async def test_a_limit_of_zero_is_off_and_writes_nothing(house: House) -> None:
    guard = await house.guard(QuotaSettings(tokens_per_day=0))
    reservation = await ask(guard, tokens=10**6, answer=None)
    assert reservation.limits == ()
    assert reservation.holds == ()
    assert (await guard.settle(reservation, used(10**6))).recorded
    assert await guard.snapshot(ALICE) == ()


async def test_a_reservation_settles_into_the_day_in_which_it_was_made(house: House) -> None:
    guard = await house.guard(TOKENS_1000)
    reservation = await ask(guard, tokens=800)
    house.clock.advance(43_200)
    await guard.settle(reservation, used(800))
    assert await amounts(guard) == {"tokens_per_day/user": (0, 0)}
    await ask(guard, tokens=1_000)
    house.clock.wall = NOON
    assert await amounts(guard) == {"tokens_per_day/user": (800, 0)}


async def test_the_day_begins_in_the_configured_timezone(house: House) -> None:
    guard = await house.guard(QuotaSettings(tokens_per_day=1_000, timezone="Asia/Shanghai"))
    reservation = await ask(guard)
    # Noon in UTC is eight in the evening there.
    assert reservation.limits[0].reset_at == NOON + 4 * 3_600


async def test_two_processes_see_one_limit(house: House) -> None:
    one, two = await house.guard(TOKENS_1000), await house.guard(TOKENS_1000)
    await ask(one, tokens=600)
    with pytest.raises(RateLimitError):
        await ask(two, tokens=401)
    await ask(two, tokens=400)
    assert await amounts(one) == await amounts(two) == {"tokens_per_day/user": (0, 1_000)}


async def test_many_callers_at_once_get_exactly_what_fits(house: House) -> None:
    guards = [await house.guard(TOKENS_1000) for _ in range(2)]

    async def one(index: int) -> bool:
        try:
            await ask(guards[index % 2], tokens=30)
        except RateLimitError:
            return False
        return True

    granted = await asyncio.gather(*(one(i) for i in range(200)))
    assert sum(granted) == 33


@pytest.mark.parametrize(
    ("prompt", "answer", "choices", "param"),
    [
        (0, 32_769, 1, "max_tokens"),
        (0, -1, 1, "max_tokens"),
        (0, 1, 0, "n"),
        (0, 1, 129, "n"),
        (-1, 1, 1, "messages"),
    ],
)
async def test_amounts_out_of_range_are_the_callers_mistake(
    house: House, prompt: int, answer: int, choices: int, param: str
) -> None:
    guard = await house.guard()
    with pytest.raises(InvalidRequestError) as refused:
        await guard.reserve(ALICE, model="m", prompt_tokens=prompt, max_output_tokens=answer, choices=choices)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "name", ["", "a" * 5_000, "星火/用户", "\ud800", "x\x00y", "tokens_per_day:2026-01-01:user:bob", "#"]
)
async def test_any_user_name_has_a_quota_of_its_own(house: House, name: str) -> None:
    guard = await house.guard(TOKENS_1000)
    await ask(guard, Principal(name), 900)
    await ask(guard, BOB, 900)
    with pytest.raises(RateLimitError):
        await ask(guard, Principal(name), 101)


async def test_absurd_usage_is_clamped_and_the_store_survives(house: House) -> None:
    guard = await house.guard(TOKENS_1000)
    for usage in (Usage(10**30, 10**30), Usage(-5, -5)):
        settlement = await guard.settle(await ask(guard, BOB if usage.prompt_tokens < 0 else ALICE, 1), usage)
        assert settlement.recorded
    assert (await amounts(guard, BOB))["tokens_per_day/user"] == (0, 0)
    with pytest.raises(QuotaExceededError):
        await ask(guard, ALICE, 1)


async def test_ready_says_yes_when_the_store_takes_writes(house: House) -> None:
    guard = await house.guard()
    await guard.ready()
