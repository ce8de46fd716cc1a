"""One choice of a guarded stream: its text channels and its tool calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from sparkle.errors import ProviderError
from sparkle.llm.answers import TEXT_FIELDS
from sparkle.llm.verdict import Action, Finding

if TYPE_CHECKING:
    from sparkle.llm.output import OutputStream, OutputValidator, PromptGuard

_MAX_ARGUMENTS = 1_048_576
"""Largest tool-call arguments held back, in characters; more is refused (the call cannot be judged in parts)."""


@dataclass(slots=True)
class Step:
    """What became of one delta."""

    keep: bool
    """Whether anything is left to send."""
    changed: bool
    """Whether the delta differs from the upstream's."""
    text: str = ""
    """Content that may leave now."""


@dataclass(slots=True)
class _ToolCall:
    head: dict[str, Any]
    arguments: list[str] = field(default_factory=list[str])
    size: int = 0


class ChoiceGuard:
    """Guards the deltas of one choice.

    Text leaves as soon as no rule can claim it. Tool-call arguments are JSON, where a secret may hide behind escapes:
    they are held until the call is complete (a client cannot act on half a call) and leave in one delta.
    """

    def __init__(self, index: int, validator: OutputValidator, prompt: PromptGuard | None) -> None:
        self.index = index
        self.blocked = False
        self.finish_reason: str | None = None
        self._validator = validator
        self._prompt = prompt
        self._channels: dict[str, OutputStream] = {}
        self._calls: dict[int, _ToolCall] = {}
        self._sent_calls: list[dict[str, Any]] = []
        self._found: list[Finding] = []
        self._held = False
        self._ended = False

    def findings(self) -> list[Finding]:
        """All findings so far."""
        found = list(self._found)
        for channel in self._channels.values():
            found += channel.verdict.findings
        return found

    def tool_calls(self) -> list[dict[str, Any]]:
        """The complete, checked tool calls."""
        return self._sent_calls

    def pass_through(self, choice: dict[str, Any]) -> Step:
        """A delta that goes on unchecked, for a policy that fails open."""
        delta = cast("dict[str, Any]", choice.get("delta") or {})
        return Step(keep=True, changed=False, text=str(delta.get("content") or ""))

    def step(self, choice: dict[str, Any], generated: list[str]) -> Step:
        """Guard one choice of a chunk, in place. ``generated`` collects the unredacted text for counting."""
        delta_raw = choice.get("delta")
        delta = cast("dict[str, Any]", delta_raw) if isinstance(delta_raw, dict) else {}
        if self.blocked or self._ended:
            return Step(keep=False, changed=True)
        finish = choice.get("finish_reason")
        changed = False
        text = ""
        for name in TEXT_FIELDS:
            piece = delta.get(name)
            if not isinstance(piece, str):
                continue
            if piece:
                generated.append(piece)
            out = self._channel(name).feed(piece) if piece else ""
            if out != piece:
                delta[name] = out
                changed = True
            if name == "content":
                text = out
        if delta.get("tool_calls") or delta.get("function_call"):
            changed |= self._hold_calls(delta, generated)
        if any(channel.blocked for channel in self._channels.values()):
            return self._end_blocked(choice, delta)
        if finish is not None:
            text += self._finish(choice, delta)
            changed |= self._held
            if self.blocked:
                return Step(keep=True, changed=True, text=text)
            self.finish_reason = str(finish)
        if changed and choice.get("logprobs") is not None:
            choice["logprobs"] = None  # they spell out the text that is held or redacted
        keep = finish is not None or not changed or _says_something(delta)
        return Step(keep=keep, changed=changed, text=text)

    def flush(self) -> Iterator[dict[str, Any]]:
        """What is left when the upstream ended without a finish_reason."""
        if self._ended or self.blocked:
            return
        choice: dict[str, Any] = {"index": self.index, "delta": {}, "finish_reason": None}
        self._finish(choice, choice["delta"])
        if choice["delta"] or self.blocked:
            yield choice

    # ---------------------------------------------------------------------------------------------------------

    def _channel(self, name: str) -> OutputStream:
        channel = self._channels.get(name)
        if channel is None:
            path = f"choices[{self.index}].delta.{name}"
            channel = self._channels[name] = self._validator.open_stream(prompt=self._prompt, path=path)
        return channel

    def _hold_calls(self, delta: dict[str, Any], generated: list[str]) -> bool:
        """Keep arguments back; let ids and names go on at once."""
        calls = delta.get("tool_calls")
        items = list(cast("list[Any]", calls)) if isinstance(calls, list) else []
        legacy = delta.get("function_call")
        if isinstance(legacy, dict):
            items.append({"index": -1, "function": legacy})
        changed = False
        for raw in items:
            call = cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}
            function_raw = call.get("function")
            function = cast("dict[str, Any]", function_raw) if isinstance(function_raw, dict) else {}
            index = call.get("index", 0)
            if not isinstance(index, int):
                raise ProviderError("the upstream's stream is not a chat completion")
            state = self._calls.get(index)
            if state is None:
                head = {k: v for k, v in call.items() if k != "function"}
                state = self._calls[index] = _ToolCall({**head, "function": {"name": function.get("name")}})
            piece = function.get("arguments")
            if isinstance(piece, str) and piece:
                generated.append(piece)
                state.size += len(piece)
                if state.size > _MAX_ARGUMENTS:
                    raise ProviderError("the upstream's tool call is too large to be checked")
                state.arguments.append(piece)
                function["arguments"] = ""
                self._held = changed = True
        return changed

    def _finish(self, choice: dict[str, Any], delta: dict[str, Any]) -> str:
        """Release what is held into ``delta``; returns the content released."""
        self._ended = True
        released = ""
        for name, channel in self._channels.items():
            rest = channel.finish()
            if rest:
                delta[name] = (delta.get(name) or "") + rest
                self._held = True
                if name == "content":
                    released = rest
            if channel.blocked:
                self._end_blocked(choice, delta)
                return released
        self._release_calls(choice, delta)
        return released

    def _release_calls(self, choice: dict[str, Any], delta: dict[str, Any]) -> None:
        if not self._calls:
            return
        out: list[dict[str, Any]] = []
        for index, call in self._calls.items():
            where = "function_call" if index < 0 else f"tool_calls[{index}].function"
            path = f"choices[{self.index}].delta.{where}.arguments"
            result = self._validator.check_tool_arguments(
                "".join(call.arguments), prompt=self._prompt, path=path
            )
            self._found += result.verdict.findings
            if result.verdict.action is Action.BLOCK:
                self._end_blocked(choice, delta)
                return
            function: dict[str, Any] = {**call.head["function"], "arguments": result.text}
            self._sent_calls.append({**call.head, "function": function})
            if index < 0:
                delta["function_call"] = {"arguments": result.text}
            else:
                out.append({"index": index, "function": {"arguments": result.text}})
        if out:
            # This delta may carry the head of a call that begins and ends here: merge instead of overwriting it.
            heads = {c.get("index"): c for c in cast("list[dict[str, Any]]", delta.get("tool_calls") or [])}
            delta["tool_calls"] = [_merge_call(heads.get(item["index"]), item) for item in out]

    def _end_blocked(self, choice: dict[str, Any], delta: dict[str, Any]) -> Step:
        self.blocked = True
        self.finish_reason = "content_filter"
        choice["finish_reason"] = "content_filter"
        choice["logprobs"] = None
        delta.pop("tool_calls", None)
        delta.pop("function_call", None)
        choice["delta"] = delta
        return Step(keep=True, changed=True, text=str(delta.get("content") or ""))


def _merge_call(head: dict[str, Any] | None, item: dict[str, Any]) -> dict[str, Any]:
    if head is None:
        return item
    function = cast("dict[str, Any]", head.get("function") or {})
    return {**head, "function": {**function, **item["function"]}}


def _says_something(delta: dict[str, Any]) -> bool:
    for key, value in delta.items():
        if key == "tool_calls":
            calls = cast("list[dict[str, Any]]", value)
            for call in calls:
                function = cast("dict[str, Any]", call.get("function") or {})
                if call.get("id") or function.get("name"):
                    return True
        elif key == "function_call":
            if value.get("name"):
                return True
        elif value not in ("", None):
            return True
    return False
