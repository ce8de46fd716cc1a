"""The first two layers: is the input safe, and may it be paid for? What they leave is ready for a provider."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from sparkle.clock import Clock
from sparkle.errors import GuardFailedError, LimitError, SparkleError, StoreUnavailableError
from sparkle.llm.guard_failure import log_guard_failure
from sparkle.llm.guards import Guards
from sparkle.llm.outcomes import refuse_if_blocked
from sparkle.llm.requests import NOT_PROMPT, ChatRequest, EmbeddingsRequest
from sparkle.llm.upstream_body import system_texts, upstream_body
from sparkle.llm.usage import Principal
from sparkle.llm.verdict import ALLOW, Verdict

if TYPE_CHECKING:
    from sparkle.llm.monitoring import CallRecord
    from sparkle.llm.output import PromptGuard
    from sparkle.llm.quota import LLMCostGuard, Reservation, TokenCounter

T = TypeVar("T")

THREAD_ABOVE_CHARS = 30_000
"""Above this many characters a check leaves the event loop, so that one long text does not stall the others."""


class PromptSize:
    """Tokens of a prompt: a bound that costs nothing, the exact number when somebody needs it."""

    __slots__ = ("_count", "_exact", "bound", "size")

    def __init__(self, bound: int, size: int, count: Callable[[], int]) -> None:
        self.bound = bound
        """At least as many tokens as the prompt has (a token is at least a byte)."""
        self.size = size
        """Characters, roughly."""
        self._count = count
        self._exact: int | None = None

    def exact(self) -> int:
        """The exact number, counted once."""
        if self._exact is None:
            self._exact = self._count()
        return self._exact


class Admitted(Struct, frozen=True):
    """A call that may go to a provider."""

    guards: Guards
    record: CallRecord
    verdict: Verdict
    reservation: Reservation | None
    """``None`` where the quota store is down and the policy fails open."""
    tokens: PromptSize
    body: dict[str, Any]
    """What goes upstream."""
    prompt: PromptGuard | None = None


class Admission:
    """Runs the first two layers of every call of a process."""

    def __init__(
        self,
        guards: Callable[[], Guards],
        quota: LLMCostGuard,
        tokens: TokenCounter,
        serving: Callable[[str], Sequence[str]],
        clock: Clock,
    ) -> None:
        self._guards = guards
        self._quota = quota
        self._tokens = tokens
        self._serving = serving
        self._clock = clock

    async def chat(self, request: ChatRequest, who: Principal, record: CallRecord) -> Admitted:
        """Judge and reserve a chat call.

        Raises:
            InputBlockedError, LimitError, StoreUnavailableError: See :meth:`LLMSecurityWrapper.chat`.
        """
        guards = self._guards()
        size = request.size
        messages = request.messages
        tools = request.body.get("tools")

        def judge() -> Verdict:
            nonlocal messages
            result = guards.safety.check_messages(request.messages, tools, request.body)
            messages = result.messages
            return result.verdict

        verdict = await self._judge(guards, judge, size, record, request.messages)
        refuse_if_blocked(verdict)
        schema = request.body.get("response_format")
        others = {k: v for k, v in request.body.items() if k not in NOT_PROMPT}
        template = max(
            (self._tokens.template_tokens(name, len(messages)) for name in self._serving(request.model)),
            default=0,
        )

        def count(*, exact: bool) -> int:
            return template + self._tokens.count_messages(
                messages, request.model, tools, response_format=schema, others=others, exact=exact
            )

        tokens = PromptSize(count(exact=False), size, lambda: count(exact=True))
        reservation = await self._reserve(
            guards, who, request.model, tokens, request.max_tokens, request.choices, record
        )
        try:
            cap = (
                reservation.max_output_tokens
                if reservation
                else request.max_tokens or self._quota.usual_answer
            )
            system = system_texts(request.messages)
            canary = f"ref-{secrets.token_hex(8)}" if guards.policy.output.canary and system else None
            prompt = guards.output.prompt_guard(system, canary) if system else None
            body = upstream_body(request, messages, cap, canary=canary)
        except BaseException:
            if reservation is not None:
                self._quota.abandon(reservation)
            raise
        return Admitted(guards, record, verdict, reservation, tokens, body, prompt)

    async def embeddings(self, request: EmbeddingsRequest, who: Principal, record: CallRecord) -> Admitted:
        """Judge and reserve an embeddings call. Rules only watch: an embedding model follows no instructions."""
        guards = self._guards()
        size = sum(map(len, request.texts))
        verdict = await self._judge(guards, lambda: _judge_texts(guards, request.texts), size, record)
        refuse_if_blocked(verdict)
        tokens = PromptSize(
            request.token_ids + sum(self._tokens.bound_text(text) for text in request.texts),
            size,
            lambda: (
                request.token_ids
                + sum(self._tokens.count_text(text, request.model) for text in request.texts)
            ),
        )
        reservation = await self._reserve(guards, who, request.model, tokens, 0, 1, record)
        return Admitted(guards, record, verdict, reservation, tokens, request.body)

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
            verdict = await off_loop_if_large(judge, size)
        except SparkleError:
            raise
        except Exception as exc:  # a crash of the guard itself: the policy says whether that closes the door
            log_guard_failure("input", exc)
            record.guard_failed("input", guards.policy.input.on_error)
            if guards.policy.input.on_error == "open":
                verdict = ALLOW
            else:
                raise GuardFailedError("the input guard failed; the call was refused") from exc
        record.input_checked(verdict, self._clock.monotonic() - started, messages=messages)
        return verdict

    async def _reserve(
        self,
        guards: Guards,
        who: Principal,
        model: str,
        tokens: PromptSize,
        max_tokens: int | None,
        choices: int,
        record: CallRecord,
    ) -> Reservation | None:
        """Reserve the bound and the largest answer; where that does not fit, count exactly and decide by that."""
        started = self._clock.monotonic()
        model = self._quota.dearest(self._serving(model))
        try:
            try:
                reservation = await self._quota.reserve(
                    who,
                    model=model,
                    prompt_tokens=tokens.bound,
                    max_output_tokens=self._quota.usual_answer if max_tokens is None else max_tokens,
                    choices=choices,
                )
            except LimitError:
                reservation = await self._quota.reserve(
                    who,
                    model=model,
                    prompt_tokens=await off_loop_if_large(tokens.exact, tokens.size),
                    max_output_tokens=max_tokens,
                    choices=choices,
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


async def off_loop_if_large(work: Callable[[], T], size: int) -> T:
    """Do ``work`` on ``size`` characters here, or in a thread where that would hold up other calls."""
    return work() if size <= THREAD_ABOVE_CHARS else await asyncio.to_thread(work)


def _judge_texts(guards: Guards, texts: Sequence[str]) -> Verdict:
    found: list[Any] = []
    left = guards.policy.input.limits.max_text_chars  # nothing is enforced here: megabytes need not be read
    for i, text in enumerate(texts):
        if left <= 0:
            break
        found += guards.safety.check_text(text[:left], trust="watch", path=f"input[{i}]").findings
        left -= len(text)
    return Verdict.of(found)
