"""The few HTTP helpers that the hot path needs, on bare ASGI (a framework's request objects cost a third of a call)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import msgspec

from sparkle.errors import InvalidRequestError, ProviderRejectedError, RequestTooLargeError, SparkleError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON_TYPE = (b"content-type", b"application/json")
SSE_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")


_BODY_SECONDS = 60.0
"""A client that sends its body more slowly than this holds a place for nothing."""


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


def header(scope: Scope, name: bytes) -> str | None:
    """The first value of a request header (``name`` in lower case), or ``None``."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole request body.

    Raises:
        RequestTooLargeError: It is larger than ``limit`` bytes; known from Content-Length, nothing is read.
        ClientGoneError: The client hung up.
    """
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise _too_large(limit)
        return body
    parts, size = [body], len(body)
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while message.get("more_body", False):
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise InvalidRequestError(f"the request body did not arrive within {_BODY_SECONDS:.0f} s") from None
    return b"".join(parts)


def decode_json(body: bytes, max_depth: int) -> Any:
    """Decode a JSON body strictly (UTF-8, no NaN, no lone surrogates, bounded depth).

    Raises:
        InvalidRequestError: It is not such JSON; the message says where.
    """
    try:
        data = msgspec.json.decode(body)
    except RecursionError:
        raise InvalidRequestError(f"the body is nested deeper than {max_depth} levels") from None
    except (msgspec.DecodeError, UnicodeError, ValueError) as exc:
        raise InvalidRequestError(f"the body is not valid JSON: {_safe_reason(exc)}") from None
    if body.count(b"[") + body.count(b"{") > max_depth:
        _check_depth(data, max_depth)
    return data


async def send_bytes(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a complete response."""
    head = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, status: int, data: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send ``data`` as JSON."""
    await send_bytes(send, status, msgspec.json.encode(data), [JSON_TYPE, *headers])


def error_status(exc: SparkleError) -> int:
    """The HTTP status of an error; an upstream's own 4xx stays what it was."""
    return exc.status if isinstance(exc, ProviderRejectedError) else exc.http_status


def error_headers(exc: SparkleError) -> Headers:
    """``retry-after`` and ``x-should-retry`` as OpenAI's SDKs read them."""
    headers: Headers = []
    if exc.retry_after is not None:
        # Whole seconds, rounded up: a client that comes back at this time must not be early.
        headers.append((b"retry-after", b"%d" % max(1, -int(-exc.retry_after // 1))))
    if exc.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if exc.should_retry else b"false"))
    return headers


def _too_large(limit: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"the request body is larger than {limit} bytes")


def _safe_reason(exc: Exception) -> str:
    # msgspec's messages hold positions, never content; anything else is reduced to its kind.
    return str(exc) if isinstance(exc, msgspec.DecodeError) else type(exc).__name__


def _check_depth(data: Any, limit: int) -> None:
    level: list[Any] = [data]
    for _ in range(limit):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        ]
        if not level:
            return
    if any(isinstance(node, dict | list) for node in level):
        raise InvalidRequestError(f"the body is nested deeper than {limit} levels")
