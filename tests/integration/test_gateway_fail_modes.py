"""A guard that itself crashes: the policy says whether the door then stands open or closed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from tests.support.gateway import calls, gateway, spoken, user
from tests.support.upstream import ScriptedUpstream

from sparkle.llm.output import OutputStream, OutputValidator
from sparkle.llm.safety import LLMSafety

SECRET = "qz-what-was-being-read"


def crash(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError(SECRET)


def break_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LLMSafety, "check_messages", crash)


def break_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutputValidator, "check_text", crash)
    monkeypatch.setattr(OutputStream, "feed", crash)


def policy_file(folder: Path, layer: str, mode: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(f"{layer}: {{on_error: {mode}}}")
    return path


@pytest.mark.parametrize("stream", [False, True])
async def test_a_crashed_input_guard_refuses_by_default_and_calls_nobody(
    tmp_path: Path,
    up: ScriptedUpstream,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stream: bool,
) -> None:
    async with gateway(tmp_path, upstream=up.url) as gw:
        break_input(monkeypatch)
        answer = await gw.chat(stream=stream)
        assert (answer.status, answer.error["code"]) == (500, "guard_failed")
        assert answer.headers["x-should-retry"] == "false"
        assert await gw.metric("sparkle_guard_errors_total", layer="input", failed="closed") == 1
        assert (await gw.tokens_used()) == (0, 0)
    assert not calls(up)
    assert SECRET not in caplog.text
    assert SECRET not in answer.body.decode()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_crashed_input_guard_lets_through_where_the_policy_says_open(
    tmp_path: Path, up: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    async with gateway(tmp_path, upstream=up.url, policy=policy_file(tmp_path, "input", "open")) as gw:
        break_input(monkeypatch)
        assert (await gw.chat(stream=stream)).status == 200
        assert await gw.metric("sparkle_guard_errors_total", layer="input", failed="open") == 1


async def test_a_crashed_output_guard_withholds_the_answer_and_charges_it(
    tmp_path: Path, up: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    up.answer("A private answer.", usage=(5, 4))
    async with gateway(tmp_path, upstream=up.url) as gw:
        break_output(monkeypatch)
        whole = await gw.chat()
        assert (whole.status, whole.error["code"]) == (500, "guard_failed")
        assert (await gw.tokens_used()) == (9, 0)
        stream = await gw.chat(stream=True)
        assert stream.chunks[-1]["error"]["code"] == "guard_failed"
        assert stream.events[-1] != b"[DONE]"
        outcomes = [record["outcome"] for record in await gw.audit()]
        assert (await gw.tokens_used())[1] == 0
    assert outcomes == ["error", "error"]
    for answer in (whole, stream):
        assert b"private" not in answer.body
    assert SECRET not in caplog.text


async def test_a_crashed_output_guard_passes_the_answer_where_the_policy_says_open(
    tmp_path: Path, up: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    up.answer("A plain answer.", usage=(5, 4))
    async with gateway(tmp_path, upstream=up.url, policy=policy_file(tmp_path, "output", "open")) as gw:
        break_output(monkeypatch)
        assert (await gw.chat()).text == "A plain answer."
        stream = await gw.chat(stream=True)
        assert spoken(stream.chunks) == "A plain answer."
        assert stream.events[-1] == b"[DONE]"


async def test_the_sdk_does_not_repeat_a_call_whose_guard_crashed(
    tmp_path: Path, up: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        gateway(tmp_path, upstream=up.url) as gw,
        openai.AsyncOpenAI(base_url=gw.url + "/v1", api_key="any") as client,
    ):
        break_output(monkeypatch)
        messages: Any = user("Hi")
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="gpt-test", messages=messages)
    assert caught.value.code == "guard_failed"
    assert len(calls(up)) == 1
