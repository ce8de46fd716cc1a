"""An upstream behind an HTTP proxy."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.providers import KEY, request, started
from tests.support.upstream import ScriptedUpstream

from sparkle.errors import ProviderError, ProviderTimeoutError
from sparkle.llm.providers import Upstream


def behind(proxy: ScriptedUpstream) -> Upstream:
    """An upstream that only the proxy can reach: requests to it arrive there with their absolute URL."""
    return Upstream(
        "far", "http://far.example/v1", api_key=KEY, proxy=f"http://user:hush@127.0.0.1:{proxy.port}"
    )


async def test_requests_go_through_the_proxy_with_key_and_proxy_credentials() -> None:
    async with ScriptedUpstream() as proxy, started(behind(proxy)) as h:
        proxy.answer(text="Hello")
        response = await h.router.chat(request(), headers={"traceparent": "00-1"})
        assert (response.status, response.upstream) == (200, "far")
        sent = proxy.requests[0]
        assert sent.path == "http://far.example/v1/chat/completions"
        assert sent.headers["authorization"] == f"Bearer {KEY}"
        assert sent.headers["traceparent"] == "00-1"
        assert sent.headers["content-type"] == "application/json"
        assert sent.headers["proxy-authorization"].startswith("Basic ")


async def test_streams_come_chunk_by_chunk_and_closing_cuts_them() -> None:
    gate = asyncio.Event()
    async with ScriptedUpstream() as proxy, started(behind(proxy)) as h:
        proxy.stream(["a", gate, "b"], times=1)
        stream = await h.router.stream(request())
        assert b'"a"' in await anext(stream)
        gate.set()
        assert len([payload async for payload in stream]) == 2
        proxy.stream(["a", asyncio.Event()], times=1)
        async with await h.router.stream(request()) as second:
            await anext(second)
        await proxy.requests[1].closed.wait()


async def test_models_are_listed_through_the_proxy() -> None:
    async with ScriptedUpstream() as proxy, started(behind(proxy)) as h:
        assert [model["id"] for model in await h.router.models()] == ["gpt-test"]


async def test_a_proxy_that_is_down_fails_without_naming_it() -> None:
    async with ScriptedUpstream() as proxy:
        upstream = behind(proxy)
    async with started(upstream, max_retries=1) as h:
        with pytest.raises(ProviderError) as caught:
            await h.ask()
        assert "hush" not in caught.value.message
        assert "127.0.0.1" not in caught.value.message
        assert h.outcomes == ["connect", "connect"]


async def test_silence_and_resets_mean_the_same_as_without_a_proxy() -> None:
    async with (
        ScriptedUpstream() as proxy,
        started(behind(proxy), first_byte_timeout=0.05, max_retries=0) as h,
    ):
        proxy.hang()
        with pytest.raises(ProviderTimeoutError):
            await h.ask()
        await proxy.requests[0].closed.wait()
        proxy.reset(times=2)
        with pytest.raises(ProviderError, match="ended before the answer"):
            await h.ask()
        proxy.clear()
        proxy.reset(after=b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"id')
        with pytest.raises(ProviderError, match="in the middle"):
            await h.ask()


async def test_a_redirect_through_a_proxy_is_not_followed() -> None:
    async with ScriptedUpstream() as proxy, started(behind(proxy)) as h:
        proxy.fail(302, headers={"Location": "http://elsewhere.example/"})
        with pytest.raises(ProviderError, match="redirect"):
            await h.ask()
        assert len(proxy.requests) == 1
