"""What crosses the gateway in headers, in both directions, and what never does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support.gateway import InProcessGateway, calls, gateway
from tests.support.upstream import ScriptedUpstream

from sparkle.server.keys import KEYS_FILE, KeyStore


async def test_set_cookie_and_the_upstreams_other_headers_stay_behind(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    sent = {
        "Set-Cookie": "session=1; Path=/",
        "Server": "upstream/1",
        "x-request-id": "theirs",
        "X-Secret": "s",
    }
    up.answer("ok", headers=sent)
    for stream in (False, True):
        answer = await gw.chat(stream=stream)
        assert answer.status == 200
        assert not {"set-cookie", "server", "x-secret"} & {name.lower() for name in answer.headers}
        assert answer.headers["x-request-id"].startswith("req_")


async def test_a_failing_upstreams_cookies_stay_behind_too(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    for status in (400, 429, 500):
        up.fail(status, headers={"set-cookie": "a=b"})
        assert "set-cookie" not in (await gw.chat()).headers


async def test_the_callers_credentials_and_cookies_never_go_upstream(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    _, key = KeyStore(tmp_path / KEYS_FILE).create("eve")
    headers = {
        "authorization": f"Bearer {key}",
        "cookie": "me=1",
        "x-api-key": "k",
        "x-forwarded-for": "1.2.3.4",
    }
    async with gateway(tmp_path, upstream=up.url) as gw:
        for stream in (False, True):
            assert (await gw.chat(stream=stream, headers=headers)).status == 200
        body = {"model": "e", "input": "x"}
        assert (await gw.post("/v1/embeddings", body, headers=headers)).status == 200
    for request in calls(up):
        assert not {"authorization", "cookie", "x-api-key", "x-forwarded-for"} & set(request.headers)
        assert key.encode() not in request.body


async def test_the_configured_key_goes_upstream_and_to_nobody_else(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    upstreams = [{"name": "main", "base_url": up.url, "api_key": "sk-upstream-1234567890"}]
    up.fail(401, message="bad key sk-upstream-1234567890", times=1)
    up.fail(400, message="bad request with sk-upstream-1234567890", times=1)
    up.answer("ok")
    async with gateway(tmp_path, upstream="", provider={"upstreams": upstreams}) as gw:
        answers = [
            await gw.chat(),
            await gw.chat(),
            await gw.chat(),
            await gw.get("/readyz"),
            await gw.get("/metrics"),
        ]
    assert [answer.status for answer in answers] == [502, 400, 200, 200, 200]
    assert all(r.headers["authorization"] == "Bearer sk-upstream-1234567890" for r in calls(up))
    assert not any(b"sk-upstream" in answer.body for answer in answers)


async def test_a_trace_goes_on_upstream_and_begins_where_there_is_none(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await gw.chat(headers={"traceparent": given})
    await gw.chat(stream=True, headers={"traceparent": given})
    await gw.chat()
    await gw.chat(headers={"traceparent": "nonsense"})
    traces = [request.headers["traceparent"] for request in calls(up)]
    assert [trace.split("-")[1] for trace in traces[:2]] == ["0af7651916cd43dd8448eb211c80319c"] * 2
    for trace in traces[2:]:
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", trace)
    assert len(set(traces[2:])) == 2


async def test_the_callers_request_id_is_kept_if_it_is_one(gw: InProcessGateway) -> None:
    mine = await gw.chat(headers={"x-request-id": "job-17:3"})
    assert mine.headers["x-request-id"] == "job-17:3"
    for bad in ("a b", "x" * 129, 'x"y', "é"):
        answer = await gw.chat(headers={"x-request-id": bad})
        assert answer.headers["x-request-id"].startswith("req_")
    refused = await gw.post("/v1/chat/completions", {}, headers={"x-request-id": "job-18"})
    assert refused.headers["x-request-id"] == "job-18"
    assert (await gw.get("/v1/nothing", headers={"x-request-id": "job-19"})).headers[
        "x-request-id"
    ] == "job-19"


@pytest.mark.parametrize("stream", [False, True])
async def test_limits_are_told_in_the_headers_of_an_answer(
    tmp_path: Path, up: ScriptedUpstream, stream: bool
) -> None:
    limits = {"tokens_per_day": 1000, "requests_per_minute": 9}
    async with gateway(tmp_path, upstream=up.url, quota=limits) as gw:
        headers = (await gw.chat(stream=stream)).headers
    assert headers["x-ratelimit-limit-tokens"] == "1000"
    assert 950 < int(headers["x-ratelimit-remaining-tokens"]) < 1000 - 16
    assert headers["x-ratelimit-limit-requests"] == "9"
    assert headers["x-ratelimit-remaining-requests"] == "8"
    assert all(re.fullmatch(r"\d+s", headers[f"x-ratelimit-reset-{kind}"]) for kind in ("tokens", "requests"))


async def test_a_redaction_is_told_in_a_header_by_rule(gw: InProcessGateway, up: ScriptedUpstream) -> None:
    up.answer("Mail li.na@corp-mail.cn now")
    answer = await gw.chat()
    assert answer.text != "Mail li.na@corp-mail.cn now"
    assert re.fullmatch(r"redact; rules=[a-z0-9_.,]+", answer.headers["x-sparkle-output"])
    assert "x-sparkle-output" not in (await gw.get("/v1/models")).headers
