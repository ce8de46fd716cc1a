"""Streams of chat completion chunks, written by hand: what a scripted upstream says and what a client makes of it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

BASE = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-test"}
DONE = b"data: [DONE]\n\n"

Delta = tuple[int, Mapping[str, Any]]
"""A choice's index and what is new in it."""


def chunk(*choices: Mapping[str, Any], **fields: Any) -> bytes:
    """One event."""
    return b"data: " + json.dumps(BASE | {"choices": list(choices)} | fields).encode() + b"\n\n"


def choice(
    delta: Mapping[str, Any], *, index: int = 0, finish: str | None = None, **fields: Any
) -> dict[str, Any]:
    """One choice of a chunk."""
    return {"index": index, "delta": dict(delta), "finish_reason": finish, **fields}


def tool_delta(arguments: str, *, index: int = 0, name: str | None = None) -> dict[str, Any]:
    """A piece of a tool call's arguments; with a name its beginning."""
    call: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if name is not None:
        call |= {"id": f"call_{index}", "type": "function"}
        call["function"] |= {"name": name}
    return {"tool_calls": [call]}


def body(
    deltas: Iterable[Delta], *, finish: str = "stop", usage: tuple[int, int] | None = None
) -> list[bytes]:
    """A whole stream, an event for each delta, an end for each choice."""
    events: list[bytes] = []
    seen: dict[int, None] = {}
    for index, delta in deltas:
        seen.setdefault(index)
        events.append(chunk(choice(delta, index=index)))
    events += [chunk(choice({}, index=index, finish=finish)) for index in seen or {0: None}]
    if usage is not None:
        prompt, completion = usage
        counts = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        events.append(chunk(usage=counts))
    return [*events, DONE]


class Heard:
    """What a client puts together from a stream's chunks, by choice."""

    def __init__(self, chunks: Sequence[Mapping[str, Any]]) -> None:
        #: Text by choice index and field of the delta.
        self.text: dict[tuple[int, str], str] = defaultdict(str)
        #: Tool-call arguments by choice index and call index.
        self.arguments: dict[tuple[int, int], str] = defaultdict(str)
        self.finish: dict[int, str] = {}
        self.names: dict[tuple[int, int], str] = {}
        for one in chunks:
            for raw in cast("list[dict[str, Any]]", one.get("choices") or []):
                self._take(raw)

    def _take(self, one: dict[str, Any]) -> None:
        index = int(one["index"])
        assert index not in self.finish, "a choice went on after its finish_reason"
        delta = cast("dict[str, Any]", one.get("delta") or {})
        for name, value in delta.items():
            if isinstance(value, str) and name != "role":
                self.text[index, name] += value
        for call in cast("list[dict[str, Any]]", delta.get("tool_calls") or []):
            function = cast("dict[str, Any]", call.get("function") or {})
            self.arguments[index, call["index"]] += str(function.get("arguments") or "")
            if function.get("name"):
                self.names[index, call["index"]] = str(function["name"])
        if legacy := cast("dict[str, Any]", delta.get("function_call") or {}):
            self.arguments[index, -1] += str(legacy.get("arguments") or "")
        if one.get("finish_reason"):
            self.finish[index] = str(one["finish_reason"])
