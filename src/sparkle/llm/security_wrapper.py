"""The guarded call: the only file that knows all five layers, in the order a request walks them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from sparkle.clock import Clock, SystemClock
from sparkle.errors import (
    GuardFailedError,
    InvalidRequestError,
    ProviderError,
)
from sparkle.llm.admission import Admission, Admitted, off_loop_if_large
from sparkle.llm.answer_fields import guard_rejection
from sparkle.llm.answers import GuardedAnswer, guard_answer, reported_usage
from sparkle.llm.guard_failure import log_guard_failure
from sparkle.llm.guarded_stream import GuardedStream
from sparkle.llm.guards import Guards
from sparkle.llm.outcomes import new_request_id, record_failure
from sparkle.llm.requests import ChatRequest, EmbeddingsRequest, parse_chat
from sparkle.llm.results import ChatResult, StreamEvent
from sparkle.llm.usage import Principal, Usage
from sparkle.llm.verdict import Action

if TYPE_CHECKING:
    from sparkle.llm.monitoring import CallRecord, LLMMonitor
    from sparkle.llm.providers import ProviderResponse, ProviderRouter
    from sparkle.llm.quota import LimitState, LLMCostGuard, Reservation, TokenCounter


@dataclass(frozen=True, slots=True)
class EmbeddingsResult:
    """A finished embeddings call."""

    request_id: str
    body: bytes
    usage: Usage
    upstream: str
    limits: tuple[LimitState, ...]


class LLMSecurityWrapper:
    """Guards every call in five layers: input safety, quota and cost, provider, output validation, monitoring.

    Build one with :func:`sparkle.open_wrapper`; it is shared by all calls of a process.
    """

    def __init__(
        self,
        *,
        guards: Callable[[], Guards],
        quota: LLMCostGuard,
        tokens: TokenCounter,
        provider: ProviderRouter,
        monitor: LLMMonitor,
        clock: Clock | None = None,
    ) -> None:
        self._admission = Admission(guards, quota, tokens, provider.serving, clock or SystemClock())
        self._quota = quota
        self._tokens = tokens
        self._provider = provider
        self._monitor = monitor
        self._clock = clock or SystemClock()

    async def chat(
        self,
        user_id: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        team: str | None = None,
        **params: Any,
    ) -> ChatResult:
        """Answer ``messages`` for ``user_id``.

        Args:
            user_id: Whom the call is charged to.
            messages: OpenAI chat messages; role ``retrieved`` marks text from documents.
            model: Model name; ``None`` takes the first one the upstreams offer.
            team: Team whose limits also apply.
            **params: Any further field of the OpenAI API (``max_tokens``, ``temperature``, ``tools`` ...).

        Raises:
            InvalidRequestError: Malformed messages or parameters.
            InputBlockedError: The input guard refused; ``details["findings"]`` says why.
            RateLimitError, QuotaExceededError: A limit is reached; ``retry_after`` says until when.
            StoreUnavailableError: The quota store is down and the policy fails closed.
            ProviderError: Every upstream failed.
        """
        request = await self._library_request(messages, model, {**params, "stream": False})
        return await self.complete(request, Principal(user=user_id, team=team), request_id=new_request_id())

    async def stream(
        self,
        user_id: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        team: str | None = None,
        **params: Any,
    ) -> AsyncIterator[StreamEvent]:
        """Like :meth:`chat`, piece by piece; the last event carries the :class:`ChatResult`.

        Closing the iterator early ends the upstream call; what was generated until then is charged.
        """
        request = await self._library_request(messages, model, {**params, "stream": True})
        guarded = await self.open_stream(
            request, Principal(user=user_id, team=team), request_id=new_request_id()
        )
        try:
            async for _ in guarded.payloads():
                for text in guarded.take_text():
                    yield StreamEvent(text)
            yield StreamEvent("", done=True, result=guarded.result())
        finally:
            await guarded.aclose()

    async def complete(
        self, request: ChatRequest, who: Principal, *, request_id: str, traceparent: str | None = None
    ) -> ChatResult:
        """Run a validated, non-streaming request; raises as :meth:`chat`."""
        record = self._begin("chat", request.model, who, request_id, traceparent, stream=False)
        ready: Admitted | None = None
        response: ProviderResponse | None = None
        try:
            ready = await self._admission.chat(request, who, record)
            record.upstream_started()
            response = await self._provider.chat(ready.body, headers={"traceparent": record.traceparent})
            record.upstream_finished(response.upstream)
            return await self._finish(request, ready, response, request_id)
        except BaseException as exc:
            if ready is not None:
                guard_rejection(exc, ready.guards.output, ready.prompt)
            self._abandon(ready, response)
            record_failure(record, exc)
            raise

    async def open_stream(
        self, request: ChatRequest, who: Principal, *, request_id: str, traceparent: str | None = None
    ) -> GuardedStream:
        """Start a validated streaming request; raises as :meth:`chat` before the first byte is out."""
        record = self._begin("chat", request.model, who, request_id, traceparent, stream=True)
        ready: Admitted | None = None
        try:
            ready = await self._admission.chat(request, who, record)
            record.upstream_started()
            upstream = await self._provider.stream(ready.body, headers={"traceparent": record.traceparent})
        except BaseException as exc:
            if ready is not None:
                guard_rejection(exc, ready.guards.output, ready.prompt)
            self._abandon(ready, None)
            record_failure(record, exc)
            raise
        return GuardedStream(
            request=request,
            request_id=request_id,
            upstream=upstream,
            validator=ready.guards.output,
            prompt=ready.prompt,
            reservation=ready.reservation,
            prompt_tokens=ready.tokens.exact,
            input_verdict=ready.verdict,
            quota=self._quota,
            tokens=self._tokens,
            record=record,
            fail_open=ready.guards.policy.output.on_error == "open",
        )

    async def embed(
        self, request: EmbeddingsRequest, who: Principal, *, request_id: str, traceparent: str | None = None
    ) -> EmbeddingsResult:
        """Run a validated embeddings request. Rules only watch here: an embedding model follows no instructions."""
        record = self._begin("embeddings", request.model, who, request_id, traceparent, stream=False)
        ready: Admitted | None = None
        response: ProviderResponse | None = None
        try:
            ready = await self._admission.embeddings(request, who, record)
            record.upstream_started()
            response = await self._provider.embeddings(
                request.body, headers={"traceparent": record.traceparent}
            )
            record.upstream_finished(response.upstream)
            usage = reported_usage(response.body) or Usage(ready.tokens.exact(), 0, estimated=True)
            cost = await self._settle(ready.reservation, usage, response.model)
            record.usage(usage, cost)
            record.finish("ok", 200)
            limits = ready.reservation.limits if ready.reservation else ()
            return EmbeddingsResult(request_id, response.body, usage, response.upstream, limits)
        except BaseException as exc:
            self._abandon(ready, response)
            record_failure(record, exc)
            raise

    # The five steps ------------------------------------------------------------------------------------------

    async def _finish(
        self, request: ChatRequest, ready: Admitted, response: ProviderResponse, request_id: str
    ) -> ChatResult:
        record, raw, model = ready.record, response.body, response.model
        started = self._clock.monotonic()
        try:
            answer = await off_loop_if_large(
                lambda: guard_answer(raw, ready.guards.output, ready.prompt), len(raw)
            )
        except ProviderError:
            await self._settle(ready.reservation, self._estimate(ready, ""), model)
            raise
        except Exception as exc:  # a crash of the guard itself: the policy says whether that closes the door
            log_guard_failure("output", exc)
            record.guard_failed("output", ready.guards.policy.output.on_error)
            await self._settle(ready.reservation, reported_usage(raw) or self._estimate(ready, ""), model)
            if ready.guards.policy.output.on_error == "open":
                answer = GuardedAnswer.unchecked(raw)
            else:
                raise GuardFailedError("the output guard failed; the answer was withheld") from exc
        record.output_checked(answer.verdict, self._clock.monotonic() - started)
        usage = answer.usage or self._estimate(ready, answer.generated)
        cost = await self._settle(ready.reservation, usage, model)
        record.usage(usage, cost)
        blocked = answer.verdict.action is Action.BLOCK
        record.finish("output_blocked" if blocked else "ok", 200, finish_reason=answer.finish_reason)
        return ChatResult(
            request_id=request_id,
            model=answer.model or request.model,
            upstream=response.upstream,
            text=answer.text,
            finish_reason=answer.finish_reason,
            usage=usage,
            cost_nano=cost,
            input_verdict=ready.verdict,
            output_verdict=answer.verdict,
            limits=ready.reservation.limits if ready.reservation else (),
            body=answer.body,
            tool_calls=answer.tool_calls,
        )

    # Helpers -------------------------------------------------------------------------------------------------

    def _estimate(self, ready: Admitted, generated: str) -> Usage:
        answer = self._tokens.count_text(generated, str(ready.body["model"])) if generated else 0
        return Usage(ready.tokens.exact(), answer, estimated=True)

    async def _settle(self, reservation: Reservation | None, usage: Usage, model: str) -> int:
        if reservation is None:
            return 0
        settlement = await self._quota.settle(reservation, usage, model)
        return settlement.cost_nano

    def _abandon(self, ready: Admitted | None, response: ProviderResponse | None) -> None:
        """End the reservation of a call that broke off, however it did; one that has ended stays as it is.

        Without an answer nothing is charged; with one, what the upstream reports, or at least the prompt.
        """
        if ready is None or ready.reservation is None:
            return
        if response is None:
            self._quota.abandon(ready.reservation)
        else:
            self._quota.abandon(ready.reservation, reported_usage(response.body) or self._estimate(ready, ""))

    def _begin(
        self,
        operation: Any,
        model: str,
        who: Principal,
        request_id: str,
        traceparent: str | None,
        *,
        stream: bool,
    ) -> CallRecord:
        return self._monitor.begin(
            request_id=request_id,
            principal=who,
            model=model,
            operation=operation,
            stream=stream,
            traceparent=traceparent,
        )

    async def _library_request(
        self, messages: Sequence[Mapping[str, Any]], model: str | None, params: dict[str, Any]
    ) -> ChatRequest:
        if model is None:
            offered = await self._provider.models()
            if not offered:
                raise InvalidRequestError("no upstream offers a model; name one", param="model")
            model = str(offered[0]["id"])
        # msgspec turns whatever the caller holds into plain dicts, or says what it cannot.
        try:
            body = msgspec.to_builtins({**params, "model": model, "messages": list(messages)}, str_keys=True)
        except (TypeError, ValueError, RecursionError) as exc:
            raise InvalidRequestError(f"the request is not JSON: {type(exc).__name__}") from None
        return parse_chat(body)
