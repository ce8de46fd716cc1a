"""uvicorn's HTTP/1.1 protocol, with three manners of our own."""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sparkle.errors import InvalidRequestError
from sparkle.llm.outcomes import new_request_id

_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)


class _OneWrite:
    """A transport that keeps the head of an answer of known length until its body comes.

    uvicorn writes both apart: two system calls here, two segments and two wake-ups of the client. The head of a stream
    has no length and goes out at once.
    """

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            self._transport.write(self._head + data)
            self._head = b""
        elif data.startswith(b"HTTP/1.1 ") and b"\r\ncontent-length: " in data and data.endswith(b"\r\n\r\n"):
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write a head whose body never came: an answer to HEAD, or a handler that failed."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class GatewayProtocol(HttpToolsProtocol):
    """Answers what is not HTTP with an error object like any other, and takes no notice of ``Upgrade``.

    An answer of known length is one write.

    Java's client and ``curl --http2`` offer ``Upgrade: h2c`` with every plain request. A server may ignore that (RFC
    9110, 7.8), but llhttp stops reading at such a head, and the request would lose its body.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] # as uvicorn declares it
        """The connection stands."""
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", _OneWrite(transport))

    def on_response_complete(self) -> None:
        """An answer is complete."""
        cast("_OneWrite", self.transport).flush()
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if (b"pgrade:" in data or b"PGRADE:" in data) and not self._in_body():
            end = data.find(b"\r\n\r\n")
            head = data if end < 0 else data[:end]
            data = _UPGRADE.sub(b"", head) + data[len(head) :]
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """What was sent is not HTTP/1.1."""
        body = msgspec.json.encode(InvalidRequestError(msg).body())
        head = (
            f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nx-request-id: {new_request_id()}\r\n"
            f"x-should-retry: false\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()

    def _in_body(self) -> bool:
        # None before the first request, whatever its declared type says.
        return bool(getattr(self.cycle, "more_body", False))
