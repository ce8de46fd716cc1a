"""The seam between an upstream's meaning and its wire: what a transport does, and how it says that it failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FailureKind = Literal[
    "connect", "connect_timeout", "timeout", "deadline", "reset", "broken", "protocol", "too_large", "busy"
]
"""
- ``connect``, ``connect_timeout``: no connection; nothing was sent.
- ``timeout``: the answer, or its next part, did not come in time.
- ``deadline``: the time for the whole exchange is over.
- ``reset``: the connection ended before the first byte of the answer; the request may have arrived.
- ``broken``: it ended in the middle of the answer.
- ``protocol``: what came is not HTTP, or not what was asked for.
- ``too_large``: the answer passes the bound.
- ``busy``: too many calls already wait for a connection; nothing was sent.
"""


class TransportError(Exception):
    """A request that got no whole answer. ``detail`` is safe to show: it never holds a header or a body."""

    def __init__(self, kind: FailureKind, detail: str, *, reused: bool = False) -> None:
        super().__init__(detail)
        self.kind: FailureKind = kind
        self.detail = detail
        #: The connection had served another request before: an end before the answer then means it was stale.
        self.reused = reused


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds."""

    connect: float
    first_byte: float
    """Until the answer's headers."""
    idle: float
    """Between two parts of an answer."""


class Exchange(Protocol):
    """One request that was sent, and its answer. Every exchange ends with ``read``, ``close`` or ``detach``."""

    @property
    def status(self) -> int:
        """HTTP status; 0 before the headers have arrived."""
        ...

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Raw header fields in the order of arrival."""
        ...

    async def head(self) -> int:
        """Wait for the headers; returns the status.

        Raises:
            TransportError: None came.
        """
        ...

    async def read(self, limit: int) -> bytes:
        """Wait for the whole answer; at most ``limit`` bytes of body.

        Raises:
            TransportError: It did not come, not in time, not whole, or it is larger.
        """
        ...

    async def chunk(self) -> bytes:
        """The next bytes of the body as soon as there are any; ``b""`` at its regular end.

        Raises:
            TransportError: The body broke off, or nothing came in time.
        """
        ...

    def close(self) -> None:
        """Give up: unless the answer is complete, the connection is cut at once, so that the upstream stops."""
        ...

    def detach(self) -> None:
        """The rest of the body does not matter: keep the connection if it ends soon, cut it otherwise."""
        ...


class Transport(Protocol):
    """A pool of connections to one address. Used within one event loop."""

    async def start(self) -> None:
        """Make ready; opens no connection."""
        ...

    async def close(self) -> None:
        """Close every connection; running exchanges break."""
        ...

    async def send(self, method: str, path: str, extra: bytes, body: bytes, timeout: float) -> Exchange:
        """Send one request.

        Args:
            method: ``GET`` or ``POST``.
            path: Below the base URL, e.g. ``/chat/completions``.
            extra: Further header lines, each ended by CRLF.
            body: JSON text; empty for none.
            timeout: Seconds for the whole exchange.

        Raises:
            TransportError: No connection.
        """
        ...
