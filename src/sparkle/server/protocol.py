"""uvicorn's HTTP/1.1 protocol, with two manners of our own."""

from __future__ import annotations

import re

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sparkle.errors import InvalidRequestError
from sparkle.llm.outcomes import new_request_id

_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)


class GatewayProtocol(HttpToolsProtocol):
    """Answers what is not HTTP with an error object like any other, and takes no notice of ``Upgrade``.

    Java's client and ``curl --http2`` offer ``Upgrade: h2c`` with every plain request. A server may ignore that (RFC
    9110, 7.8), but llhttp stops reading at such a head, and the request would lose its body.
    """

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
