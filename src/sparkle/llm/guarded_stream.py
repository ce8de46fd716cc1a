"""Layer 4 and 5 on a stream: chunks in, chunks out, nothing sensitive in between."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import msgspec

from sparkle.errors import GuardFailedError, ProviderError, SparkleError
from sparkle.llm.answer_fields import FieldGuard, decode_chunk, guard_rejection
from sparkle.llm.answers import usage_of
from sparkle.llm.guard_failure import log_guard_failure
from sparkle.llm.requests import ChatRequest
from sparkle.llm.results import ChatResult
from sparkle.llm.stream_choice import ChoiceGuard
from sparkle.llm.usage import Usage
from sparkle.llm.verdict import Finding, Verdict

if TYPE_CHECKING:
    from sparkle.llm.monitoring import CallRecord
    from sparkle.llm.output import OutputValidator, PromptGuard
    from sparkle.llm.providers import ProviderStream
    from sparkle.llm.quota import LimitState, LLMCostGuard, Reservation, TokenCounter

DONE = b"[DONE]"
_CHUNK_SLACK = 64
"""Chunks beyond the reserved number of tokens before a stream is cut: heads, ends, keep-alives."""
_PROGRESS_EVERY = 32
"""Chunks between two notes of what is known to be spent (a chunk is about a token)."""


class GuardedStream:
    """One guarded streaming call, from the upstream's first byte to the settlement.

    Iterate :meth:`payloads` for the ``data:`` payloads to send on. Always call :meth:`aclose`: it ends the upstream
    call and charges what was generated if the stream did not come to its end.
    """

    def __init__(
        self,
        *,
        request: ChatRequest,
        request_id: str,
        upstream: ProviderStream,
        validator: OutputValidator,
        prompt: PromptGuard | None,
        reservation: Reservation | None,
        prompt_tokens: Callable[[], int],
        input_verdict: Verdict,
        quota: LLMCostGuard,
        tokens: TokenCounter,
        record: CallRecord,
        fail_open: bool,
    ) -> None:
        self._request = request
        self._request_id = request_id
        self._upstream = upstream
        self._validator = validator
        self._prompt = prompt
        self._reservation = reservation
        self._prompt_tokens = prompt_tokens
        self._input_verdict = input_verdict
        self._quota = quota
        self._tokens = tokens
        self._record = record
        self._fail_open = fail_open
        self._choices: dict[int, ChoiceGuard] = {}
        self._generated: list[str] = []
        self._fields = FieldGuard(validator, prompt, self._generated)
        self._reported: Usage | None = None
        self._usage: Usage | None = None
        self._cost_nano = 0
        self._most_chunks = (
            reservation.max_output_tokens * reservation.choices + _CHUNK_SLACK if reservation else sys.maxsize
        )
        self._settled = False
        self._ended = False
        self._template: dict[str, Any] = {}
        self._chunks = 0
        self._guard_seconds = 0.0
        self._text: list[str] = []
        self._new_text: list[str] = []

    @property
    def limits(self) -> tuple[LimitState, ...]:
        """The caller's limits after this call's reservation."""
        return self._reservation.limits if self._reservation else ()

    @property
    def upstream_name(self) -> str:
        """The upstream that answers."""
        return self._upstream.upstream

    @property
    def verdict(self) -> Verdict:
        """What the output guard found so far, over all choices."""
        found: list[Finding] = list(self._fields.findings)
        for choice in self._choices.values():
            found += choice.findings()
        return Verdict.of(found)

    def take_text(self) -> list[str]:
        """New text of the first choice since the last call."""
        new, self._new_text = self._new_text, []
        return new

    async def payloads(self) -> AsyncIterator[bytes]:
        """The guarded ``data:`` payloads, ``[DONE]`` last.

        Raises:
            ProviderError: The upstream broke off or fell silent; what came before has been passed on and is charged.
            GuardFailedError: The output guard crashed and the policy fails closed; charged likewise.
        """
        cut: str | None = None
        try:
            async for payload in self._upstream:
                if payload == DONE:
                    self._ended = True
                    break
                started = monotonic()
                guarded = self._guard(payload)
                self._guard_seconds += monotonic() - started
                for out in guarded:
                    self._record.first_token()
                    yield out
                if self._all_blocked():
                    break  # nothing more may leave: stop paying for it
                if self._chunks > self._most_chunks:
                    cut = "length"  # this upstream ignores max_tokens: nobody has reserved what comes now
                    break
            else:
                self._ended = True
            for out in self._flush(cut):
                yield out
            self._record.upstream_finished(
                self._upstream.upstream, response_model=self._template.get("model")
            )
            await self._settle()
            if self._request.include_usage and self._reported is None:
                yield self._usage_chunk()
            blocked = any(c.blocked for c in self._choices.values())
            self._record.finish(
                "output_blocked" if blocked else "ok", 200, finish_reason=self._finish_reason()
            )
            yield DONE
        except ProviderError as exc:
            guard_rejection(exc, self._validator, self._prompt)
            await self._settle()
            self._record.finish("upstream_error", 200, error_type=exc.code)
            raise
        except GuardFailedError as exc:
            await self._settle()
            self._record.finish("error", 200, error_type=exc.code)
            raise

    async def aclose(self) -> None:
        """End the upstream call; settle for what was generated if that has not happened."""
        try:
            await asyncio.shield(self._upstream.aclose())
        finally:
            if not self._settled:
                await asyncio.shield(self._settle())
                self._record.finish("client_closed", 200, error_type="client_closed")

    def result(self) -> ChatResult:
        """The finished call; only after :meth:`payloads` has ended."""
        return ChatResult(
            request_id=self._request_id,
            model=str(self._template.get("model") or self._request.model),
            upstream=self._upstream.upstream,
            text="".join(self._text),
            finish_reason=self._finish_reason(),
            usage=self._usage or Usage(0, 0, estimated=True),
            cost_nano=self._cost_nano,
            input_verdict=self._input_verdict,
            output_verdict=self.verdict,
            limits=self.limits,
            tool_calls=tuple(self._choices[0].tool_calls()) if 0 in self._choices else (),
        )

    # Chunks --------------------------------------------------------------------------------------------------

    def _guard(self, payload: bytes) -> list[bytes]:
        chunk = decode_chunk(payload)
        if "error" in chunk and "choices" not in chunk:
            raise ProviderError("the upstream reported an error in mid-stream")
        usage = usage_of(chunk)
        if usage is not None:
            self._reported = usage
        changed = self._guard_around(chunk)
        choices = cast("list[Any]", chunk.get("choices") or [])
        if not isinstance(choices, list):  # pyright: ignore[reportUnnecessaryIsInstance]  it comes from outside
            raise ProviderError("the upstream's stream is not a chat completion")
        if not self._template:
            self._template = {k: v for k, v in chunk.items() if k not in ("choices", "usage")}
        if not choices:
            keep = usage is None or self._request.include_usage
            return [msgspec.json.encode(chunk) if changed else payload] if keep else []
        self._count()
        kept: list[dict[str, Any]] = []
        for raw in choices:
            if not isinstance(raw, dict):
                raise ProviderError("the upstream's stream is not a chat completion")
            choice = cast("dict[str, Any]", raw)
            state = self._choice(choice.get("index", 0))
            if self._fields.blocked:
                state.cut()
            step = self._step(state, choice)
            changed |= step.changed
            if step.keep:
                kept.append(choice)
            if step.text and state.index == 0:
                self._text.append(step.text)
                self._new_text.append(step.text)
        if not kept and (usage is None or not self._request.include_usage):
            return []
        if not changed and len(kept) == len(choices):
            return [payload]
        chunk["choices"] = kept
        return [msgspec.json.encode(chunk)]

    def _guard_around(self, chunk: dict[str, Any]) -> bool:
        """Guard what stands around the choices, in place; whether it changed."""
        try:
            return self._fields.chunk(chunk)
        except SparkleError:
            raise
        except Exception as exc:  # noqa: BLE001  a crash of the guard itself: the policy says whether that closes the door
            self._guard_crashed(exc)
            return False

    def _step(self, state: ChoiceGuard, choice: dict[str, Any]) -> Any:
        try:
            return state.step(choice, self._generated)
        except SparkleError:
            raise
        except Exception as exc:  # noqa: BLE001  a crash of the guard itself: the policy says whether that closes the door
            self._guard_crashed(exc)
            return state.pass_through(choice)

    def _guard_crashed(self, exc: Exception) -> None:
        log_guard_failure("output", exc)
        self._record.guard_failed("output", "open" if self._fail_open else "closed")
        if not self._fail_open:
            raise GuardFailedError("the output guard failed; the answer was withheld") from exc

    def _flush(self, finish: str | None) -> list[bytes]:
        """What is still held when the upstream ended without a finish_reason, and the end of blocked choices."""
        out: list[bytes] = []
        for state in self._choices.values():
            for choice in state.flush(finish):
                delta = cast("dict[str, Any]", choice["delta"])
                text = str(delta.get("content") or "")
                if text and state.index == 0:
                    self._text.append(text)
                    self._new_text.append(text)
                out.append(msgspec.json.encode({**self._template, "choices": [choice]}))
        return out

    def _all_blocked(self) -> bool:
        """Whether every choice that was asked for has been cut off; one that has not begun may still come."""
        choices = self._choices
        return len(choices) >= self._request.choices and all(choice.blocked for choice in choices.values())

    def _choice(self, index: object) -> ChoiceGuard:
        if not isinstance(index, int) or not 0 <= index < 1024:
            raise ProviderError("the upstream's stream is not a chat completion")
        state = self._choices.get(index)
        if state is None:
            state = self._choices[index] = ChoiceGuard(index, self._validator, self._prompt)
        return state

    def _count(self) -> None:
        self._chunks += 1
        if self._chunks % _PROGRESS_EVERY == 0 and self._reservation is not None:
            so_far = Usage(self._prompt_tokens(), self._chunks, estimated=True)
            self._quota.progress(self._reservation, so_far)

    def _usage_chunk(self) -> bytes:
        usage = self._usage or Usage(0, 0)
        body = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        }
        return msgspec.json.encode({**self._template, "choices": [], "usage": body})

    def _finish_reason(self) -> str | None:
        first = self._choices.get(0)
        return first.finish_reason if first else None

    async def _settle(self) -> None:
        if self._settled:
            return
        self._settled = True
        usage = self._reported
        if usage is None or not self._ended:
            # Some upstreams report along the way, or zeros: a stream cut short costs at least what was generated.
            generated = "".join(self._generated)
            counted = self._tokens.count_text(generated, self._request.model)
            if usage is None or usage.completion_tokens < counted:
                usage = Usage(self._prompt_tokens(), counted, estimated=True)
        self._usage = usage
        self._record.output_checked(self.verdict, self._guard_seconds)
        if self._reservation is not None:
            self._cost_nano = (
                await self._quota.settle(self._reservation, usage, self._upstream.model)
            ).cost_nano
        self._record.usage(usage, self._cost_nano)
