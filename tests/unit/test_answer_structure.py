"""Secrets in odd places of an answer: whatever the shape, nothing passes unread."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

import pytest

from sparkle.errors import ProviderRejectedError
from sparkle.llm.answer_fields import FieldGuard, guard_rejection
from sparkle.llm.answers import guard_answer
from sparkle.llm.output import OutputValidator
from sparkle.llm.output.tool_json import unescaped
from sparkle.llm.policy import OutputPolicy
from sparkle.llm.stream_choice import ChoiceGuard

KEY = "sk-proj-" + "Tq7Wm2Zx9Lr4Vb8Np3Kd6Yf1Hs5Jc0GaUeXoBi"
ESCAPED = "".join(f"\\u{ord(c):04x}" for c in KEY)
VALIDATOR = OutputValidator(OutputPolicy())


def call(**function: Any) -> dict[str, Any]:
    return {
        "index": 0,
        "id": "c",
        "type": "function",
        "function": {"name": "f", "arguments": "{}", **function},
    }


@dataclass(slots=True)
class Streamed:
    """What a client receives of a stream, chunk by chunk."""

    chunks: list[dict[str, Any]]

    @property
    def all(self) -> str:
        return json.dumps(self.chunks)


def stream(*chunks: dict[str, Any]) -> Streamed:
    """Run chunks, envelope and choices, through the guards of a stream."""
    fields = FieldGuard(VALIDATOR, None)
    guard = ChoiceGuard(0, VALIDATOR, None)
    out: list[dict[str, Any]] = []
    for raw in chunks:
        chunk = cast("dict[str, Any]", json.loads(json.dumps(raw)))
        fields.chunk(chunk)
        chunk["choices"] = [c for c in chunk.get("choices", []) if guard.step(c, []).keep]
        out.append(chunk)
    out += [{"choices": [c]} for c in guard.flush()]
    return Streamed(out)


def one(choice: dict[str, Any], **around: Any) -> dict[str, Any]:
    return {"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, **choice}], **around}


def delta(**fields: Any) -> dict[str, Any]:
    return one({"delta": fields, "finish_reason": None})


STREAMED: dict[str, dict[str, Any]] = {
    "arguments as an object": delta(tool_calls=[call(arguments={"k": KEY})]),
    "legacy arguments as an object": delta(function_call={"name": "f", "arguments": {"k": KEY}}),
    "legacy name": delta(function_call={"name": KEY, "arguments": ""}),
    "tool name": delta(tool_calls=[call(name=KEY)]),
    "tool id": delta(tool_calls=[{**call(), "id": KEY}]),
    "unknown key of a call": delta(tool_calls=[{**call(), "text": KEY}]),
    "unknown key of a function": delta(tool_calls=[call(note=KEY)]),
    "calls as an object": delta(tool_calls=call(arguments=KEY)),
    "function as text": delta(tool_calls=[{"index": 0, "id": "c", "function": KEY}]),
    "role": delta(role="assistant " + KEY, content="a"),
    "name": delta(name=KEY),
    "key of a delta": delta(**{KEY: 1}),
    "key of an object": delta(extra={KEY: 1}),
    "structure in an unknown field": delta(extra=[{"id": KEY, "data": KEY}]),
    "delta as text": one({"delta": KEY}),
    "text of a choice": one({"text": KEY}),
    "text beside no delta": one({"delta": None, "text": KEY}),
    "message of a choice": one({"message": {"role": "assistant", "content": KEY}}),
    "call in a message": one({"message": {"tool_calls": [call(arguments=f'{{"k":"{ESCAPED}"}}')]}}),
    "finish reason": one({"delta": {"content": "a"}, "finish_reason": "stop " + KEY}),
    "filter results": one({"delta": {}, "content_filter_results": {"x": KEY}}),
    "logprobs of no text": one({"delta": {"content": ""}, "logprobs": {"content": [{"token": KEY}]}}),
    "logprobs of no delta": one({"logprobs": {"refusal": [{"token": KEY}]}}),
    "alternative token": one(
        {
            "delta": {"content": "a "},
            "logprobs": {"content": [{"token": "a ", "top_logprobs": [{"token": KEY}]}]},
        }
    ),
    "note": delta(content="a") | {"note": "key " + KEY},
    "id": delta(content="a") | {"id": KEY},
    "fingerprint": delta(content="a") | {"system_fingerprint": KEY},
    "error beside choices": delta(content="a") | {"error": {"message": KEY}},
    "text of a usage chunk": {"id": "x", "choices": [], "usage": {"prompt_tokens": 1}, "text": KEY},
    "text in usage": {"id": "x", "choices": [], "usage": {"prompt_tokens": 1, "note": [KEY]}},
}


@pytest.mark.parametrize("name", STREAMED)
def test_no_field_of_a_chunk_hides_a_secret(name: str) -> None:
    heard = stream(STREAMED[name], one({"delta": {}, "finish_reason": "stop"})).all
    assert KEY not in heard
    assert ESCAPED not in heard.replace("\\\\", "\\")


@pytest.mark.parametrize(
    "halves",
    [
        [one({"text": KEY[:20]}), one({"text": KEY[20:]})],
        [delta(name=KEY[:20]), delta(name=KEY[20:])],
        [delta(role=KEY[:20]), delta(role=KEY[20:])],
        [one({"message": {"content": KEY[:20]}}), one({"message": {"content": KEY[20:]}})],
    ],
    ids=["text", "name", "role", "message"],
)
def test_an_unknown_text_in_pieces_is_held_like_content(halves: list[dict[str, Any]]) -> None:
    heard = stream(*halves, one({"delta": {}, "finish_reason": "stop"})).all
    assert KEY[:20] not in heard
    assert KEY[20:] not in heard
    assert "[REDACTED:api_key]" in heard


@pytest.mark.parametrize(
    "halves",
    [
        [delta(tool_calls=[{**call(), "id": KEY[:20]}]), delta(tool_calls=[{**call(), "id": KEY[20:]}])],
        [delta(tool_calls=[call(name=KEY[:20])]), delta(tool_calls=[call(name=KEY[20:])])],
        [delta(content="a") | {"note": KEY[:20]}, delta(content="b") | {"note": KEY[20:]}],
    ],
    ids=["id", "name", "note"],
)
def test_the_second_half_of_a_secret_does_not_follow_the_first(halves: list[dict[str, Any]]) -> None:
    assert KEY[20:] not in stream(*halves).all


def test_arguments_that_are_an_object_stay_one() -> None:
    (sent, *_) = stream(delta(tool_calls=[call(arguments={"k": KEY, "n": 5})])).chunks
    function = sent["choices"][0]["delta"]["tool_calls"][0]["function"]
    assert function["arguments"] == {"k": "[REDACTED:api_key]", "n": 5}


def test_a_common_chunk_is_left_as_it_is() -> None:
    logprobs = {
        "content": [{"token": "Hello ", "logprob": -0.1, "bytes": list(b"Hello "), "top_logprobs": []}]
    }
    chunk = one(
        {"delta": {"role": "assistant", "content": "Hello "}, "logprobs": logprobs, "finish_reason": None},
        created=1_700_000_000,
        model="gpt-4o-2024-08-06",
        system_fingerprint="fp_44709d6fcb",
        service_tier="default",
        usage=None,
    )
    assert stream(chunk).chunks == [chunk]


def answer(message: dict[str, Any], **choice: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop", **choice}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }


def nested(levels: int, text: str = ESCAPED) -> str:
    inner = f'{{"k":"{text}"}}'
    for _ in range(levels):
        inner = json.dumps({"a": inner})
    return inner


WHOLE: dict[str, dict[str, Any]] = {
    "arguments as an object": answer({"tool_calls": [call(arguments={"k": KEY})]}),
    "legacy arguments as an object": answer({"function_call": {"name": "f", "arguments": {"k": KEY}}}),
    "tool name": answer({"tool_calls": [call(name=KEY)]}),
    "tool id": answer({"tool_calls": [{**call(), "id": KEY}]}),
    "calls as an object": answer({"tool_calls": call(arguments=KEY)}),
    "role": answer({"role": KEY}),
    "name": answer({"name": KEY}),
    "key of a message": answer({KEY: 1}),
    "structure in an unknown field": answer({"extra": [{"id": KEY, "data": KEY}]}),
    "text of a choice": answer({"content": "a"}, text=KEY),
    "delta of a choice": answer({"content": "a"}, delta={"content": KEY}),
    "finish reason": answer({"content": "a"}, finish_reason=KEY),
    "logprobs": answer({"content": "a"}, logprobs={"content": [{"token": KEY}]}),
    "logprobs in pieces": answer(
        {"content": "a"}, logprobs={"content": [{"token": KEY[:9]}, {"token": KEY[9:]}]}
    ),
    "logprobs in bytes": answer(
        {"content": "a"}, logprobs={"content": [{"token": "", "bytes": list(KEY.encode())}]}
    ),
    "note": answer({"content": "a"}) | {"note": KEY},
    "citations": answer({"content": "a"}) | {"citations": ["https://x/?k=" + KEY]},
    "id": answer({"content": "a"}) | {"id": KEY},
    "arguments cut off": answer(
        {"tool_calls": [call(arguments=f'{{"k":"{ESCAPED}"')]}, finish_reason="length"
    ),
    **{f"JSON in JSON, {n} deep": answer({"tool_calls": [call(arguments=nested(n))]}) for n in range(9)},
}


@pytest.mark.parametrize("name", WHOLE)
def test_no_field_of_a_whole_answer_hides_a_secret(name: str) -> None:
    raw = json.dumps(WHOLE[name]).encode()
    guarded = guard_answer(raw, VALIDATOR, None)
    assert guarded.verdict.findings
    heard = guarded.body.decode()
    assert KEY not in heard
    assert KEY not in unescaped(heard)
    json.loads(heard)


def test_a_common_answer_is_passed_byte_for_byte() -> None:
    tokens = [{"token": "Hel", "bytes": list(b"Hel"), "top_logprobs": [{"token": "Hal", "logprob": -2}]}]
    raw = json.dumps(
        answer(
            {"content": "Hello", "refusal": None, "annotations": [], "tool_calls": [call()]},
            logprobs={"content": tokens},
        )
        | {"created": 1_700_000_000, "model": "gpt-4o-2024-08-06", "id": "8313807536837492492"}
    ).encode()
    assert guard_answer(raw, VALIDATOR, None).body == raw


def test_escaped_text_that_gives_nothing_away_keeps_its_bytes() -> None:
    for arguments in (
        '{"path": "C:\\\\users\\\\new"',
        '{"re": "\\\\\\\\u0041+"}',
        nested(6, "\\u0061"),
    ):
        assert VALIDATOR.check_tool_arguments(arguments).text == arguments


def test_personal_data_in_an_upstreams_own_rejection_is_redacted() -> None:
    exc = ProviderRejectedError(
        "no such user: bob.li" + "@corp.cn", status=400, param="messages[0]", details={"code": KEY}
    )
    guard_rejection(exc, VALIDATOR, None)
    assert exc.message == str(exc) == "no such user: [REDACTED:email]"
    assert exc.param == "messages[0]"
    assert KEY not in json.dumps(exc.body())
