"""A malformed request is refused with the name of the field at fault; anything else passes through untouched."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkle.errors import InvalidRequestError
from sparkle.llm.requests import parse_chat, parse_embeddings
from sparkle.llm.upstream_body import CANARY_LINE, system_texts, upstream_body

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"model": "x" * 257}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "root", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"user": 5}, "user"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_chat({**HELLO, **change})
    assert caught.value.param == param


@pytest.mark.parametrize("body", [None, [], "x", 5, True])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(InvalidRequestError):
        parse_chat(body)


def as_fields(body: object) -> dict[str, Any]:
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {"extra": body}


@given(json_values)
def test_no_body_whatever_makes_parsing_crash(body: object) -> None:
    for parse in (parse_chat, parse_embeddings):
        try:
            parse(body)
            parse({**HELLO, "input": "x", **as_fields(body)})
        except InvalidRequestError:
            continue


def test_the_smaller_of_both_token_limits_counts() -> None:
    assert parse_chat({**HELLO, "max_tokens": 9, "max_completion_tokens": 5}).max_tokens == 5
    assert parse_chat(HELLO).max_tokens is None


def test_unknown_fields_pass_through_and_the_callers_body_is_left_alone() -> None:
    request = parse_chat({**HELLO, "seed": 7, "vendor": {"x": [1]}, "max_tokens": 500})
    body = upstream_body(request, request.messages, 100)
    assert body["seed"] == 7
    assert body["vendor"] == {"x": [1]}
    assert body["max_tokens"] == 100
    assert request.body["max_tokens"] == 500


def test_the_cap_uses_the_name_the_caller_used() -> None:
    request = parse_chat({**HELLO, "max_completion_tokens": 500, "max_tokens": 500})
    body = upstream_body(request, request.messages, 100)
    assert body["max_completion_tokens"] == 100
    assert "max_tokens" not in body


def test_a_stream_always_reports_its_usage_upstream() -> None:
    request = parse_chat({**HELLO, "stream": True, "stream_options": {"x": 1}})
    assert upstream_body(request, request.messages, 9)["stream_options"] == {"x": 1, "include_usage": True}
    assert not request.include_usage


def test_retrieved_text_reaches_the_model_as_user_text() -> None:
    request = parse_chat({**HELLO, "messages": [{"role": "retrieved", "content": "doc"}]})
    assert upstream_body(request, request.messages, 9)["messages"] == [{"role": "user", "content": "doc"}]
    assert request.messages[0]["role"] == "retrieved"


def test_the_canary_goes_into_the_first_system_message_only() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "a"},
        {"role": "system", "content": [{"type": "text", "text": "b"}]},
        {"role": "developer", "content": "c"},
    ]
    request = parse_chat({**HELLO, "messages": messages})
    sent = upstream_body(request, request.messages, 9, canary="ref-1")["messages"]
    assert sent[1]["content"][1]["text"] == CANARY_LINE.format(canary="ref-1")
    assert [sent[0], sent[2]] == [messages[0], messages[2]]
    assert system_texts(messages) == ["b", "c"]


@pytest.mark.parametrize(
    ("given_input", "texts", "tokens"),
    [("a", ("a",), 0), (["a", "b"], ("a", "b"), 0), ([1, 2, 3], (), 3), ([[1], [2, 3]], (), 3)],
)
def test_embeddings_take_texts_and_token_ids(given_input: Any, texts: tuple[str, ...], tokens: int) -> None:
    request = parse_embeddings({"model": "m", "input": given_input})
    assert (request.texts, request.token_ids) == (texts, tokens)


@pytest.mark.parametrize("given_input", [None, [], [None], {"a": 1}, [True], [[]], [[1.5]], 5])
def test_embeddings_refuse_anything_else(given_input: Any) -> None:
    with pytest.raises(InvalidRequestError):
        parse_embeddings({"model": "m", "input": given_input})
