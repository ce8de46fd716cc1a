"""The tool calls of one choice of a guarded stream."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sparkle.errors import ProviderError
from sparkle.llm.answer_fields import FieldGuard
from sparkle.llm.answers import CALL_TEXTS, guard_call
from sparkle.llm.verdict import Action

if TYPE_CHECKING:
    from sparkle.llm.output import OutputValidator, PromptGuard

_MAX_ARGUMENTS = 1_048_576
"""Largest tool-call arguments held back, in characters; more is refused (the call cannot be judged in parts)."""
_MAX_CALLS = 1_000


@dataclass(slots=True)
class _ToolCall:
    head: dict[str, Any]
    kind: str
    """``function`` or ``custom``."""
    field: str
    """Where its text stands: ``arguments`` or ``input``."""
    text: list[str] = dataclasses.field(default_factory=list[str])
    size: int = 0
    value: Any = None
    """Arguments that came as a JSON value; it has been judged and has left."""


class CallsGuard:
    """Holds the arguments of tool calls until they are complete; lets checked ids and names go on at once.

    Arguments are JSON, where a secret may hide behind escapes, and a client cannot act on half a call.
    """

    def __init__(
        self, index: int, validator: OutputValidator, prompt: PromptGuard | None, fields: FieldGuard
    ) -> None:
        self.sent: list[dict[str, Any]] = []
        """The complete, checked calls."""
        self._where = f"choices[{index}].delta"
        self._validator = validator
        self._prompt = prompt
        self._fields = fields
        self._calls: dict[int, _ToolCall] = {}

    def hold(self, delta: dict[str, Any], generated: list[str]) -> tuple[bool, bool]:
        """Take the arguments out of ``delta``; whether it changed, and whether something is held.

        Raises:
            ProviderError: What stands there is no tool call, or one too large to be judged.
        """
        changed = held = False
        calls = delta.get("tool_calls")
        if isinstance(calls, dict):  # one call without its list
            calls = delta["tool_calls"] = [cast("Any", calls)]
            changed = True
        items: list[tuple[Any, bool]] = (
            [(call, False) for call in cast("list[Any]", calls)] if isinstance(calls, list) else []
        )
        legacy = delta.get("function_call")
        if isinstance(legacy, dict):
            items.append(({"index": -1, "function": cast("Any", legacy)}, True))
        if (calls and not isinstance(calls, list)) or (legacy and not isinstance(legacy, dict)):
            raise ProviderError("the upstream's stream is not a chat completion")
        for raw, is_legacy in items:
            if not isinstance(raw, dict):
                raise ProviderError("the upstream's stream is not a chat completion")
            call = cast("dict[str, Any]", raw)
            index = call.get("index", 0)
            if not isinstance(index, int) or (index < 0 and not is_legacy):
                raise ProviderError("the upstream's stream is not a chat completion")
            where = f"{self._where}.function_call" if is_legacy else f"{self._where}.tool_calls[{index}]"
            changed |= guard_call(call, where, self._fields, legacy=is_legacy)
            for kind, name in CALL_TEXTS:
                if isinstance(part := call.get(kind), dict):
                    took = self._hold(index, kind, name, call, cast("dict[str, Any]", part), generated)
                    changed |= took
                    held |= took
        return changed, held

    def _hold(
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
            if len(self._calls) >= _MAX_CALLS:
                raise ProviderError("the upstream's stream has too many parts to be checked")
            head = {k: v for k, v in call.items() if k not in ("function", "custom")}
            state = self._calls[index] = _ToolCall({**head, kind: {"name": part.get("name")}}, kind, name)
        piece = part.get(name)
        if piece is not None and not isinstance(piece, str):
            if state.text or (state.value is not None and state.value != piece):
                raise ProviderError("the upstream's tool call cannot be checked")  # clients would merge both
            state.value = piece
            return False
        if not piece:
            return False
        generated.append(piece)
        state.size += len(piece)
        if state.size > _MAX_ARGUMENTS or kind != state.kind or state.value is not None:
            raise ProviderError("the upstream's tool call cannot be checked")
        state.text.append(piece)
        part[name] = ""
        return True

    def release(self, delta: dict[str, Any]) -> bool:
        """Put the checked arguments into ``delta``; ``False`` when they must not leave."""
        out: list[dict[str, Any]] = []
        for index, call in self._calls.items():
            if call.value is not None:
                part: dict[str, Any] = {**call.head[call.kind], call.field: call.value}
                self.sent.append({**call.head, call.kind: part})
                continue
            where = "function_call" if index < 0 else f"tool_calls[{index}].{call.kind}"
            path = f"{self._where}.{where}.{call.field}"
            result = self._validator.check_tool_arguments("".join(call.text), prompt=self._prompt, path=path)
            self._fields.findings += result.verdict.findings
            if result.verdict.action is Action.BLOCK:
                return False
            self.sent.append({**call.head, call.kind: {**call.head[call.kind], call.field: result.text}})
            if index < 0:
                legacy = cast("dict[str, Any]", delta.get("function_call") or {})
                delta["function_call"] = {**legacy, "arguments": result.text}
            else:
                out.append({"index": index, call.kind: {call.field: result.text}})
        if out:
            # This delta may carry the head of a call that begins and ends here: merge instead of overwriting it.
            heads = {
                c.get("index", 0): c for c in cast("list[dict[str, Any]]", delta.get("tool_calls") or [])
            }
            merged = [_merge_call(heads.pop(item["index"], None), item) for item in out]
            delta["tool_calls"] = [*heads.values(), *merged]
        return True


def _merge_call(head: dict[str, Any] | None, item: dict[str, Any]) -> dict[str, Any]:
    if head is None:
        return item
    (kind,) = (kind for kind, _ in CALL_TEXTS if kind in item)
    return {**head, kind: {**cast("dict[str, Any]", head.get(kind) or {}), **item[kind]}}
