"""One choice of a guarded stream: its text channels and its tool calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sparkle.errors import ProviderError
from sparkle.llm.answer_fields import FINISHES, ROLES, FieldGuard, spells
from sparkle.llm.answers import CALL_FIELDS, CALL_TEXTS, KNOWN_FIELDS, TEXT_FIELDS
from sparkle.llm.extra_text import STRUCTURE, Place, append_text, text_places
from sparkle.llm.extra_text import Step as RouteStep
from sparkle.llm.stream_calls import CallsGuard
from sparkle.llm.verdict import Action, Finding

if TYPE_CHECKING:
    from sparkle.llm.output import OutputStream, OutputValidator, PromptGuard

_MAX_CHANNELS = 1_000
"""Most texts of one choice that are followed side by side."""
_KNOWN = frozenset({"index", "delta", "finish_reason", "logprobs"})
"""Fields of a streamed choice that are guarded each in its way."""
_NOTHING: frozenset[str] = frozenset()
_IN_PIECES = ("delta", "text", "message")
"""Fields of a choice whose strings go on from chunk to chunk; those of others are complete in themselves."""


@dataclass(slots=True)
class Step:
    """What became of one delta."""

    keep: bool
    """Whether anything is left to send."""
    changed: bool
    """Whether the delta differs from the upstream's."""
    text: str = ""
    """Content that may leave now."""


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
        self._fields = FieldGuard(validator, prompt)
        self._calls = CallsGuard(index, validator, prompt, self._fields)
        self._held = False
        self._cut = False
        self._ended = False

    def findings(self) -> list[Finding]:
        """All findings so far."""
        found = list(self._fields.findings)
        for channel in self._channels.values():
            found += channel.verdict.findings
        return found

    def tool_calls(self) -> list[dict[str, Any]]:
        """The complete, checked tool calls."""
        return self._calls.sent

    def pass_through(self, choice: dict[str, Any]) -> Step:
        """A delta that goes on unchecked, for a policy that fails open."""
        delta_raw = choice.get("delta")
        delta = cast("dict[str, Any]", delta_raw) if isinstance(delta_raw, dict) else {}
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
            changed |= self._guard_extras(delta, KNOWN_FIELDS, "delta.", generated)
        if (role := delta.get("role")) is not None and not (isinstance(role, str) and role in ROLES):
            changed |= self._guard_extras({"role": role}, _NOTHING, "delta.", generated, into=delta)
        if delta.get("tool_calls") or delta.get("function_call"):
            taken, held = self._calls.hold(delta, generated)
            changed |= taken
            self._held |= held
        if not choice.keys() <= _KNOWN or (delta_raw is not None and not isinstance(delta_raw, dict)):
            known = _KNOWN if isinstance(delta_raw, dict) else _KNOWN - {"delta"}
            changed |= self._guard_extras(choice, known, "", generated)
        if finish is not None and not (isinstance(finish, str) and finish in FINISHES):
            changed |= self._guard_finish(choice, finish)
            finish = choice["finish_reason"]
        if self._fields.read:
            generated += self._fields.read
            self._fields.read.clear()
        self._cut |= self._fields.blocked
        if self._cut or any(channel.blocked for channel in self._channels.values()):
            return self._end_blocked(choice, delta)
        if finish is not None:
            text += self._finish(choice, delta)
            changed |= self._held
            if self.blocked:
                return Step(keep=True, changed=True, text=text)
            self.finish_reason = str(finish)
        if (logprobs := choice.get("logprobs")) is not None and (
            changed or self._logprobs_tell(logprobs, delta)
        ):
            choice["logprobs"] = None  # they spell out text that is held, redacted or not there
            changed = True
        keep = finish is not None or not changed or _says_something(delta)
        keep = keep or any(choice.get(key) for key in choice.keys() - _KNOWN)
        return Step(keep=keep, changed=changed, text=text)

    def cut(self) -> None:
        """End this choice with its next chunk: something that may not leave stood beside it."""
        self._cut = True

    def flush(self, finish: str | None = None) -> Iterator[dict[str, Any]]:
        """What is left when the upstream ended without a finish_reason; ``finish`` is the reason to give instead."""
        if self._ended or self.blocked:
            return
        choice: dict[str, Any] = {"index": self.index, "delta": {}, "finish_reason": finish}
        self._finish(choice, choice["delta"])
        if finish is not None and not self.blocked:
            self.finish_reason = finish
        if choice["delta"] or self.blocked or finish is not None or self._held_outside(choice):
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

    def _guard_extras(
        self,
        tree: dict[str, Any],
        known: frozenset[str],
        where: str,
        generated: list[str],
        into: dict[str, Any] | None = None,
    ) -> bool:
        """Guard the text of fields that no OpenAI stream has; ``into`` is where ``tree`` is a part of."""
        changed = False
        for place in text_places(tree, known, structure=True):
            if place.route[0][0] in CALL_FIELDS:
                continue
            generated.append(place.text)
            name = where + place.path
            path = f"choices[{self.index}].{name}"
            if self._complete(place, where):
                out = self._fields.string(path, place.text)
            elif place.key == "arguments":
                result = self._validator.check_tool_arguments(place.text, prompt=self._prompt, path=path)
                self._fields.findings += result.verdict.findings
                self._cut |= result.verdict.action is Action.BLOCK
                out = result.text
            else:
                self._routes[name] = place.route
                out = self._channel(name).feed(place.text)
            if out != place.text:
                place.put(out)
                if into is not None:
                    into.update(tree)
                changed = True
        for key in tree.keys() - known:
            if isinstance(tree[key], dict):
                changed |= self._fields.keys(tree[key], f"choices[{self.index}].{where}{key}")
        return self._fields.keys(tree, f"choices[{self.index}].{where}") or changed

    def _complete(self, place: Place, where: str) -> bool:
        """Whether a string is complete in one chunk."""
        if place.whole or (len(place.route) > 1 and place.key in STRUCTURE):
            return True
        return not where and place.path.partition(".")[0].partition("[")[0] not in _IN_PIECES

    def _guard_finish(self, choice: dict[str, Any], finish: object) -> bool:
        reason = "stop"
        if isinstance(finish, str):
            reason = self._fields.string(f"choices[{self.index}].finish_reason", finish) or "stop"
        choice["finish_reason"] = reason
        return reason != finish

    def _logprobs_tell(self, logprobs: object, delta: dict[str, Any]) -> bool:
        """Whether logprobs hold anything but the text of ``delta`` and harmless alternatives to it."""
        said = (delta.get(name) for name in TEXT_FIELDS)
        return not spells(logprobs, said) or self._fields.logprobs_tell(logprobs)

    def _held_outside(self, choice: dict[str, Any]) -> bool:
        return not choice.keys() <= _KNOWN

    def _finish(self, choice: dict[str, Any], delta: dict[str, Any]) -> str:
        """Release what is held into ``delta``; returns the content released."""
        self._ended = True
        released = ""
        for name, channel in self._channels.items():
            rest = channel.finish()
            if rest:
                if name in self._routes:
                    outside = not name.startswith("delta.")
                    append_text(choice if outside else delta, self._routes[name], rest)
                else:
                    delta[name] = (delta.get(name) or "") + rest
                self._held = True
                if name == "content":
                    released = rest
            if channel.blocked:
                self._end_blocked(choice, delta)
                return released
        if not self._calls.release(delta):
            self._end_blocked(choice, delta)
        return released

    def _end_blocked(self, choice: dict[str, Any], delta: dict[str, Any]) -> Step:
        self.blocked = True
        self.finish_reason = "content_filter"
        choice["finish_reason"] = "content_filter"
        choice["logprobs"] = None
        delta.pop("tool_calls", None)
        delta.pop("function_call", None)
        choice["delta"] = delta
        return Step(keep=True, changed=True, text=str(delta.get("content") or ""))


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
