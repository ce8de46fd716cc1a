"""The upstream key turns up in nothing that leaves the provider: errors, their chains, events, reprs, logs, headers."""

from __future__ import annotations

import logging
import traceback

import pytest
from tests.support.providers import KEY, request, started
from tests.support.upstream import ScriptedUpstream, Step

from sparkle.errors import SparkleError
from sparkle.llm.providers import Upstream, build_router
from sparkle.settings import ProviderSettings, UpstreamSettings

TELLING = f"your key {KEY} / Bearer {KEY} is not welcome"


def blabbing(status: int) -> Step:
    body = b'{"error": {"message": "%s", "code": "%s", "param": "%s"}}' % ((TELLING.encode(),) * 3)
    return Step("fail", status=status, body=body)


MISHAPS = {
    **{str(status): blabbing(status) for status in (200, 302, 400, 401, 403, 404, 422, 429, 500, 503)},
    "reset": Step("reset"),
    "cut": Step("reset", body=b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + TELLING.encode()),
    "garbage": Step("raw", body=TELLING.encode() + b"\r\n\r\n"),
    "html": Step("fail", status=200, body=f"<html>{TELLING}</html>".encode()),
    "error event": Step(pieces=(b'data: {"error": {"message": "%s"}}\n\n' % TELLING.encode(),)),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("mishap", MISHAPS)
async def test_no_mishap_shows_the_key(
    mishap: str, streaming: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with ScriptedUpstream() as up, started(up.url, max_retries=1) as h:
        up.respond(lambda _: MISHAPS[mishap])
        try:
            if streaming:
                async with await h.router.stream(request()) as stream:
                    shown = [repr(payload) async for payload in stream]
            else:
                shown = [repr((await h.ask()).headers)]
        except SparkleError as exc:
            shown = [*traceback.format_exception(exc), str(exc.body()), repr(exc), str(exc.details)]
        shown += [repr(h.events), repr(h.router), caplog.text]
        assert not [text for text in shown if KEY in text]


def test_no_object_shows_the_key() -> None:
    one = UpstreamSettings(name="a", base_url="http://a.example/v1", api_key=KEY)
    router = build_router(ProviderSettings(upstreams=(one,)), environ={})
    upstream = Upstream("a", "http://a.example/v1", api_key=KEY)
    assert KEY not in f"{router!r} {upstream!r} {upstream} {one!r}"


async def test_a_single_upstream_takes_the_key_of_the_usual_variable() -> None:
    async with ScriptedUpstream() as up:
        router = build_router(ProviderSettings(upstream=up.url), environ={"OPENAI_API_KEY": KEY})
        await router.start()
        try:
            response = await router.chat(request())
        finally:
            await router.close()
        assert response.upstream == "default"
        assert up.requests[0].headers["authorization"] == f"Bearer {KEY}"
