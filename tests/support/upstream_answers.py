"""What :mod:`tests.support.upstream` says: the steps of a script and the bodies made from them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any, Literal, cast

from tests.support.upstream_wire import chunk

WORDS = ("The", "gateway", "routes", "each", "request", "to", "a", "model", "and", "returns")
DEFAULT_WORDS = 16

Piece = str | bytes | asyncio.Event
"""Text of one delta, raw bytes to put on the wire as they are, or an event to wait for."""
Usage = bool | tuple[int, int]


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one request."""

    kind: Literal["answer", "fail", "hang", "reset", "raw"] = "answer"
    pieces: tuple[Piece, ...] | None = None
    message: Mapping[str, Any] | None = None
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    usage: Usage = True
    finish: str | None = "stop"
    done: bool = True
    model: str | None = None
    gate: asyncio.Event | None = None


def event(payload: Mapping[str, Any]) -> bytes:
    """One chunk holding one server-sent event."""
    return chunk(b"data: " + json.dumps(payload).encode() + b"\n\n")


def limit_of(body: dict[str, Any]) -> int | None:
    """The largest number of words allowed; ``None``: no limit."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    return int(limit) if limit else None


def spoken_words(body: dict[str, Any], step: Step) -> tuple[list[str], str | None]:
    """The words said (at most max_tokens of them) and the finish reason."""
    limit = limit_of(body)
    if step.pieces is None:
        words = list(islice(cycle(WORDS), limit if limit is not None else DEFAULT_WORDS))
        return [w if i == 0 else " " + w for i, w in enumerate(words)], "length" if limit else step.finish
    pieces = [
        p.decode("utf-8", "replace") if isinstance(p, bytes) else p
        for p in step.pieces
        if not isinstance(p, asyncio.Event)
    ]
    if limit is not None and len(pieces) > limit:
        return pieces[:limit], "length"
    return pieces, step.finish


def stream_pieces(body: dict[str, Any], step: Step) -> Iterator[str | asyncio.Event | Mapping[str, Any]]:
    """The pieces of a stream, cut off at the limit."""
    if step.message is not None:
        yield step.message
        return
    if step.pieces is None:
        yield from spoken_words(body, step)[0]
        return
    left = limit_of(body)
    for piece in step.pieces:
        if isinstance(piece, asyncio.Event):
            yield piece
        elif isinstance(piece, str):
            if left is not None:
                if left == 0:
                    return
                left -= 1
            yield piece


def token_usage(body: dict[str, Any], step: Step, completion: int) -> dict[str, int]:
    """Token counts; a word is a token."""
    if isinstance(step.usage, tuple):
        prompt, completion = step.usage
    else:
        prompt = len(json.dumps(body.get("messages", [])).split())
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """Two numbers per text, its length and 1: enough to tell texts apart."""
    given: Any = body.get("input", "")
    texts = cast("list[Any]", given) if isinstance(given, list) else [given]
    data = [
        {"object": "embedding", "index": i, "embedding": [float(len(str(text))), 1.0]}
        for i, text in enumerate(texts)
    ]
    tokens = sum(len(str(text).split()) for text in texts)
    return {
        "object": "list",
        "model": body.get("model"),
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
