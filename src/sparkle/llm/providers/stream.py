"""A streamed answer, as the payloads of its server-sent events."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgspec

from sparkle.llm.providers.failures import Failure, from_answer, from_error_object, from_transport
from sparkle.llm.providers.sse import EventTooLargeError, SSEDecoder
from sparkle.llm.providers.transport import Exchange, TransportError

DONE = b"[DONE]"
_ERROR = re.compile(rb'\s*\{\s*"error"\s*:\s*(?!null)')
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')


class ProviderStream:
    """Async iterator over event payloads (``bytes``, JSON text each), in order.

    ``[DONE]`` ends the iteration and is not yielded. Every stream must be read to its end or closed with :meth:`aclose`
    (or used as an async context manager); closing cuts the upstream at once, so that it stops generating.

    Raises while iterating:
        ProviderTimeoutError: The next chunk, or the whole answer, did not come in time.
        ProviderError: The stream broke off: it ended with neither ``[DONE]`` nor a finish reason, an event passed
            8 MiB, or the upstream sent an ``error`` event (then of the class that the error's code means).
    """

    __slots__ = (
        "_decoder",
        "_ended",
        "_exchange",
        "_last",
        "_now",
        "_on_end",
        "_ready",
        "_upstream_key",
        "attempts",
        "headers",
        "model",
        "upstream",
    )

    def __init__(
        self,
        exchange: Exchange,
        *,
        upstream: str,
        model: str,
        attempts: int,
        headers: dict[str, str],
        key: str,
        now: Callable[[], float],
        on_end: Callable[[Failure | None], None],
    ) -> None:
        #: Name of the upstream that answers.
        self.upstream = upstream
        #: Model name the upstream was asked for.
        self.model = model
        #: Attempts it took to get here.
        self.attempts = attempts
        #: The upstream's headers that are safe to pass on; names in lower case.
        self.headers = headers
        self._exchange = exchange
        self._upstream_key = key
        self._now = now
        self._on_end = on_end
        self._decoder = SSEDecoder()
        self._ready: deque[bytes] = deque()
        self._last: deque[bytes] = deque(maxlen=4)
        self._ended = False

    def __repr__(self) -> str:
        return f"ProviderStream(upstream={self.upstream!r}, model={self.model!r}, ended={self._ended})"

    def __aiter__(self) -> ProviderStream:
        return self

    async def __anext__(self) -> bytes:
        ready = self._ready
        while not ready:
            if self._ended:
                raise StopAsyncIteration
            await self._fill()
        payload = ready.popleft()
        if payload == DONE:
            ready.clear()
            self._finish(None)
            self._exchange.detach()
            raise StopAsyncIteration
        if payload.startswith((b'{"error"', b"{ ", b"{\n", b" ")) and _ERROR.match(payload):
            self._break(self._upstream_error(payload))
        self._last.append(payload)
        return payload

    async def __aenter__(self) -> ProviderStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop: the connection to the upstream is cut at once unless the answer is complete. May be called twice."""
        self._ready.clear()
        self._finish(None)
        self._exchange.close()

    async def _fill(self) -> None:
        """Wait for bytes and decode them; at the end of the body, decide whether it was a regular one."""
        try:
            chunk = await self._exchange.chunk()
            if chunk:
                self._ready.extend(self._decoder.feed(chunk))
                return
            self._ready.extend(self._decoder.close())
        except TransportError as exc:
            self._break(from_transport(self.upstream, exc))
        except EventTooLargeError:
            self._break(from_answer(self.upstream, "an event of the stream is too large"))
        if not self._ready:
            # Some servers leave out [DONE]; a finish reason among the last events tells that nothing is missing.
            if not any(map(_FINISHED.search, self._last)):
                self._break(from_answer(self.upstream, "the stream broke off before its end"))
            self._finish(None)

    def _upstream_error(self, payload: bytes) -> Failure:
        try:
            error: Any = msgspec.json.decode(payload)["error"]
        except (msgspec.DecodeError, UnicodeDecodeError):
            error = None
        return from_error_object(self.upstream, error, key=self._upstream_key, now=self._now())

    def _break(self, failure: Failure) -> None:
        """End with an error. Never returns."""
        self._ready.clear()
        self._finish(failure)
        self._exchange.close()
        raise failure.error from None

    def _finish(self, failure: Failure | None) -> None:
        if not self._ended:
            self._ended = True
            self._on_end(failure)
