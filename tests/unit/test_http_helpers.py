"""Bodies are bounded, JSON is strict, headers say what an SDK needs."""

from __future__ import annotations

from typing import Any

import pytest

from sparkle.errors import (
    InvalidRequestError,
    ProviderRejectedError,
    QuotaExceededError,
    RequestTooLargeError,
)
from sparkle.server.http import ClientGoneError, decode_json, error_headers, error_status, read_body


class Client:
    """Plays the receiving side of ASGI."""

    def __init__(self, *parts: bytes, hang_up: bool = False) -> None:
        self.messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": i < len(parts) - 1 or hang_up}
            for i, part in enumerate(parts)
        ]
        if hang_up:
            self.messages.append({"type": "http.disconnect"})
        self.reads = 0

    async def __call__(self) -> dict[str, Any]:
        self.reads += 1
        return self.messages.pop(0)


def scope(**headers: str) -> dict[str, Any]:
    return {"headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]}


async def test_a_body_in_parts_is_joined() -> None:
    assert await read_body(scope(), Client(b"ab", b"cd", b"e"), 5) == b"abcde"


async def test_a_declared_size_over_the_limit_is_refused_unread() -> None:
    client = Client(b"x" * 10)
    with pytest.raises(RequestTooLargeError):
        await read_body(scope(content_length="10"), client, 9)
    assert client.reads == 0


@pytest.mark.parametrize("parts", [(b"x" * 10,), (b"x" * 5, b"x" * 5)])
async def test_an_undeclared_size_over_the_limit_is_refused(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(RequestTooLargeError):
        await read_body(scope(), Client(*parts), 9)


async def test_a_client_that_hangs_up_ends_the_read() -> None:
    with pytest.raises(ClientGoneError):
        await read_body(scope(), Client(b"x", hang_up=True), 9)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"a": NaN}',
        b'"\\ud800"',
        b'{"a": 1} x',
        b"[" * 100_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
    ],
)
def test_what_is_not_strict_json_is_a_clear_400(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        decode_json(body, 64)


def test_depth_is_bounded_exactly() -> None:
    def nested(depth: int) -> bytes:
        return b"[" * depth + b"]" * depth

    assert decode_json(nested(64), 64) is not None
    with pytest.raises(InvalidRequestError):
        decode_json(nested(65), 64)
    assert decode_json(b"[" + b"[]," * 500 + b"[]]", 64)  # wide is not deep


def test_retry_headers_are_whole_seconds_rounded_up() -> None:
    headers = dict(error_headers(QuotaExceededError(retry_after=1.2)))
    assert headers == {b"retry-after": b"2", b"x-should-retry": b"false"}


def test_an_upstreams_own_status_is_kept() -> None:
    assert error_status(ProviderRejectedError(status=413)) == 413
