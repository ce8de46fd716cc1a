"""The guard on a stream, seen from outside: nothing sensitive leaves, nothing else is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.gateway import InProcessGateway, calls, gateway, spoken
from tests.support.streams import DONE, Heard, body, choice, chunk, tool_delta
from tests.support.upstream import ScriptedUpstream

KEY = "sk-proj-" + "Tq7Wm2Zx9Lr4Vb8Np3Kd6Yf1Hs5Jc0Ga"
PHONE = "138" + "0013" + "8000"
MAIL = "li.na" + "@corp-mail.cn"
SYSTEM = (
    "You are Xinghuo, a patient tutor for university students. Never reveal the answer key of an exam before the "
    "student has tried. Always end with a question."
)


async def only_record(gw: InProcessGateway) -> dict[str, Any]:
    """The audit record of the one call made, once it has ended."""
    while not (records := await gw.audit()):  # noqa: ASYNC110  it ends on the server's side: no event to wait for
        await asyncio.sleep(0)
    (record,) = records
    return record


def pieces(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize("field", ["content", "reasoning_content", "reasoning", "refusal"])
async def test_a_secret_cut_anywhere_is_taken_out_of_every_text_field(
    gw: InProcessGateway, up: ScriptedUpstream, field: str, size: int
) -> None:
    text = f"The key is {KEY} and 电话是 {PHONE}。Done."
    up.stream(body((0, {field: piece}) for piece in pieces(text, size)))
    answer = await gw.chat(stream=True)
    heard = Heard(answer.chunks).text[0, field]
    assert heard.startswith("The key is ")
    assert heard.endswith("Done.")
    for secret in (KEY, KEY[8:20], PHONE, PHONE[3:9]):
        assert secret not in answer.body.decode()
    assert answer.events[-1] == b"[DONE]"


async def test_choices_are_guarded_apart(gw: InProcessGateway, up: ScriptedUpstream) -> None:
    half = len(KEY) // 2
    up.stream(
        body(
            [
                (0, {"content": KEY[:half]}),
                (1, {"content": "Hello "}),
                (0, {"content": KEY[half:]}),
                (1, {"content": "you."}),
            ]
        )
    )
    answer = await gw.chat(stream=True, n=2)
    heard = Heard(answer.chunks)
    assert heard.text[1, "content"] == "Hello you."
    assert KEY[:12] not in heard.text[0, "content"]
    assert heard.finish == {0: "stop", 1: "stop"}


async def test_tool_arguments_are_guarded_also_behind_escapes(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    escaped = "".join(f"\\u{ord(char):04x}" for char in MAIL)
    arguments = '{"to": "' + escaped + '", "text": "see ' + KEY + '"}'
    deltas = [(0, tool_delta("", name="send")), *((0, tool_delta(piece)) for piece in pieces(arguments, 5))]
    up.stream(body(deltas, finish="tool_calls"))
    answer = await gw.chat(stream=True)
    heard = Heard(answer.chunks)
    assert heard.names == {(0, 0): "send"}
    assert heard.finish == {0: "tool_calls"}
    decoded = json.loads(heard.arguments[0, 0])
    assert MAIL not in decoded["to"]
    assert KEY not in decoded["text"]
    assert decoded["text"].startswith("see ")


async def test_harmless_tool_arguments_arrive_as_they_were(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    arguments = '{"expression": "3 * (4 + 5)",  "n": 1e3, "unicode": "\\u5149"}'
    deltas = [
        (0, tool_delta("", name="calculate")),
        *((0, tool_delta(piece)) for piece in pieces(arguments, 4)),
    ]
    deltas += [(0, tool_delta("", index=1, name="other")), (0, tool_delta("{}", index=1))]
    up.stream(body(deltas, finish="tool_calls"))
    heard = Heard((await gw.chat(stream=True)).chunks)
    assert heard.arguments == {(0, 0): arguments, (0, 1): "{}"}


async def test_a_legacy_function_call_is_guarded_too(gw: InProcessGateway, up: ScriptedUpstream) -> None:
    parts = ['{"key": "', KEY[:10], KEY[10:], '"}']
    deltas: list[Any] = [(0, {"function_call": {"name": "save", "arguments": ""}})]
    deltas += [(0, {"function_call": {"arguments": part}}) for part in parts]
    up.stream(body(deltas, finish="function_call"))
    answer = await gw.chat(stream=True)
    assert KEY[10:20] not in answer.body.decode()
    assert set(json.loads(Heard(answer.chunks).arguments[0, -1])) == {"key"}


async def test_log_probabilities_do_not_spell_out_what_was_taken_out(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    def with_logprobs(text: str) -> bytes:
        token = {"token": text, "logprob": -0.1, "bytes": list(text.encode()), "top_logprobs": []}
        return chunk(choice({"content": text}, logprobs={"content": [token]}))

    texts = ["Light ", "is ", "fast. ", "Mail ", "li.", "na", "@corp-", "mail", ".cn", " now."]
    up.stream([*map(with_logprobs, texts), chunk(choice({}, finish="stop")), DONE])
    answer = await gw.chat(stream=True, logprobs=True)
    kept: list[Any] = [
        each["logprobs"] for one in answer.chunks for each in one["choices"] if each.get("logprobs")
    ]
    tokens = [token["token"] for logprobs in kept for token in logprobs["content"]]
    assert "corp" not in answer.body.decode()
    assert "Light " in tokens
    whole = {"role": "assistant", "content": f"Mail {MAIL}"}
    up.clear()
    up.answer(message=whole)
    assert "corp" not in (await gw.chat()).body.decode()


async def test_usage_in_every_chunk_or_beside_the_finish_is_understood(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    usage = {"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8}
    up.stream([chunk(choice({"content": "Hi you."}, finish="stop"), usage=usage), DONE])
    answer = await gw.chat(stream=True, user="kim")
    assert spoken(answer.chunks) == "Hi you."
    assert (await gw.tokens_used("kim")) == (8, 0)


async def test_held_text_leaves_even_if_the_upstream_gives_no_finish_reason(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    up.stream([chunk(choice({"content": "My number is 138"})), DONE])
    answer = await gw.chat(stream=True)
    assert spoken(answer.chunks) == "My number is 138"
    assert answer.events[-1] == b"[DONE]"


async def test_text_that_comes_with_the_finish_reason_is_guarded(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    up.stream([chunk(choice({"content": f"Call {PHONE}"}, finish="stop")), DONE])
    answer = await gw.chat(stream=True)
    assert PHONE not in answer.body.decode()
    assert Heard(answer.chunks).finish == {0: "stop"}


async def test_a_leaked_system_prompt_ends_the_stream_and_the_upstreams_call(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    held = asyncio.Event()
    up.stream(["My instructions are: ", *pieces(SYSTEM, 6), " And more", held])
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Who are you?"}]
    answer = await gw.chat(messages=messages, stream=True, max_tokens=500)
    assert answer.events[-1] == b"[DONE]"
    assert answer.chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert "answer key" not in spoken(answer.chunks)
    assert "And more" not in spoken(answer.chunks)
    await calls(up)[0].closed.wait()  # nobody pays for what would not be shown
    (record,) = await gw.audit()
    assert record["outcome"] == "output_blocked"
    assert record["usage"]["completion"] > 0


async def test_a_blocked_choice_leaves_the_other_one_running(tmp_path: Path, up: ScriptedUpstream) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("output: {rules: {pii.email: block}}")
    up.stream(
        body(
            [
                (0, {"content": f"It is {MAIL} ok"}),
                (1, {"content": "Still "}),
                (0, {"content": "more"}),
                (1, {"content": "here."}),
            ]
        )
    )
    async with gateway(tmp_path, upstream=up.url, policy=policy) as gw:
        answer = await gw.chat(stream=True, n=2)
    heard = Heard(answer.chunks)
    assert heard.finish == {0: "content_filter", 1: "stop"}
    assert heard.text[1, "content"] == "Still here."
    assert "more" not in heard.text[0, "content"]
    assert "corp" not in answer.body.decode()


async def test_a_canary_in_the_answer_blocks_it(tmp_path: Path, up: ScriptedUpstream) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("output: {canary: true}")
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    async with gateway(tmp_path, upstream=up.url, policy=policy) as gw:
        assert (await gw.chat(messages=messages)).status == 200
        sent = calls(up)[0].json["messages"]
        assert sent[0]["content"].startswith("Be kind.")
        assert sent[1] == messages[1]
        assert sent[0]["content"] != "Be kind."


async def test_a_client_that_hangs_up_is_charged_for_what_was_generated(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    up.stream(["one ", "two ", "three ", "four ", "five ", asyncio.Event(), "six"])
    async with gw.streaming("Count.", user="kim", max_tokens=500) as stream:
        heard = ""
        while "four" not in heard:
            heard += await stream.text()
        _, reserved = await gw.tokens_used("kim")
        assert reserved >= 500
    await calls(up)[0].closed.wait()
    record = await only_record(gw)
    assert record["outcome"] == "client_closed"
    used, reserved = await gw.tokens_used("kim")
    assert reserved == 0
    assert record["usage"]["completion"] >= 4
    assert used == record["usage"]["prompt"] + record["usage"]["completion"]


async def test_a_plain_call_whose_client_is_gone_runs_to_its_end_and_is_charged(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    gate = asyncio.Event()
    up.answer("All of it.", usage=(7, 3), gate=gate)
    call = asyncio.ensure_future(gw.chat(user="kim"))
    await up.wait_for_requests(2)  # the model list and the call
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    gate.set()
    await calls(up)[0].done.wait()
    assert (await only_record(gw))["outcome"] == "ok"
    assert (await gw.tokens_used("kim")) == (10, 0)


@pytest.mark.parametrize(
    "payload",
    [
        b"data: not json\n\n",
        b"data: [1]\n\n",
        b'data: {"choices": [3]}\n\n',
        b'data: {"choices": [{"index": -1, "delta": {}}]}\n\n',
    ],
)
async def test_nonsense_in_a_stream_is_an_error_event(
    gw: InProcessGateway, up: ScriptedUpstream, payload: bytes
) -> None:
    up.stream([chunk(choice({"content": "The "})), payload, DONE])
    answer = await gw.chat(stream=True)
    assert answer.chunks[-1]["error"]["code"] == "upstream_error"


async def test_the_first_word_does_not_wait_for_the_second(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    held = asyncio.Event()
    up.stream(["The", held, " gateway", " routes."])
    async with gw.streaming() as stream:
        assert await stream.text() == "The"  # would hang otherwise
        held.set()
        assert [payload async for payload in stream][-1] == b"[DONE]"


# Fields and shapes that OpenAI's own API does not have, but others do.

Shape = Callable[[str], dict[str, Any]]

SHAPES: dict[str, Shape] = {
    "parts": lambda text: {"content": [{"type": "text", "text": text}]},
    "nested parts": lambda text: {
        "content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]
    },
    "details": lambda text: {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": text}]},
    "plain field": lambda text: {"thinking": text},
    "transcript": lambda text: {"audio": {"id": "audio_1", "transcript": text}},
    "object for text": lambda text: {"reasoning": {"summary": text}},
    "lists in lists": lambda text: {"vendor": {"deep": [[{"note": text}]]}},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
async def test_text_in_a_field_nobody_knows_is_guarded_too(
    gw: InProcessGateway, up: ScriptedUpstream, shape: Shape
) -> None:
    text = f"The key is {KEY} and the phone is {PHONE} now."
    up.answer(message={"role": "assistant", "content": None, **shape(text)}, times=1)
    whole = await gw.chat()
    up.clear()
    up.stream(body((0, shape(piece)) for piece in pieces(text, 5)))
    stream = await gw.chat(stream=True)
    for answer in (whole, stream):
        assert answer.status == 200
        assert KEY[10:20] not in answer.body.decode()
        assert PHONE not in answer.body.decode()
    expected = gw.app.services.guards().output.check_text(text).text
    assert expected in whole.body.decode()
    assert "".join(strings(stream.chunks)) == expected


def strings(value: Any, key: str = "") -> list[str]:
    """All strings of a stream's deltas that are the model's text, in order."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        skip = {"id", "object", "model", "type", "role", "finish_reason"}
        return [text for k, v in items if k not in skip for text in strings(v, k)]
    if isinstance(value, list):
        return [text for item in cast("list[Any]", value) for text in strings(item, key)]
    return [value] if isinstance(value, str) else []


async def test_harmless_unknown_fields_arrive_as_they_were(
    gw: InProcessGateway, up: ScriptedUpstream
) -> None:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "See the page.",
        "annotations": [
            {"type": "url_citation", "url_citation": {"url": "https://example.org/a?b=1", "title": "A"}}
        ],
        "audio": {
            "id": "audio_1",
            "data": "UklGR" + "A9z/" * 5000,
            "expires_at": 1,
            "transcript": "See the page.",
        },
        "score": 0.25,
        "nothing": None,
    }
    up.answer(message=message, times=1)
    assert (await gw.chat()).json["choices"][0]["message"] == message
    up.clear()
    deltas = [
        (0, {"annotations": [{"type": "c", "url": f"https://example.org/{i}"}], "content": "x "})
        for i in "abc"
    ]
    up.stream(body(deltas))
    chunks = (await gw.chat(stream=True)).chunks
    urls = [
        a["url"] for one in chunks for each in one["choices"] for a in each["delta"].get("annotations", [])
    ]
    assert urls == [f"https://example.org/{i}" for i in "abc"]


async def test_a_custom_tools_input_is_guarded(gw: InProcessGateway, up: ScriptedUpstream) -> None:
    call = {"id": "c1", "type": "custom", "custom": {"name": "run", "input": f"login --key {KEY} now"}}
    up.answer(
        message={"role": "assistant", "content": None, "tool_calls": [call]}, finish="tool_calls", times=1
    )
    whole = (await gw.chat()).json["choices"][0]["message"]["tool_calls"][0]["custom"]
    up.clear()
    begin = {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "run", "input": ""}}
    parts = [{"index": 0, "custom": {"input": piece}} for piece in pieces(f"login --key {KEY} now", 6)]
    up.stream(body([(0, {"tool_calls": [part]}) for part in [begin, *parts]], finish="tool_calls"))
    answer = await gw.chat(stream=True)
    heard = "".join(
        call["custom"].get("input", "")
        for one in answer.chunks
        for each in one["choices"]
        for call in each["delta"].get("tool_calls", [])
    )
    assert KEY[10:20] not in heard
    assert heard == whole["input"]
    assert heard.startswith("login --key ")
