"""Whatever upstreams answer, a call ends: bounded attempts, bounded waits, and no circuit that stays shut for ever."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.providers import request, started
from tests.support.upstream import ScriptedUpstream

from sparkle.errors import ProviderError

ANSWERS = st.sampled_from(
    ["ok", "400", "401", "404", "408", "429", "429 wait", "500", "503 wait", "reset", "cut", "html"]
)


@dataclass(frozen=True, slots=True)
class Plan:
    scripts: list[list[str]]
    max_retries: int
    breaker_failures: int
    calls: int
    seed: int


plans = st.builds(
    Plan,
    scripts=st.lists(st.lists(ANSWERS, max_size=8), min_size=1, max_size=3),
    max_retries=st.integers(0, 3),
    breaker_failures=st.integers(1, 4),
    calls=st.integers(1, 4),
    seed=st.integers(0, 1000),
)


def write(script: list[str], up: ScriptedUpstream) -> None:
    for answer in script:
        match answer.split():
            case ["ok"]:
                up.answer(times=1)
            case ["reset"]:
                up.reset()
            case ["cut"]:
                up.reset(after=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
            case ["html"]:
                up.fail(200, body=b"<html>")
            case [status, "wait"]:
                up.fail(int(status), headers={"Retry-After": "3"})
            case [status]:
                up.fail(int(status))
            case _:
                raise AssertionError(answer)
    up.answer()


async def play(plan: Plan) -> None:
    ups = [ScriptedUpstream() for _ in plan.scripts]
    for up, script in zip(ups, plan.scripts, strict=True):
        write(script, up)
        await up.start()
    try:
        async with started(
            *(up.url for up in ups),
            seed=plan.seed,
            max_retries=plan.max_retries,
            breaker_failures=plan.breaker_failures,
            breaker_reset_seconds=10.0,
            retry_base_seconds=0.5,
            retry_max_seconds=4.0,
        ) as h:
            for _ in range(plan.calls):
                h.events.clear()
                try:
                    response = await h.ask()
                except ProviderError:
                    assert "ok" not in h.outcomes
                else:
                    assert h.outcomes[-1] == "ok"
                    assert response.attempts == len(h.events)
                assert [event.attempt for event in h.events] == list(range(1, len(h.events) + 1))
                # One more than the retries, and one for a connection that had gone stale.
                assert len(h.events) <= len(ups) * (plan.max_retries + 2)
            assert all(0 <= slept <= 4.0 for slept in h.clock.slept)
            # However it went, upstreams that are well again answer after their rest.
            for up in ups:
                up.clear()
            h.clock.advance(60)
            assert (await h.ask()).status == 200
            assert "half_open" not in h.router.circuits().values()
    finally:
        for up in ups:
            await up.close()


@settings(max_examples=80, deadline=None)
@given(plans)
def test_every_call_ends_within_its_bounds_and_no_circuit_stays_shut(plan: Plan) -> None:
    asyncio.run(play(plan))


@settings(max_examples=20, deadline=None)
@given(plans)
def test_the_same_holds_for_streams(plan: Plan) -> None:
    async def streams() -> None:
        async with ScriptedUpstream() as up:
            write(plan.scripts[0], up)
            async with started(
                up.url, max_retries=plan.max_retries, breaker_failures=plan.breaker_failures
            ) as h:
                for _ in range(plan.calls):
                    h.events.clear()
                    try:
                        async with await h.router.stream(request()) as stream:
                            assert [payload async for payload in stream]
                    except ProviderError:
                        assert "ok" not in h.outcomes
                    else:
                        assert h.outcomes[-1] == "ok"
                up.clear()
                h.clock.advance(60)
                async with await h.router.stream(request()) as stream:
                    assert [payload async for payload in stream]

    asyncio.run(streams())
