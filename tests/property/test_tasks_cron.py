"""A cron rule against the plainest reading of it: look at every minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparkle.tasks.cron import Cron, Interval

ZONES = ("UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
MINUTE = timedelta(minutes=1)


def part(least: int, most: int) -> st.SearchStrategy[str]:
    number = st.integers(least, most)
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    step = st.integers(1, most).map(lambda every: f"*/{every}")
    return st.one_of(
        st.just("*"), number.map(str), span, step, st.lists(number.map(str), min_size=2).map(",".join)
    )


rules = st.tuples(part(0, 59), part(0, 23), part(1, 28), part(1, 12), part(0, 7)).map(" ".join)
moments = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))


def matches(cron: Cron, moment: datetime) -> bool:
    local = moment.astimezone(cron.zone)
    day = local.day in cron.days
    weekday = (local.weekday() + 1) % 7 in cron.weekdays
    both = cron.any_day or cron.any_weekday
    return (
        local.minute in cron.minutes
        and local.hour in cron.hours
        and local.month in cron.months
        and (day and weekday if both else day or weekday)
    )


@given(rules, moments)
@settings(max_examples=100, deadline=None)
def test_in_utc_the_next_tick_is_the_first_minute_that_matches(rule: str, moment: datetime) -> None:
    cron = Cron.parse(rule, UTC)
    tick = cron.next_after(moment)
    assert tick > moment
    assert matches(cron, tick)
    time = moment.replace(second=0, microsecond=0) + MINUTE
    assume(tick - time < timedelta(days=3))
    while time < tick:
        assert not matches(cron, time)
        time += MINUTE


@given(st.integers(0, 23), st.integers(0, 59), st.sampled_from(ZONES), moments)
@settings(max_examples=100, deadline=None)
def test_a_daily_rule_fires_once_a_day_in_every_zone(
    hour: int, minute: int, zone: str, moment: datetime
) -> None:
    cron = Cron.parse(f"{minute} {hour} * * *", ZoneInfo(zone))
    ticks = [cron.next_after(moment)]
    for _ in range(5):
        ticks.append(cron.next_after(ticks[-1]))
    days = [tick.astimezone(cron.zone).date() for tick in ticks]
    assert days == [days[0] + timedelta(days=number) for number in range(6)]


@given(st.sampled_from(ZONES), moments)
@settings(max_examples=50, deadline=None)
def test_a_rule_for_every_minute_never_pauses(zone: str, moment: datetime) -> None:
    tick = Cron.parse("* * * * *", ZoneInfo(zone)).next_after(moment)
    assert timedelta() < tick - moment <= MINUTE


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("rule", "after", "expected"),
    [
        # 29 March 2026, 02:00 becomes 03:00: 02:30 does not exist and is due when the clocks jump.
        ("30 2 * * *", "2026-03-29T00:00+00:00", "2026-03-29T01:00+00:00"),
        ("30 2 * * *", "2026-03-29T01:00+00:00", "2026-03-30T00:30+00:00"),
        # 25 October 2026, 03:00 becomes 02:00: 02:30 comes twice and is due the first time.
        ("30 2 * * *", "2026-10-25T00:00+00:00", "2026-10-25T00:30+00:00"),
        ("30 2 * * *", "2026-10-25T00:30+00:00", "2026-10-26T01:30+00:00"),
        # Every hour goes on through both.
        ("30 * * * *", "2026-10-25T00:30+00:00", "2026-10-25T01:30+00:00"),
        ("0 0 29 2 *", "2026-03-01T00:00+00:00", "2028-02-28T23:00+00:00"),
        ("0 9 * * mon-fri", "2026-11-27T09:00+00:00", "2026-11-30T08:00+00:00"),
        ("0 0 13 * fri", "2026-11-23T00:00+00:00", "2026-11-26T23:00+00:00"),
        ("0 0 1 jan *", "2026-11-23T00:00+00:00", "2026-12-31T23:00+00:00"),
        ("@weekly", "2026-11-23T00:00+00:00", "2026-11-28T23:00+00:00"),
    ],
)
def test_days_on_which_the_clocks_change_and_names(rule: str, after: str, expected: str) -> None:
    cron = Cron.parse(rule, BERLIN)
    assert cron.next_after(datetime.fromisoformat(after)) == datetime.fromisoformat(expected)


@given(rules, moments, st.integers(1, 3 * 24 * 60))
@settings(max_examples=50, deadline=None)
def test_the_latest_tick_is_the_last_of_all(rule: str, moment: datetime, minutes: int) -> None:
    cron = Cron.parse(rule, UTC)
    until = moment + timedelta(minutes=minutes)
    last: datetime | None = None
    tick = cron.next_after(moment)
    while tick <= until:
        last, tick = tick, cron.next_after(tick)
    assert cron.latest_until(moment, until) == last


@given(st.integers(1, 10_000), moments)
def test_interval_ticks_are_evenly_spaced_and_do_not_depend_on_when_one_looks(
    every: int, moment: datetime
) -> None:
    interval = Interval(every)
    tick = interval.next_after(moment)
    assert timedelta() < tick - moment <= timedelta(seconds=every)
    assert interval.next_after(tick) - tick == timedelta(seconds=every)
    assert interval.latest_until(moment, tick) == tick
    assert interval.latest_until(tick, tick) is None
    assert tick.timestamp() % every == 0
