"""uvicorn's HTTP/1.1 protocol, with four manners of our own."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Any, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sparkle.errors import HeadersTooLargeError, InvalidRequestError
from sparkle.llm.outcomes import new_request_id

MAX_HEAD_BYTES = 32_768
"""Longest request line and headers that are read; what SDKs and proxies send is a tenth of it."""
_LINGER_SECONDS = 1.0
_TOO_LONG = f"the request's headers are larger than {MAX_HEAD_BYTES} bytes"
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

    An answer of known length is one write. A head longer than :data:`MAX_HEAD_BYTES` is answered with 431.

    Java's client and ``curl --http2`` offer ``Upgrade: h2c`` with every plain request. A server may ignore that (RFC
    9110, 7.8), but llhttp stops reading at such a head, and the request would lose its body.
    """

    _in_head = False
    _began = False
    """Whether the head began in the bytes that came last."""
    _before = 0
    """Bytes of an unfinished head that came before."""
    _long = False
    """Whether a head that ends in the bytes that came last may be too long."""
    _refusal: InvalidRequestError | None = None

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
        if self._refusal is not None:
            return  # read and dropped until the connection closes, see _refuse
        if (b"pgrade:" in data or b"PGRADE:" in data) and not self._in_body():
            end = data.find(b"\r\n\r\n")
            head = data if end < 0 else data[:end]
            data = _UPGRADE.sub(b"", head) + data[len(head) :]
        self._long = self._before + len(data) > MAX_HEAD_BYTES
        self._began = False
        super().data_received(data)
        if self._in_head:
            self._before = self._head_size() if self._began else self._before + len(data)
            if self._before > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refusal = HeadersTooLargeError(_TOO_LONG)
                self._refuse(self._refusal)
        else:
            self._before = 0

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = self._began = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request's head is complete."""
        self._in_head = False
        if self._long and self._head_size() > MAX_HEAD_BYTES:
            self._refusal = HeadersTooLargeError(_TOO_LONG)
            raise self._refusal  # the parser stops and uvicorn asks for a 400, which becomes this
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What was sent is not HTTP/1.1, or more of it than we take."""
        self._refuse(self._refusal or InvalidRequestError(msg))

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse(self, error: InvalidRequestError) -> None:
        body = msgspec.json.encode(error.body())
        reason = HTTPStatus(error.http_status).phrase
        head = (
            f"HTTP/1.1 {error.http_status} {reason}\r\ncontent-type: application/json\r\n"
            f"x-request-id: {new_request_id()}\r\n"
            f"x-should-retry: false\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        if self._refusal is None:
            self.transport.close()
        else:
            # The client is still writing: closing now would reset the connection and take the answer with it.
            self.transport.write_eof()
            self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _in_body(self) -> bool:
        # None before the first request, whatever its declared type says.
        return bool(getattr(self.cycle, "more_body", False))
