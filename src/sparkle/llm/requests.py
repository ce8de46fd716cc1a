"""What a chat or embeddings request must look like before any guard sees it.

Only the fields that Sparkle acts on are checked; every other field passes through untouched, because providers add
fields faster than gateways learn them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from msgspec import Struct

from sparkle.errors import InvalidRequestError

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function", "retrieved"})
NOT_PROMPT = frozenset(
    [
        "model",
        "messages",
        "tools",
        "response_format",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "user",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "presence_penalty",
        "frequency_penalty",
        "parallel_tool_calls",
        "tool_choice",
        "service_tier",
        "store",
        "metadata",
        "reasoning_effort",
        "verbosity",
        "modalities",
        "audio",
        "safety_identifier",
        "prompt_cache_key",
    ]
)
"""Request fields that add nothing to the prompt beyond what is counted by name."""
_RIVAL_CAPS = ("max_new_tokens", "max_output_tokens", "max_length", "n_predict", "num_predict")
"""What other servers call ``max_tokens``: left in, they would outbid the cap that was reserved."""
MAX_NAME = 256
"""Longest name of a model or user, in characters."""
_MAX_CHOICES = 128
_MAX_TOKENS = 2**31


class ChatRequest(Struct, frozen=True):
    """A validated chat request; ``body`` is the caller's own dict and is never changed."""

    body: dict[str, Any]
    model: str
    messages: Sequence[Mapping[str, Any]]
    stream: bool
    max_tokens: int | None
    """Largest answer asked for, per choice; ``None`` when the caller set none."""
    choices: int
    user: str | None
    include_usage: bool
    """Whether the caller asked for a usage chunk in the stream."""
    size: int
    """Bytes of the body as it came, or about the characters in it: how long reading it takes."""


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """A validated embeddings request. Token-id inputs carry no text."""

    body: dict[str, Any]
    model: str
    texts: tuple[str, ...]
    token_ids: int
    """Number of token ids given instead of text."""
    user: str | None


def parse_chat(body: object, size: int | None = None) -> ChatRequest:
    """Check a decoded chat body.

    Args:
        body: the decoded JSON.
        size: bytes it was decoded from; ``None``: its characters are counted.

    Raises:
        InvalidRequestError: ``param`` names the field.
    """
    data = _mapping(body)
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequestError("messages must be a non-empty list", param="messages")
    for i, message in enumerate(cast("list[object]", messages)):
        _check_message(message, i)
    stream = data.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidRequestError("stream must be true or false", param="stream")
    if data.get("best_of") not in (None, 1):
        raise InvalidRequestError("best_of is not part of the chat API; use n", param="best_of")
    if any(name in data for name in _RIVAL_CAPS):
        data = {k: v for k, v in data.items() if k not in _RIVAL_CAPS}
    return ChatRequest(
        body=data,
        model=_model(data),
        messages=cast("list[dict[str, Any]]", messages),
        stream=bool(stream),
        max_tokens=_max_tokens(data),
        choices=_integer(data, "n", 1, _MAX_CHOICES) or 1,
        user=_user(data),
        include_usage=_include_usage(data),
        size=_measure(data) if size is None else size,
    )


def parse_embeddings(body: object) -> EmbeddingsRequest:
    """Check a decoded embeddings body.

    Raises:
        InvalidRequestError: ``param`` names the field.
    """
    data = _mapping(body)
    given = data.get("input")
    texts: list[str] = []
    token_ids = 0
    if isinstance(given, list):
        items = cast("list[object]", given)
        if not items:
            raise InvalidRequestError("input must not be empty", param="input")
        if _are_ids(items):
            token_ids, items = len(items), []
    else:
        items = [given]
    for i, item in enumerate(items):
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, list) and _are_ids(ids := cast("list[object]", item)):
            token_ids += len(ids)
        else:
            raise InvalidRequestError(
                "input must be a string, a list of strings or token ids", param=f"input[{i}]"
            )
    return EmbeddingsRequest(
        body=data, model=_model(data), texts=tuple(texts), token_ids=token_ids, user=_user(data)
    )


def _measure(body: object) -> int:
    size = 0
    waiting: list[object] = [body]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            size += len(value) + 3
        elif isinstance(value, dict):
            waiting.extend(cast("dict[object, object]", value))
            waiting.extend(cast("dict[object, object]", value).values())
        elif isinstance(value, list):
            waiting.extend(cast("list[object]", value))
        else:
            size += 3
    return size


def _mapping(body: object) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise InvalidRequestError("the request body must be a JSON object")
    return cast("dict[str, Any]", body)


def _model(data: Mapping[str, Any]) -> str:
    model = data.get("model")
    if not isinstance(model, str) or not model or len(model) > MAX_NAME:
        raise InvalidRequestError(f"model must be a name of 1 to {MAX_NAME} characters", param="model")
    return model


def _user(data: Mapping[str, Any]) -> str | None:
    user = data.get("user")
    if user is None:
        return None
    if not isinstance(user, str) or len(user) > MAX_NAME:
        raise InvalidRequestError(f"user must be a string of at most {MAX_NAME} characters", param="user")
    return user or None


def _are_ids(items: list[object]) -> bool:
    return bool(items) and all(map(_is_int, items))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(data: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = data.get(name)
    if value is None:
        return None
    if not _is_int(value) or not low <= value <= high:
        raise InvalidRequestError(f"{name} must be a whole number from {low} to {high}", param=name)
    return cast("int", value)


def _max_tokens(data: Mapping[str, Any]) -> int | None:
    old = _integer(data, "max_tokens", 1, _MAX_TOKENS)
    new = _integer(data, "max_completion_tokens", 1, _MAX_TOKENS)
    if old is None or new is None:
        return new if old is None else old
    return min(old, new)


def _include_usage(data: Mapping[str, Any]) -> bool:
    options = data.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise InvalidRequestError("stream_options must be an object", param="stream_options")
    return bool(cast("dict[str, Any]", options).get("include_usage"))


def _check_message(message: object, index: int) -> None:
    where = f"messages[{index}]"
    if not isinstance(message, dict):
        raise InvalidRequestError("a message must be an object", param=where)
    fields = cast("dict[str, Any]", message)
    role = fields.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequestError(
            "role must be system, developer, user, assistant, tool or function", param=f"{where}.role"
        )
    content = fields.get("content")
    if content is None:
        if role not in ("assistant", "function"):
            raise InvalidRequestError(f"a {role} message needs content", param=f"{where}.content")
        return
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidRequestError("content must be a string or a list of parts", param=f"{where}.content")
    for j, part in enumerate(cast("list[object]", content)):
        if not isinstance(part, dict) or not isinstance(cast("dict[str, Any]", part).get("type"), str):
            raise InvalidRequestError(
                "a content part must be an object with a type", param=f"{where}.content[{j}]"
            )
        fields = cast("dict[str, Any]", part)
        if fields["type"] in ("text", "input_text") and not isinstance(fields.get("text"), str):
            raise InvalidRequestError("a text part needs text", param=f"{where}.content[{j}].text")
