"""One choice of a guarded stream: its text channels and its tool calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sparkle.errors import ProviderError
from sparkle.llm.answers import CALL_FIELDS, CALL_TEXTS, KNOWN_FIELDS, TEXT_FIELDS
from sparkle.llm.extra_text import Step as RouteStep
from sparkle.llm.extra_text import append_text, text_places
from sparkle.llm.verdict import Action, Finding

if TYPE_CHECKING:
    from sparkle.llm.output import OutputStream, OutputValidator, PromptGuard

_MAX_CHANNELS = 1_000
"""Most texts of one choice that are followed side by side."""
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
    kind: str
    """``function`` or ``custom``."""
    field: str
    """Where its text stands: ``arguments`` or ``input``."""
    text: list[str] = dataclasses.field(default_factory=list[str])
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
        self._routes: dict[str, tuple[RouteStep, ...]] = {}
        self._calls: dict[int, _ToolCall] = {}
        self._sent_calls: list[dict[str, Any]] = []
        self._found: list[Finding] = []
        self._held = False
        self._cut = False
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
        changed = odd = False
        text = ""
        for name in TEXT_FIELDS:
            piece = delta.get(name)
            if not isinstance(piece, str):
                odd |= piece is not None
                continue
            if piece:
                generated.append(piece)
            out = self._channel(name).feed(piece) if piece else ""
            if out != piece:
                delta[name] = out
                changed = True
            if name == "content":
                text = out
        if odd or not delta.keys() <= KNOWN_FIELDS:
            changed |= self._guard_extras(delta, generated)
        if delta.get("tool_calls") or delta.get("function_call"):
            changed |= self._hold_calls(delta, generated)
        if self._cut or any(channel.blocked for channel in self._channels.values()):
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

    def flush(self, finish: str | None = None) -> Iterator[dict[str, Any]]:
        """What is left when the upstream ended without a finish_reason; ``finish`` is the reason to give instead."""
        if self._ended or self.blocked:
            return
        choice: dict[str, Any] = {"index": self.index, "delta": {}, "finish_reason": finish}
        self._finish(choice, choice["delta"])
        if finish is not None and not self.blocked:
            self.finish_reason = finish
        if choice["delta"] or self.blocked or finish is not None:
            yield choice

    # ---------------------------------------------------------------------------------------------------------

    def _channel(self, name: str) -> OutputStream:
        channel = self._channels.get(name)
        if channel is None:
            if len(self._channels) >= _MAX_CHANNELS:
                raise ProviderError("the upstream's stream has too many parts to be checked")
            path = f"choices[{self.index}].delta.{name}"
            channel = self._channels[name] = self._validator.open_stream(prompt=self._prompt, path=path)
        return channel

    def _guard_extras(self, delta: dict[str, Any], generated: list[str]) -> bool:
        """Guard the text of fields that no OpenAI answer has."""
        changed = False
        for place in text_places(delta, KNOWN_FIELDS):
            if place.route[0][0] in CALL_FIELDS:
                continue
            generated.append(place.text)
            if place.whole:
                path = f"choices[{self.index}].delta.{place.path}"
                result = self._validator.check_text(place.text, prompt=self._prompt, path=path)
                self._found += result.verdict.findings
                self._cut |= result.verdict.action is Action.BLOCK
                out = result.text
            else:
                self._routes[place.path] = place.route
                out = self._channel(place.path).feed(place.text)
            if out != place.text:
                place.put(out)
                changed = True
        return changed

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
            index = call.get("index", 0)
            if not isinstance(index, int):
                raise ProviderError("the upstream's stream is not a chat completion")
            for kind, name in CALL_TEXTS:
                if isinstance(part := call.get(kind), dict):
                    changed |= self._hold_call(
                        index, kind, name, call, cast("dict[str, Any]", part), generated
                    )
        return changed

    def _hold_call(
        self,
        index: int,
        kind: str,
        name: str,
        call: dict[str, Any],
        part: dict[str, Any],
        generated: list[str],
    ) -> bool:
        state = self._calls.get(index)
        if state is None:
            head = {k: v for k, v in call.items() if k not in ("function", "custom")}
            state = self._calls[index] = _ToolCall({**head, kind: {"name": part.get("name")}}, kind, name)
        piece = part.get(name)
        if not isinstance(piece, str) or not piece:
            return False
        generated.append(piece)
        state.size += len(piece)
        if state.size > _MAX_ARGUMENTS or kind != state.kind:
            raise ProviderError("the upstream's tool call cannot be checked")
        state.text.append(piece)
        part[name] = ""
        self._held = True
        return True

    def _finish(self, choice: dict[str, Any], delta: dict[str, Any]) -> str:
        """Release what is held into ``delta``; returns the content released."""
        self._ended = True
        released = ""
        for name, channel in self._channels.items():
            rest = channel.finish()
            if rest:
                if name in self._routes:
                    append_text(delta, self._routes[name], rest)
                else:
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
            where = call.kind if index >= 0 else "function_call"
            where = where if index < 0 else f"tool_calls[{index}].{call.kind}"
            path = f"choices[{self.index}].delta.{where}.{call.field}"
            result = self._validator.check_tool_arguments("".join(call.text), prompt=self._prompt, path=path)
            self._found += result.verdict.findings
            if result.verdict.action is Action.BLOCK:
                self._end_blocked(choice, delta)
                return
            part: dict[str, Any] = {**call.head[call.kind], call.field: result.text}
            self._sent_calls.append({**call.head, call.kind: part})
            if index < 0:
                delta["function_call"] = {"arguments": result.text}
            else:
                out.append({"index": index, call.kind: {call.field: result.text}})
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
    (kind,) = (kind for kind, _ in CALL_TEXTS if kind in item)
    return {**head, kind: {**cast("dict[str, Any]", head.get(kind) or {}), **item[kind]}}


def _says_something(delta: dict[str, Any]) -> bool:
    for key, value in delta.items():
        if key == "tool_calls":
            calls = cast("list[dict[str, Any]]", value)
            for call in calls:
                if call.get("id") or any(_names_a_tool(call.get(kind)) for kind, _ in CALL_TEXTS):
                    return True
        elif key == "function_call":
            if value.get("name"):
                return True
        elif value not in ("", None):
            return True
    return False


def _names_a_tool(part: object) -> bool:
    return isinstance(part, dict) and bool(cast("dict[str, Any]", part).get("name"))
