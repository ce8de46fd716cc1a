"""One call, tried until it is answered: candidates in order, retries with full jitter, a circuit per upstream."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from sparkle.clock import Clock
from sparkle.errors import CircuitOpenError, InvalidRequestError, ProviderError, ProviderTimeoutError
from sparkle.llm.providers.breaker import CircuitBreaker
from sparkle.llm.providers.events import Outcome, UpstreamEvent
from sparkle.llm.providers.failures import AttemptFailedError, Failure, from_transport
from sparkle.llm.providers.routes import Routes
from sparkle.llm.providers.transport import Exchange, TransportError
from sparkle.llm.providers.upstream import Upstream
from sparkle.settings import ProviderSettings

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Attempt:
    """One try at one upstream. It is over when :meth:`Attempts.end` was told, or when the permit was released."""

    upstream: Upstream
    model: str
    number: int
    permit: int
    started: float
    hurried: bool
    """The caller's own deadline is the one that ends it: running into it says nothing about the upstream."""


Finish = Callable[[Attempt, Exchange], Awaitable[T]]
"""Makes the result of an exchange, or raises ``TransportError`` or ``AttemptFailedError``. It reports a success itself,
with :meth:`Attempts.end`, because a stream's success is known later."""


class Attempts:
    """Runs calls. See :class:`~sparkle.llm.providers.router.ProviderRouter` for the rules it follows."""

    def __init__(
        self,
        settings: ProviderSettings,
        routes: Routes,
        breakers: Mapping[str, CircuitBreaker],
        *,
        clock: Clock,
        rng: random.Random,
        observe: Callable[[UpstreamEvent], None] | None,
    ) -> None:
        self._settings = settings
        self._routes = routes
        self._breakers = breakers
        self._clock = clock
        self._rng = rng
        self._observe = observe

    async def run(
        self, path: str, body: dict[str, Any], extra: bytes, deadline: float | None, finish: Finish[T]
    ) -> T:
        """Try the candidates for ``body["model"]`` until one answers; errors as in :meth:`ProviderRouter.chat`."""
        model: Any = body.get("model")
        if not isinstance(model, str) or not model:
            raise InvalidRequestError("model is required and must be a string", param="model")
        monotonic = self._clock.monotonic
        ends = monotonic() + self._settings.total_timeout
        hurried = deadline is not None and deadline < ends
        if deadline is not None and hurried:
            ends = deadline
        number = 0
        error: ProviderError | None = None
        for upstream, name in self._routes.resolve(model):
            payload = _payload(body if name == model else {**body, "model": name})
            breaker = self._breakers[upstream.name]
            retries = 0
            stale = waited = False
            while True:
                now = monotonic()
                if now >= ends:
                    raise error or ProviderTimeoutError("the call's deadline has passed")
                number += 1
                permit = breaker.enter()
                if permit is None:
                    error = self._resting(upstream, name, number, breaker.wait(), error)
                    break
                attempt = Attempt(upstream, name, number, permit, now, hurried)
                try:
                    exchange = await upstream.post(path, extra, payload, ends - now)
                    try:
                        return await finish(attempt, exchange)
                    except BaseException:  # whatever ends it, the connection is not left behind
                        exchange.close()
                        raise
                except TransportError as exc:
                    failure = from_transport(upstream.name, exc)
                    if exc.kind == "reset" and exc.reused and not stale:
                        stale = True
                        self.end(attempt, failure)
                        continue  # the connection had gone stale: once more at once, which is not a retry
                except AttemptFailedError as exc:
                    failure = exc.failure
                except BaseException:  # cancelled, or a defect: neither tells anything about the upstream
                    breaker.release(attempt.permit)
                    raise
                error = failure.error
                if failure.retry and upstream.patient and not waited:
                    waited = True
                    self.end(attempt, replace(failure, trips=False))  # being started again is no illness
                    if await upstream.came_back(ends - monotonic()):
                        continue
                else:
                    self.end(attempt, failure)
                pause = self._pause(failure, retries, ends)
                if pause is None:
                    if not failure.fallback:
                        raise error
                    break
                retries += 1
                await self._clock.sleep(pause)
        raise error or ProviderError()

    def end(self, attempt: Attempt, failure: Failure | None) -> None:
        """An attempt is over: tell its circuit and whoever observes."""
        breaker = self._breakers[attempt.upstream.name]
        outcome: Outcome = "ok"
        if failure is None:
            breaker.succeed(attempt.permit)
        else:
            outcome = failure.outcome
            if failure.trips and not (failure.deadline and attempt.hurried):
                breaker.fail(attempt.permit)
            elif outcome in ("rejected", "rate_limit"):
                breaker.answered(attempt.permit)  # it refuses, so it is up
            else:
                breaker.release(attempt.permit)
        if self._observe is not None:
            seconds = self._clock.monotonic() - attempt.started
            self._observe(
                UpstreamEvent(attempt.upstream.name, attempt.model, outcome, seconds, attempt.number)
            )

    def _pause(self, failure: Failure, retries: int, ends: float) -> float | None:
        """Seconds to wait before the same upstream is tried again; ``None``: it is not."""
        settings = self._settings
        if not failure.retry or retries >= (
            min(1, settings.max_retries) if failure.once else settings.max_retries
        ):
            return None
        pause = self._rng.uniform(
            0.0, min(settings.retry_max_seconds, settings.retry_base_seconds * 2.0**retries)
        )
        if failure.wait is not None:
            if failure.wait > settings.retry_max_seconds:
                return None
            pause = max(pause, failure.wait)
        return pause if self._clock.monotonic() + pause < ends else None

    def _resting(
        self, upstream: Upstream, model: str, number: int, wait: float, error: ProviderError | None
    ) -> ProviderError:
        """An upstream's circuit is open: the error to raise if no other candidate does better."""
        if self._observe is not None:
            self._observe(UpstreamEvent(upstream.name, model, "circuit_open", 0.0, number))
        if error is not None and not isinstance(error, CircuitOpenError):
            return error  # what really happened at another upstream says more
        if error is not None and error.retry_after is not None and error.retry_after <= wait:
            return error
        return CircuitOpenError(
            f"upstream {upstream.name!r} failed too often and is given a rest", retry_after=wait
        )


def _payload(body: dict[str, Any]) -> bytes:
    try:
        return _encode(body)
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequestError("the request cannot be written as JSON") from None
