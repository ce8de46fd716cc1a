"""The guarded call: the only file that knows all five layers, in the order a request walks them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from sparkle.clock import Clock, SystemClock
from sparkle.errors import (
    InputBlockedError,
    InvalidRequestError,
    LimitError,
    ProviderError,
    ProviderRejectedError,
    SparkleError,
    StoreUnavailableError,
)
from sparkle.llm.answers import GuardedAnswer, guard_answer, reported_usage
from sparkle.llm.guard_failure import log_guard_failure
from sparkle.llm.guarded_stream import GuardedStream
from sparkle.llm.guards import Guards
from sparkle.llm.requests import ChatRequest, EmbeddingsRequest, parse_chat
from sparkle.llm.results import ChatResult, StreamEvent
from sparkle.llm.upstream_body import system_texts, text_size, upstream_body
from sparkle.llm.usage import Principal, Usage
from sparkle.llm.verdict import ALLOW, Action, Verdict

if TYPE_CHECKING:
    from sparkle.llm.monitoring import CallRecord, LLMMonitor
    from sparkle.llm.output import PromptGuard
    from sparkle.llm.providers import ProviderRouter
    from sparkle.llm.quota import LimitState, LLMCostGuard, Reservation, TokenCounter

T = TypeVar("T")

_THREAD_ABOVE_CHARS = 30_000
"""Above this many characters a check leaves the event loop, so that one long text does not stall the others."""


@dataclass(frozen=True, slots=True)
class EmbeddingsResult:
    """A finished embeddings call."""

    request_id: str
    body: bytes
    usage: Usage
    upstream: str
    limits: tuple[LimitState, ...]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the first two layers leave for the provider."""

    guards: Guards
    record: CallRecord
    verdict: Verdict
    reservation: Reservation | None
    body: dict[str, Any]
    prompt: PromptGuard | None


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
        self._guards = guards
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
        try:
            ready = await self._prepare(request, who, record)
            response = await self._call(ready)
            return await self._finish(request, ready, response.body, response.upstream, request_id)
        except BaseException as exc:
            _record_failure(record, exc)
            raise

    async def open_stream(
        self, request: ChatRequest, who: Principal, *, request_id: str, traceparent: str | None = None
    ) -> GuardedStream:
        """Start a validated streaming request; raises as :meth:`chat` before the first byte is out."""
        record = self._begin("chat", request.model, who, request_id, traceparent, stream=True)
        try:
            ready = await self._prepare(request, who, record)
            try:
                record.upstream_started()
                upstream = await self._provider.stream(
                    ready.body, headers={"traceparent": record.traceparent}
                )
            except BaseException:
                await self._release(ready.reservation)
                raise
        except BaseException as exc:
            _record_failure(record, exc)
            raise
        return GuardedStream(
            request=request,
            request_id=request_id,
            upstream=upstream,
            validator=ready.guards.output,
            prompt=ready.prompt,
            reservation=ready.reservation,
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
        try:
            guards = self._guards()
            size = sum(map(len, request.texts))
            verdict = await self._judge(guards, lambda: _judge_texts(guards, request.texts), size, record)
            _refuse_if_blocked(verdict)
            count = request.token_ids + await _off_loop_if_large(
                lambda: sum(self._tokens.count_text(text, request.model) for text in request.texts), size
            )
            reservation = await self._reserve(guards, who, request.model, count, 0, 1, record)
            try:
                record.upstream_started()
                response = await self._provider.embeddings(
                    request.body, headers={"traceparent": record.traceparent}
                )
                record.upstream_finished(response.upstream)
            except BaseException:
                await self._release(reservation)
                raise
            usage = reported_usage(response.body) or Usage(count, 0, estimated=True)
            cost = await self._settle(reservation, usage)
            record.usage(usage, cost)
            record.finish("ok", 200)
            limits = reservation.limits if reservation else ()
            return EmbeddingsResult(request_id, response.body, usage, response.upstream, limits)
        except BaseException as exc:
            _record_failure(record, exc)
            raise

    # The five steps ------------------------------------------------------------------------------------------

    async def _prepare(self, request: ChatRequest, who: Principal, record: CallRecord) -> _Prepared:
        guards = self._guards()
        size = text_size(request.messages)
        messages = request.messages

        def judge() -> Verdict:
            nonlocal messages
            result = guards.safety.check_messages(request.messages, request.body.get("tools"))
            messages = result.messages
            return result.verdict

        verdict = await self._judge(guards, judge, size, record, request.messages)
        _refuse_if_blocked(verdict)
        tokens = await _off_loop_if_large(
            lambda: self._tokens.count_messages(messages, request.model, request.body.get("tools")), size
        )
        reservation = await self._reserve(
            guards, who, request.model, tokens, request.max_tokens, request.choices, record
        )
        cap = reservation.max_output_tokens if reservation else request.max_tokens or 4096
        system = system_texts(request.messages)
        canary = f"ref-{secrets.token_hex(8)}" if guards.policy.output.canary and system else None
        prompt = guards.output.prompt_guard(system, canary) if system else None
        return _Prepared(
            guards, record, verdict, reservation, upstream_body(request, messages, cap, canary=canary), prompt
        )

    async def _judge(
        self,
        guards: Guards,
        judge: Callable[[], Verdict],
        size: int,
        record: CallRecord,
        messages: Sequence[Mapping[str, Any]] | None = None,
    ) -> Verdict:
        started = self._clock.monotonic()
        try:
            verdict = await _off_loop_if_large(judge, size)
        except SparkleError:
            raise
        except Exception as exc:  # a crash of the guard itself: the policy says whether that closes the door
            log_guard_failure("input", exc)
            record.guard_failed("input", guards.policy.input.on_error)
            if guards.policy.input.on_error == "open":
                verdict = ALLOW
            else:
                raise SparkleError("the input guard failed; the call was refused") from exc
        record.input_checked(verdict, self._clock.monotonic() - started, messages=messages)
        return verdict

    async def _reserve(
        self,
        guards: Guards,
        who: Principal,
        model: str,
        prompt_tokens: int,
        max_tokens: int | None,
        choices: int,
        record: CallRecord,
    ) -> Reservation | None:
        started = self._clock.monotonic()
        try:
            reservation = await self._quota.reserve(
                who, model=model, prompt_tokens=prompt_tokens, max_output_tokens=max_tokens, choices=choices
            )
        except LimitError as exc:
            record.refused(exc, self._clock.monotonic() - started)
            raise
        except StoreUnavailableError:
            record.guard_failed("quota", guards.policy.quota.on_error)
            if guards.policy.quota.on_error == "open":
                return None
            raise
        record.reserved(reservation, self._clock.monotonic() - started)
        return reservation

    async def _call(self, ready: _Prepared) -> Any:
        ready.record.upstream_started()
        try:
            response = await self._provider.chat(
                ready.body, headers={"traceparent": ready.record.traceparent}
            )
        except BaseException:
            await self._release(ready.reservation)
            raise
        ready.record.upstream_finished(response.upstream)
        return response

    async def _finish(
        self, request: ChatRequest, ready: _Prepared, raw: bytes, upstream: str, request_id: str
    ) -> ChatResult:
        record = ready.record
        started = self._clock.monotonic()
        try:
            size = len(raw)
            if size <= _THREAD_ABOVE_CHARS:
                answer = guard_answer(raw, ready.guards.output, ready.prompt)
            else:
                answer = await asyncio.to_thread(guard_answer, raw, ready.guards.output, ready.prompt)
        except ProviderError:
            await self._settle(ready.reservation, self._estimate(ready, ""))
            raise
        except Exception as exc:  # a crash of the guard itself: the policy says whether that closes the door
            log_guard_failure("output", exc)
            record.guard_failed("output", ready.guards.policy.output.on_error)
            await self._settle(ready.reservation, reported_usage(raw) or self._estimate(ready, ""))
            if ready.guards.policy.output.on_error == "open":
                answer = GuardedAnswer.unchecked(raw)
            else:
                raise SparkleError("the output guard failed; the answer was withheld") from exc
        record.output_checked(answer.verdict, self._clock.monotonic() - started)
        usage = answer.usage or self._estimate(ready, answer.generated)
        cost = await self._settle(ready.reservation, usage)
        record.usage(usage, cost)
        blocked = answer.verdict.action is Action.BLOCK
        record.finish("output_blocked" if blocked else "ok", 200, finish_reason=answer.finish_reason)
        return ChatResult(
            request_id=request_id,
            model=answer.model or request.model,
            upstream=upstream,
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

    def _estimate(self, ready: _Prepared, generated: str) -> Usage:
        reservation = ready.reservation
        prompt = reservation.prompt_tokens if reservation else 0
        model = str(ready.body["model"])
        return Usage(prompt, self._tokens.count_text(generated, model), estimated=True)

    async def _settle(self, reservation: Reservation | None, usage: Usage) -> int:
        if reservation is None:
            return 0
        settlement = await self._quota.settle(reservation, usage)
        return settlement.cost_nano

    async def _release(self, reservation: Reservation | None) -> None:
        if reservation is not None:
            await asyncio.shield(self._quota.release(reservation))

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


def new_request_id() -> str:
    """A fresh request id, ``req_`` and 24 hexadecimal digits."""
    return "req_" + secrets.token_hex(12)


def findings_json(verdict: Verdict) -> list[dict[str, Any]]:
    """Findings as JSON-able dicts for error bodies and response extras."""
    return [msgspec.to_builtins(finding) for finding in verdict.findings]


async def _off_loop_if_large(work: Callable[[], T], size: int) -> T:
    """Do ``work`` on ``size`` characters here, or in a thread where that would hold up other calls."""
    return work() if size <= _THREAD_ABOVE_CHARS else await asyncio.to_thread(work)


def _judge_texts(guards: Guards, texts: Sequence[str]) -> Verdict:
    found: list[Any] = []
    left = (
        guards.policy.input.limits.max_text_chars
    )  # nothing is enforced here, so megabytes need not be read
    for i, text in enumerate(texts):
        if left <= 0:
            break
        found += guards.safety.check_text(text[:left], trust="watch", path=f"input[{i}]").findings
        left -= len(text)
    return Verdict.of(found)


def _refuse_if_blocked(verdict: Verdict) -> None:
    if verdict.action is not Action.BLOCK:
        return
    blocking = [f for f in verdict.findings if f.mode == "block"]
    first = max(blocking, key=lambda f: f.score)
    raise InputBlockedError(
        f"The input was refused: {first.reason} / 输入被拒绝：{first.reason_zh}",
        param=first.path or None,
        details={"findings": findings_json(verdict)},
    )


def _record_failure(record: CallRecord, exc: BaseException) -> None:
    """Close the record of a call that raised."""
    if isinstance(exc, SparkleError):
        status = exc.status if isinstance(exc, ProviderRejectedError) else exc.http_status
        record.finish(_OUTCOMES.get(exc.code, _outcome_by_kind(exc)), status, error_type=exc.code)
    elif isinstance(exc, asyncio.CancelledError | GeneratorExit):
        record.finish("client_closed", 499, error_type="cancelled")
    else:
        record.finish("error", 500, error_type=type(exc).__name__)


_OUTCOMES: dict[str, Any] = {
    "content_filter": "input_blocked",
    "rate_limit_exceeded": "rate_limited",
    "insufficient_quota": "quota_exceeded",
}


def _outcome_by_kind(exc: SparkleError) -> Any:
    if isinstance(exc, ProviderError):
        return "upstream_error"
    return "invalid" if 400 <= exc.http_status < 500 else "error"
