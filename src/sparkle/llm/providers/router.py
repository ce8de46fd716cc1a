"""The router: which upstream answers a call, when it is tried again, and what is reported about it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from sparkle.clock import Clock
from sparkle.errors import ProviderError
from sparkle.llm.providers.attempts import Attempt, Attempts
from sparkle.llm.providers.breaker import CircuitBreaker, CircuitState
from sparkle.llm.providers.events import ProviderResponse, UpstreamEvent
from sparkle.llm.providers.failures import (
    AttemptFailedError,
    from_answer,
    from_error_object,
    from_status,
)
from sparkle.llm.providers.routes import Routes
from sparkle.llm.providers.stream import ProviderStream
from sparkle.llm.providers.transport import Exchange, Timeouts, TransportError
from sparkle.llm.providers.upstream import CHAT, EMBEDDINGS, Upstream
from sparkle.llm.providers.wire import wire_rules
from sparkle.settings import ProviderSettings

log = logging.getLogger("sparkle.providers")

MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 1024 * 1024
MODELS_CACHE_SECONDS = 60.0
_NO_HEADERS: Mapping[str, str] = {}


class _Answer(msgspec.Struct):
    """Enough of an answer to know that it is JSON and no error."""

    error: msgspec.Raw = msgspec.Raw(b"")


_decode_answer = msgspec.json.Decoder(_Answer).decode


def _log_change(name: str, rest: float, down: bool) -> None:
    if down:
        log.warning("upstream %s is down: it failed time after time and rests, tried every %g s", name, rest)
    else:
        log.info("upstream %s is back", name)


class ProviderRouter:
    """What the guarded call talks to: upstreams, aliases, fallback order, retries and circuits.

    Retries use exponential backoff with full jitter: before retry n (from 0) it waits a random time between 0 and
    ``min(retry_max_seconds, retry_base_seconds * 2**n)`` seconds, and at least as long as the upstream asked for. A
    call goes to the next candidate when the present one fails for good or rests. Nothing is tried again once a byte of
    a stream was handed on. ``failures.py`` has the whole table. Used within one event loop.

    Args:
        settings: Timeouts, retries, circuit and aliases.
        upstreams: In order of preference.
        clock: Time for deadlines, backoff and circuits.
        rng: Source of the jitter.
        observe: Told about every attempt; must not raise.

    Raises:
        ConfigurationError: Aliases or names do not fit together.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        upstreams: Sequence[Upstream],
        *,
        clock: Clock,
        rng: random.Random,
        observe: Callable[[UpstreamEvent], None] | None = None,
    ) -> None:
        self._settings = settings
        self._upstreams = tuple(upstreams)
        self._routes = Routes(upstreams, settings.aliases)
        self._clock = clock
        self._wire = wire_rules()
        self._breakers = {
            upstream.name: CircuitBreaker(
                failures=settings.breaker_failures,
                reset_seconds=settings.breaker_reset_seconds,
                clock=clock,
                tell=partial(_log_change, upstream.name, settings.breaker_reset_seconds),
            )
            for upstream in upstreams
        }
        self._attempts = Attempts(
            settings, self._routes, self._breakers, clock=clock, rng=rng, observe=observe
        )
        self._models: list[dict[str, Any]] = []
        self._models_until = float("-inf")
        self._models_lock: asyncio.Lock | None = None

    def __repr__(self) -> str:
        return f"ProviderRouter({', '.join(upstream.name for upstream in self._upstreams)})"

    async def start(self) -> None:
        """Make the connection pools inside the running loop; opens no connection."""
        settings = self._settings
        timeouts = Timeouts(settings.connect_timeout, settings.first_byte_timeout, settings.idle_timeout)
        self._models_lock = asyncio.Lock()
        for upstream in self._upstreams:
            await upstream.start(timeouts)

    async def close(self) -> None:
        """Close every connection; running calls fail. May be called twice."""
        for upstream in self._upstreams:
            await upstream.close()

    async def chat(
        self, body: dict[str, Any], *, headers: Mapping[str, str] = _NO_HEADERS, deadline: float | None = None
    ) -> ProviderResponse:
        """A whole chat completion.

        Args:
            body: The request as the OpenAI API has it, checked by the caller; not changed. ``stream`` is left out.
            headers: The caller's headers; only those of ``data/wire.yaml`` go upstream, never ``Authorization``.
            deadline: ``clock.monotonic()`` time at which the caller stops waiting; ``total_timeout`` holds as well.

        Raises:
            InvalidRequestError: ``model`` is missing, or the body is not JSON-able.
            NotFoundError: No upstream serves the model.
            ProviderError: The upstream failed; the subclass says how.
        """
        if "stream" in body:
            body = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
        return await self._attempts.run(CHAT, body, self._wire.forwarded(headers), deadline, self._whole)

    async def embeddings(
        self, body: dict[str, Any], *, headers: Mapping[str, str] = _NO_HEADERS, deadline: float | None = None
    ) -> ProviderResponse:
        """Embeddings; arguments and errors as for :meth:`chat`."""
        return await self._attempts.run(
            EMBEDDINGS, body, self._wire.forwarded(headers), deadline, self._whole
        )

    async def stream(
        self, body: dict[str, Any], *, headers: Mapping[str, str] = _NO_HEADERS, deadline: float | None = None
    ) -> ProviderStream:
        """A streamed chat completion; returns once an upstream has answered 200 with an event stream.

        Arguments and errors as for :meth:`chat`; ``stream`` is set. After the return nothing is tried again: what fails
        then is raised by the stream.
        """
        if body.get("stream") is not True:
            body = {**body, "stream": True}
        return await self._attempts.run(CHAT, body, self._wire.forwarded(headers), deadline, self._streamed)

    async def models(self) -> list[dict[str, Any]]:
        """Model objects of all upstreams, aliases first; a failing upstream is left out. Cached for a minute.

        A fresh copy of the list; the objects in it are shared and must not be changed.
        """
        if self._models_lock is None:
            raise ProviderError("the router is not started")
        async with self._models_lock:
            if self._clock.monotonic() >= self._models_until:
                answers = await asyncio.gather(
                    *(upstream.list_models() for upstream in self._upstreams), return_exceptions=True
                )
                fetched: dict[str, list[dict[str, Any]]] = {}
                for upstream, answer in zip(self._upstreams, answers, strict=True):
                    if isinstance(answer, list):
                        fetched[upstream.name] = answer
                    elif not isinstance(answer, TransportError):
                        raise answer  # a defect or a cancellation, not a failing upstream
                self._models = self._routes.listed(fetched)
                # While one is missing, look again soon.
                complete = len(fetched) == len(self._upstreams)
                self._models_until = self._clock.monotonic() + (MODELS_CACHE_SECONDS if complete else 5.0)
            return list(self._models)

    def known_models(self) -> frozenset[str]:
        """Model names that are safe as a metric's label: those the settings spell out and those last listed."""
        return frozenset((*self._routes.known_models(), *(model["id"] for model in self._models)))

    def serving(self, model: str) -> tuple[str, ...]:
        """Names under which upstreams may be asked for ``model``: alias targets and fallbacks, in order.

        Raises:
            NotFoundError: No upstream serves it.
        """
        return tuple(dict.fromkeys(name for _, name in self._routes.resolve(model)))

    def circuits(self) -> dict[str, CircuitState]:
        """State of each upstream's circuit, by upstream name."""
        return {name: breaker.state for name, breaker in self._breakers.items()}

    async def ready(self) -> None:
        """Return if a call could be answered now.

        Cheap: looks at the circuits; only the local model is asked for its health, over loopback.

        Raises:
            ProviderError: Every upstream rests or is down.
        """
        for upstream in self._upstreams:
            breaker = self._breakers[upstream.name]
            if (breaker.state == "closed" or breaker.wait() <= 0) and await upstream.healthy():
                return
        raise ProviderError("no upstream is usable")

    async def loaded(self) -> bool:
        """Whether every upstream that loads something at its start (the local model) is done with it."""
        for upstream in self._upstreams:
            if not await upstream.healthy():
                return False
        return True

    async def _whole(self, attempt: Attempt, exchange: Exchange) -> ProviderResponse:
        answer = await exchange.read(MAX_ANSWER_BYTES)
        self._check(attempt, exchange, answer)
        self._attempts.end(attempt, None)
        kept = self._wire.kept(exchange.headers)
        return ProviderResponse(
            exchange.status, answer, kept, attempt.upstream.name, attempt.model, attempt.number
        )

    async def _streamed(self, attempt: Attempt, exchange: Exchange) -> ProviderStream:
        upstream = attempt.upstream
        status = await exchange.head()
        if not 200 <= status < 300:
            self._check(attempt, exchange, await exchange.read(MAX_ERROR_BYTES))
        kept = self._wire.kept(exchange.headers)
        if "event-stream" not in kept.get("content-type", "").lower():
            self._check(attempt, exchange, await exchange.read(MAX_ANSWER_BYTES))
            raise AttemptFailedError(from_answer(upstream.name, "the answer is not a stream"))
        attempt.permit = self._breakers[upstream.name].answered(attempt.permit)
        return ProviderStream(
            exchange,
            upstream=upstream.name,
            model=attempt.model,
            attempts=attempt.number,
            headers=kept,
            key=upstream.key,
            now=self._clock.now,
            on_end=partial(self._attempts.end, attempt),
        )

    def _check(self, attempt: Attempt, exchange: Exchange, answer: bytes) -> None:
        """Pass a 2xx answer that is JSON and no error; raise ``AttemptFailedError`` for anything else."""
        name, key, status = attempt.upstream.name, attempt.upstream.key, exchange.status
        if not 200 <= status < 300:
            now = self._clock.now()
            raise AttemptFailedError(from_status(name, status, exchange.headers, answer, key=key, now=now))
        try:
            error = _decode_answer(answer).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise AttemptFailedError(from_answer(name, "the answer is not a JSON object")) from None
        if error and bytes(error) != b"null":
            said: Any = msgspec.json.decode(error)
            raise AttemptFailedError(from_error_object(name, said, key=key, now=self._clock.now()))
