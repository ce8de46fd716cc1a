"""The circuit of one upstream."""

from __future__ import annotations

import pytest
from tests.support.providers import SkippingClock

from sparkle.llm.providers.breaker import CircuitBreaker


@pytest.fixture
def clock() -> SkippingClock:
    return SkippingClock()


@pytest.fixture
def breaker(clock: SkippingClock) -> CircuitBreaker:
    return CircuitBreaker(failures=3, reset_seconds=10.0, clock=clock)


def enter(breaker: CircuitBreaker) -> int:
    permit = breaker.enter()
    assert permit is not None
    return permit


def trip(breaker: CircuitBreaker) -> None:
    while breaker.state == "closed":
        breaker.fail(enter(breaker))


def test_consecutive_failures_open_it(breaker: CircuitBreaker) -> None:
    for _ in range(2):
        breaker.fail(enter(breaker))
    assert breaker.state == "closed"
    breaker.fail(enter(breaker))
    assert breaker.state == "open"
    assert breaker.enter() is None
    assert breaker.wait() == 10.0


def test_a_success_between_failures_starts_the_count_anew(breaker: CircuitBreaker) -> None:
    for _ in range(5):
        breaker.fail(enter(breaker))
        breaker.fail(enter(breaker))
        breaker.succeed(enter(breaker))
    assert breaker.state == "closed"


def test_after_the_rest_a_single_probe_may_go(breaker: CircuitBreaker, clock: SkippingClock) -> None:
    trip(breaker)
    clock.advance(9.9)
    assert breaker.enter() is None
    clock.advance(0.1)
    permit = enter(breaker)
    assert breaker.state == "half_open"
    assert breaker.enter() is None
    breaker.succeed(permit)
    assert breaker.state == "closed"
    assert breaker.wait() == 0.0


def test_a_failed_probe_means_another_full_rest(breaker: CircuitBreaker, clock: SkippingClock) -> None:
    trip(breaker)
    clock.advance(10.0)
    breaker.fail(enter(breaker))
    assert breaker.wait() == 10.0
    assert breaker.enter() is None


def test_a_cancelled_probe_leaves_its_place_to_the_next_call(
    breaker: CircuitBreaker, clock: SkippingClock
) -> None:
    trip(breaker)
    clock.advance(10.0)
    breaker.release(enter(breaker))
    breaker.succeed(enter(breaker))
    assert breaker.state == "closed"


def test_an_answer_that_begins_closes_it_before_it_ends(
    breaker: CircuitBreaker, clock: SkippingClock
) -> None:
    trip(breaker)
    clock.advance(10.0)
    permit = breaker.answered(enter(breaker))
    assert breaker.state == "closed"
    breaker.fail(permit)
    assert breaker.state == "closed"  # one failure of three


def test_slow_calls_of_the_past_neither_close_nor_open_it(
    breaker: CircuitBreaker, clock: SkippingClock
) -> None:
    old = [enter(breaker) for _ in range(6)]
    trip(breaker)
    breaker.succeed(old[0])
    assert breaker.state == "open"
    clock.advance(10.0)
    probe = enter(breaker)
    for permit in old[1:4]:
        breaker.fail(permit)
    breaker.release(old[4])
    assert breaker.state == "half_open"
    breaker.succeed(probe)
    breaker.fail(old[5])
    assert breaker.state == "closed"


def test_who_listens_hears_of_each_change_once(clock: SkippingClock) -> None:
    heard: list[bool] = []
    breaker = CircuitBreaker(failures=2, reset_seconds=10.0, clock=clock, tell=heard.append)
    trip(breaker)
    for _ in range(3):  # probes that fail are no news
        clock.advance(10.0)
        breaker.fail(enter(breaker))
    clock.advance(10.0)
    breaker.release(enter(breaker))
    assert heard == [True]
    breaker.succeed(enter(breaker))
    breaker.succeed(enter(breaker))
    assert heard == [True, False]
