"""Retries, fallback, circuits and errors of the router, against real upstreams that follow a script."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.support.providers import KEY, request, started
from tests.support.upstream import ScriptedUpstream

from sparkle.errors import (
    CircuitOpenError,
    ProviderError,
    ProviderRateLimitError,
    ProviderRejectedError,
    ProviderTimeoutError,
)
from sparkle.llm.providers import Upstream


async def test_the_upstreams_answer_is_handed_on_byte_for_byte() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.answer(text="Hello there", headers={"x-request-id": "r1", "set-cookie": "a=b", "server": "x"})
        response = await h.ask("gpt-test")
        assert json.loads(response.body)["choices"][0]["message"]["content"] == "Hello there"
        assert (response.status, response.upstream, response.model, response.attempts) == (
            200,
            "up0",
            "gpt-test",
            1,
        )
        assert dict(response.headers) == {"content-type": "application/json", "x-request-id": "r1"}
        assert h.outcomes == ["ok"]


async def test_the_request_goes_up_as_it_is_with_our_key_and_not_the_callers() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        body = request("m", temperature=0.5, custom={"kept": [1, None]})
        headers = {
            "Authorization": "Bearer sk-sparkle-caller",
            "Cookie": "a=b",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "x-request-id": "evil\r\nX-Smuggled: 1",
            "Idempotency-Key": "k1",
        }
        await h.router.chat(body, headers=headers)
        sent = up.requests[0]
        assert sent.json == body
        assert sent.headers["authorization"] == f"Bearer {KEY}"
        assert sent.headers["traceparent"] == headers["traceparent"]
        assert sent.headers["idempotency-key"] == "k1"
        assert not {"cookie", "x-smuggled", "x-request-id"} & set(sent.headers)
        assert "sk-sparkle-caller" not in str(sent.headers)


async def test_an_upstream_without_a_key_gets_no_authorization_header() -> None:
    async with ScriptedUpstream() as up, started(Upstream("open", up.url)) as h:
        await h.router.chat(request(), headers={"authorization": "Bearer sk-sparkle-caller"})
        assert "authorization" not in up.requests[0].headers


async def test_a_whole_answer_is_asked_for_even_when_the_body_says_stream() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        await h.ask(stream=True, stream_options={"include_usage": True})
        assert not {"stream", "stream_options"} & set(up.requests[0].json)


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
async def test_failures_that_pass_are_retried_with_full_jitter(status: int) -> None:
    async with ScriptedUpstream() as up, started(up.url, max_retries=3, retry_base_seconds=1.0) as h:
        up.fail(status, times=3)
        response = await h.ask()
        assert response.attempts == 4
        assert len(h.clock.slept) == 3
        assert all(0 <= slept <= 2.0**n for n, slept in enumerate(h.clock.slept))
        assert len(set(h.clock.slept)) == 3
        assert [event.attempt for event in h.events] == [1, 2, 3, 4]


async def test_retries_end_at_their_number() -> None:
    async with ScriptedUpstream() as up, started(up.url, max_retries=2) as h:
        up.fail(503, times=None)
        with pytest.raises(ProviderError, match="answered 503"):
            await h.ask()
        assert len(up.requests) == 3
        assert h.outcomes == ["server_error"] * 3


async def test_the_wait_an_upstream_asks_for_is_kept_if_it_is_short() -> None:
    async with ScriptedUpstream() as up, started(up.url, retry_max_seconds=5.0) as h:
        up.fail(429, headers={"Retry-After": "4"})
        assert (await h.ask()).attempts == 2
        assert h.clock.slept == [4.0]


async def test_a_long_wait_is_the_callers_to_keep() -> None:
    async with ScriptedUpstream() as up, started(up.url, retry_max_seconds=5.0) as h:
        up.fail(429, headers={"Retry-After": "60"})
        with pytest.raises(ProviderRateLimitError) as caught:
            await h.ask()
        assert caught.value.retry_after == 60.0
        assert (len(up.requests), h.clock.slept) == (1, [])


async def test_a_used_up_quota_upstream_is_not_retried() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.fail(429, code="insufficient_quota", times=None)
        with pytest.raises(ProviderRateLimitError):
            await h.ask()
        assert len(up.requests) == 1


async def test_a_refused_request_is_neither_retried_nor_tried_elsewhere() -> None:
    async with ScriptedUpstream() as one, ScriptedUpstream() as two, started(one.url, two.url) as h:
        one.fail(400, message="too long", code="context_length_exceeded")
        with pytest.raises(ProviderRejectedError) as caught:
            await h.ask()
        assert caught.value.status == 400
        assert caught.value.body()["error"]["code"] == "context_length_exceeded"
        assert (len(one.requests), len(two.requests)) == (1, 0)


async def test_a_model_that_one_upstream_lacks_is_asked_of_the_next() -> None:
    async with ScriptedUpstream() as one, ScriptedUpstream() as two, started(one.url, two.url) as h:
        one.fail(404, message="no such model")
        assert (await h.ask()).upstream == "up1"


async def test_the_next_candidate_answers_when_the_first_fails_for_good() -> None:
    settings = {"fast": ("up0/big", "up1/small")}
    async with (
        ScriptedUpstream() as one,
        ScriptedUpstream() as two,
        started(one.url, two.url, aliases=settings, max_retries=1) as h,
    ):
        one.fail(500, times=None)
        response = await h.ask("fast")
        assert (response.upstream, response.model, response.attempts) == ("up1", "small", 3)
        assert [r.json["model"] for r in one.requests] == ["big", "big"]
        assert two.requests[0].json["model"] == "small"
        assert h.outcomes == ["server_error", "server_error", "ok"]


async def test_refused_credentials_let_the_next_candidate_answer() -> None:
    async with ScriptedUpstream() as one, ScriptedUpstream() as two, started(one.url, two.url) as h:
        one.fail(401, message=f"Incorrect API key: {KEY}")
        assert (await h.ask()).upstream == "up1"


async def test_an_upstream_that_is_down_is_retried_then_left() -> None:
    async with ScriptedUpstream() as gone:
        pass
    async with ScriptedUpstream() as two, started(gone.url, two.url, max_retries=2) as h:
        assert (await h.ask()).upstream == "up1"
        assert h.outcomes == ["connect", "connect", "connect", "ok"]


def local(up: ScriptedUpstream, patience: float = 10.0) -> Upstream:
    return Upstream("local", up.url, patience=patience, health_url=up.url)


async def test_an_upstream_that_is_being_started_again_is_waited_for_and_keeps_its_circuit() -> None:
    async with ScriptedUpstream() as up:
        pass
    async with started(local(up), max_retries=0, breaker_failures=1) as h:
        calls = [asyncio.create_task(h.ask()) for _ in range(5)]
        while len(h.events) < 5:  # noqa: ASYNC110  until each has found nobody there
            await asyncio.sleep(0)
        await up.start()
        assert [answer.attempts for answer in await asyncio.gather(*calls)] == [2] * 5
        assert h.router.circuits() == {"local": "closed"}
        await up.close()


async def test_the_wait_for_an_upstream_that_stays_away_ends() -> None:
    async with ScriptedUpstream() as up:
        pass
    async with started(local(up, patience=0.06), max_retries=0) as h:
        with pytest.raises(ProviderError, match="cannot connect"):
            await h.ask()
    async with started(local(up), max_retries=0) as h:
        with pytest.raises(ProviderError, match="cannot connect"):
            await h.router.chat(request(), deadline=h.clock.monotonic() + 0.06)


async def test_a_patient_upstream_that_is_up_but_fails_is_retried_like_any_other() -> None:
    async with ScriptedUpstream() as up, started(local(up), max_retries=2) as h:
        up.fail(503, times=2)
        assert (await h.ask()).attempts == 3
        assert len(h.clock.slept) == 2


async def test_a_stale_connection_is_replaced_at_once_and_is_no_retry() -> None:
    async with ScriptedUpstream() as up, started(up.url, max_retries=0) as h:
        await h.ask()
        up.reset()
        response = await h.ask()
        assert response.attempts == 2
        assert h.clock.slept == []


async def test_a_reset_of_a_fresh_connection_is_retried_once_because_it_may_be_paid_twice() -> None:
    async with ScriptedUpstream() as up, started(up.url, max_retries=5) as h:
        up.reset(times=None)
        with pytest.raises(ProviderError, match="ended before the answer"):
            await h.ask()
        assert len(up.requests) == 2


async def test_an_answer_that_broke_off_is_not_asked_for_again() -> None:
    async with ScriptedUpstream() as one, ScriptedUpstream() as two, started(one.url, two.url) as h:
        one.reset(after=b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"id')
        with pytest.raises(ProviderError, match="in the middle"):
            await h.ask()
        assert (len(one.requests), len(two.requests)) == (1, 0)


async def test_no_answer_in_time_goes_to_the_next_candidate_without_a_retry() -> None:
    async with (
        ScriptedUpstream() as one,
        ScriptedUpstream() as two,
        started(one.url, two.url, first_byte_timeout=0.05) as h,
    ):
        one.hang(times=None)
        assert (await h.ask()).upstream == "up1"
        assert h.outcomes == ["timeout", "ok"]


async def test_the_callers_deadline_holds_and_does_not_count_against_the_upstream() -> None:
    async with ScriptedUpstream() as up, started(up.url, breaker_failures=1) as h:
        up.hang(times=None)
        with pytest.raises(ProviderTimeoutError):
            await h.router.chat(request(), deadline=h.clock.monotonic() + 0.05)
        assert h.router.circuits() == {"up0": "closed"}
        with pytest.raises(ProviderTimeoutError):
            await h.router.chat(request(), deadline=h.clock.monotonic())
        assert len(up.requests) == 1


async def test_a_retry_that_cannot_fit_the_deadline_is_not_begun() -> None:
    async with ScriptedUpstream() as up, started(up.url, retry_max_seconds=60.0) as h:
        up.fail(503, headers={"Retry-After": "30"}, times=None)
        with pytest.raises(ProviderError) as caught:
            await h.router.chat(request(), deadline=h.clock.monotonic() + 20)
        assert caught.value.retry_after == 30.0
        assert len(up.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [b"<html>hello</html>", b"", b"[1]", b'{"id": ', b'"text"'],
    ids=["html", "empty", "list", "cut", "text"],
)
async def test_an_answer_that_is_no_json_object_is_an_error(answer: bytes) -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.fail(200, body=answer)
        with pytest.raises(ProviderError, match="not a JSON object"):
            await h.ask()
        assert len(up.requests) == 1


async def test_an_error_that_comes_with_200_is_an_error() -> None:
    async with ScriptedUpstream() as up, started(up.url, max_retries=1) as h:
        up.fail(200, body=b'{"error": {"message": "overloaded", "code": 503}}', times=1)
        assert (await h.ask()).attempts == 2


async def test_a_redirect_is_not_followed() -> None:
    async with ScriptedUpstream() as up, ScriptedUpstream() as thief, started(up.url) as h:
        up.fail(307, headers={"Location": thief.url + "/chat/completions"})
        with pytest.raises(ProviderError, match="redirect"):
            await h.ask()
        assert thief.requests == []


async def test_a_circuit_opens_rests_probes_and_closes() -> None:
    async with (
        ScriptedUpstream() as up,
        started(up.url, breaker_failures=3, breaker_reset_seconds=10.0, max_retries=0) as h,
    ):
        up.fail(500, times=3)
        for _ in range(3):
            with pytest.raises(ProviderError):
                await h.ask()
        assert h.router.circuits() == {"up0": "open"}
        with pytest.raises(CircuitOpenError) as caught:
            await h.ask()
        assert caught.value.retry_after == 10.0
        with pytest.raises(ProviderError, match="no upstream is usable"):
            await h.router.ready()
        assert len(up.requests) == 3
        h.clock.advance(10.0)
        await h.router.ready()
        assert (await h.ask()).attempts == 1
        assert h.router.circuits() == {"up0": "closed"}
        assert h.outcomes == ["server_error"] * 3 + ["circuit_open", "ok"]


async def test_only_one_call_probes_a_half_open_circuit() -> None:
    async with ScriptedUpstream() as up, started(up.url, breaker_failures=1, max_retries=0) as h:
        up.fail(500)
        with pytest.raises(ProviderError):
            await h.ask()
        h.clock.advance(60)
        gate = asyncio.Event()
        up.answer(gate=gate)
        probe = asyncio.create_task(h.ask())
        await up.wait_for_requests(2)
        with pytest.raises(CircuitOpenError):
            await h.ask()
        gate.set()
        assert (await probe).status == 200


async def test_a_cancelled_probe_does_not_keep_the_circuit_shut() -> None:
    async with ScriptedUpstream() as up, started(up.url, breaker_failures=1, max_retries=0) as h:
        up.fail(500)
        with pytest.raises(ProviderError):
            await h.ask()
        h.clock.advance(60)
        up.hang()
        probe = asyncio.create_task(h.ask())
        await up.wait_for_requests(2)
        probe.cancel()
        await up.requests[1].closed.wait()
        assert (await h.ask()).status == 200


async def test_while_one_upstream_rests_the_next_answers() -> None:
    async with (
        ScriptedUpstream() as one,
        ScriptedUpstream() as two,
        started(one.url, two.url, breaker_failures=1, max_retries=0) as h,
    ):
        one.fail(500, times=None)
        await h.ask()
        h.events.clear()
        assert (await h.ask()).upstream == "up1"
        assert h.outcomes == ["circuit_open", "ok"]
        assert len(one.requests) == 1


async def test_client_errors_and_cancellation_do_not_open_the_circuit() -> None:
    async with ScriptedUpstream() as up, started(up.url, breaker_failures=1, max_retries=0) as h:
        for status in (400, 422, 429):
            up.fail(status)
            with pytest.raises(ProviderError):
                await h.ask()
        up.hang()
        task = asyncio.create_task(h.ask())
        await up.wait_for_requests(4)
        task.cancel()
        await up.requests[3].closed.wait()
        assert h.router.circuits() == {"up0": "closed"}


async def test_when_all_fail_the_error_is_what_really_happened_not_that_another_rests() -> None:
    async with (
        ScriptedUpstream() as one,
        ScriptedUpstream() as two,
        started(one.url, two.url, breaker_failures=2, max_retries=0) as h,
    ):
        one.fail(503, times=None)
        two.fail(500, times=1)
        two.fail(429, headers={"Retry-After": "99"}, times=None)
        with pytest.raises(ProviderError, match="'up1' answered 500"):
            await h.ask()
        with pytest.raises(ProviderRateLimitError, match="'up1'"):
            await h.ask()
        with pytest.raises(ProviderRateLimitError, match="'up1'"):
            await h.ask()
