"""A refusal is told in an order and in words that help."""

from __future__ import annotations

import pytest
from tests.support.quota import ALICE, NOON

from sparkle.errors import ConfigurationError
from sparkle.llm.quota.limits import LimitBook, refusal
from sparkle.llm.quota.ops import Refused
from sparkle.llm.usage import Principal
from sparkle.settings import QuotaSettings, ScopeLimits

ALL = ScopeLimits(tokens_per_day=1, requests_per_minute=1, concurrency=1, usd_per_day=1, usd_per_month=1)
EVERYTHING = QuotaSettings(
    tokens_per_day=1,
    requests_per_minute=1,
    concurrency=1,
    usd_per_day=1,
    usd_per_month=1,
    team=ALL,
    key=ALL,
    total=ALL,
)


def test_limits_are_checked_from_the_longest_lasting_to_the_shortest_and_from_the_user_outwards() -> None:
    plan = LimitBook(EVERYTHING).plan(ALICE, NOON)
    assert [(limit.kind, limit.scope) for limit in plan.limits] == [
        (kind, scope)
        for kind in ("usd_per_month", "usd_per_day", "tokens_per_day", "requests_per_minute", "concurrency")
        for scope in ("user", "key", "team", "total")
    ]


def test_every_limit_of_every_caller_has_a_meter_of_its_own() -> None:
    book = LimitBook(EVERYTHING)
    people = [Principal(u, team=t, key_id=k) for u in ("a", "b") for t in ("a", "b") for k in ("a", "b")]
    keys = {charge.key for who in people for charge in book.plan(who, NOON).charges}
    assert len(keys) == 5 * (2 + 2 + 2 + 1)


def test_a_plan_is_made_anew_when_the_day_ends() -> None:
    book = LimitBook(QuotaSettings(usd_per_month=1))
    today = book.plan(ALICE, NOON)
    assert book.plan(ALICE, NOON + 43_199) is today
    tomorrow = book.plan(ALICE, NOON + 43_200)
    assert tomorrow.charges[1].key != today.charges[1].key
    assert tomorrow.charges[0].key == today.charges[0].key
    assert book.plan(ALICE, NOON).charges == today.charges


def test_names_from_callers_do_not_fill_the_memory() -> None:
    book = LimitBook(QuotaSettings())
    for number in range(10_000):
        book.plan(Principal(f"user-{number}"), NOON)
    plans: dict[object, object] = book._plans  # pyright: ignore[reportPrivateUsage, reportAssignmentType]
    assert len(plans) <= 4_096


def test_a_limit_below_what_can_be_counted_still_is_a_limit() -> None:
    plan = LimitBook(QuotaSettings(tokens_per_day=0, usd_per_day=1e-12)).plan(ALICE, NOON)
    assert [charge.limit for charge in plan.charges] == [1]


def test_a_limit_too_large_to_be_exact_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="usd_per_day"):
        LimitBook(QuotaSettings(usd_per_day=1e8))


@pytest.mark.parametrize(
    ("settings", "refused", "wanted", "message"),
    [
        (
            QuotaSettings(),
            Refused(0, 100_000, 0, 0),
            50,
            "Daily token quota used up: 100,000 tokens of 100,000 tokens per user; resets at "
            "2065-01-25T00:00:00+00:00.",
        ),
        (
            QuotaSettings(timezone="Asia/Shanghai"),
            Refused(0, 99_990, 0, 0),
            50,
            "Daily token quota nearly used up: 99,990 tokens of 100,000 tokens per user, and this call may need 50 "
            "tokens; lower max_tokens or wait: resets at 2065-01-25T00:00:00+08:00.",
        ),
        (
            QuotaSettings(),
            Refused(0, 10, 0, 0),
            100_001,
            "This call may need 100,001 tokens, more than the daily token quota of 100,000 tokens per user; lower "
            "max_tokens.",
        ),
        (
            QuotaSettings(),
            Refused(0, 10, 99_980, 0),
            50,
            "Daily token quota per user: 10 tokens of 100,000 tokens used, 99,980 tokens held by calls that are still "
            "running; this call may need 50 tokens. Retry when they end; resets at 2065-01-25T00:00:00+00:00.",
        ),
        (
            QuotaSettings(tokens_per_day=0, usd_per_month=5),
            Refused(0, 5 * 10**9, 0, 0),
            7,
            "Monthly budget used up: $5.0000 of $5.0000 per user; resets at 2065-02-01T00:00:00+00:00.",
        ),
        (
            QuotaSettings(tokens_per_day=0, total=ScopeLimits(requests_per_minute=2_000)),
            Refused(0, 2_000, 0, int((NOON + 12.34) * 1_000)),
            1,
            "Rate limit reached: 2,000 requests per minute in total; retry in 12.3 s.",
        ),
        (
            QuotaSettings(tokens_per_day=0, key=ScopeLimits(concurrency=8)),
            Refused(0, 0, 8, 0),
            1,
            "Concurrency limit reached: 8 of 8 calls at the same time per API key are running.",
        ),
    ],
)
def test_a_refusal_says_what_is_used_up_and_what_helps(
    settings: QuotaSettings, refused: Refused, wanted: int, message: str
) -> None:
    book = LimitBook(settings)
    error = refusal(book.plan(ALICE, NOON), refused, wanted, NOON, book.calendar)
    assert error.message == message
    assert error.retry_after is not None
    assert error.retry_after > 0
    assert error.http_status == 429
