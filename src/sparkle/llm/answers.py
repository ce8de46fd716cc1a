"""Layer 4 on a whole OpenAI answer: every text a model wrote is checked, wherever in the JSON it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import Struct

from sparkle.errors import ProviderError
from sparkle.llm.answer_fields import FINISHES, ROLES, FieldGuard
from sparkle.llm.extra_text import Place, text_places
from sparkle.llm.usage import Usage
from sparkle.llm.verdict import ALLOW, Action, Finding, Verdict

if TYPE_CHECKING:
    from sparkle.llm.output import OutputResult, OutputValidator, PromptGuard

TEXT_FIELDS = ("content", "reasoning_content", "reasoning", "refusal")
"""Fields of a message or delta that hold a model's own text (the middle two as DeepSeek, vLLM and OpenRouter say)."""

KNOWN_FIELDS = frozenset({*TEXT_FIELDS, "role", "tool_calls", "function_call"})
"""Fields of a message or delta that are guarded each in its way; all others are guarded by what they hold."""

_CHOICES = frozenset({"choices"})
_KNOWN_CHOICE = frozenset({"index", "message", "finish_reason", "logprobs"})
_KNOWN_CALL = frozenset({"index", "function", "custom"})
CALL_FIELDS = ("tool_calls", "function_call")
CALL_TEXTS = (("function", "arguments"), ("custom", "input"))
"""Kinds of tool calls, and the field in which each holds the model's text."""


class GuardedAnswer(Struct, frozen=True):
    """A checked answer."""

    body: bytes
    """The response to pass on: the upstream's own bytes when nothing was found."""
    text: str
    """The first choice's text."""
    finish_reason: str | None
    model: str | None
    verdict: Verdict
    usage: Usage | None
    """As the upstream reported it."""
    generated: str
    """All text the model wrote, unredacted, for counting only."""
    tool_calls: tuple[dict[str, Any], ...] = ()

    @staticmethod
    def unchecked(raw: bytes) -> GuardedAnswer:
        """The answer as it came, for a policy that fails open."""
        data = _decode(raw)
        nothing: dict[str, Any] = {}
        message = next((m for _, m in _messages(data)), nothing)
        return GuardedAnswer(
            raw, str(message.get("content") or ""), None, data.get("model"), ALLOW, usage_of(data), ""
        )


def guard_answer(raw: bytes, validator: OutputValidator, prompt: PromptGuard | None) -> GuardedAnswer:
    """Check a whole chat completion.

    A redaction replaces the spans and drops ``logprobs`` (they spell the text out token by token). A block empties
    what follows and sets ``finish_reason: "content_filter"``.

    Raises:
        ProviderError: The upstream's body is not a chat completion.
    """
    data = _decode(raw)
    fields = FieldGuard(validator, prompt)
    findings: list[Finding] = fields.findings
    generated: list[str] = fields.read
    changed = fields.envelope(data, _CHOICES)
    cut = fields.blocked
    for choice, message in _messages(data):
        at = f"choices[{_index(choice)}]"
        where = f"{at}.message"
        fields.blocked = blocked = cut
        changed |= _guard_choice(choice, message, fields, at)
        for text, path, check, put in _texts(message, where, validator):
            generated.append(text)
            result = check(text, prompt=prompt, path=path)
            findings += result.verdict.findings
            blocked |= result.verdict.action is Action.BLOCK
            if result.text != text:
                put(result.text)
                choice["logprobs"] = None
                changed = True
        if (logprobs := choice.get("logprobs")) is not None and fields.logprobs_tell(logprobs):
            choice["logprobs"] = None
            changed = True
        if blocked or fields.blocked:
            _withhold(choice, message)
            changed = True
    verdict = Verdict.of(findings) if findings else ALLOW
    if changed:
        data["sparkle"] = {"action": verdict.action, "findings": msgspec.to_builtins(verdict.findings)}
    choices = cast("list[dict[str, Any]]", data["choices"])
    first = choices[0] if choices else {}
    message = cast("dict[str, Any]", first.get("message") or {})
    content = message.get("content")
    return GuardedAnswer(
        body=msgspec.json.encode(data) if changed else raw,
        text=content if isinstance(content, str) else "",
        finish_reason=first.get("finish_reason"),
        model=data.get("model"),
        verdict=verdict,
        usage=usage_of(data),
        generated="\n".join(generated),
        tool_calls=tuple(message.get("tool_calls") or ()),
    )


def usage_of(data: dict[str, Any]) -> Usage | None:
    """The usage an upstream reported, or ``None`` where it is missing or not numbers."""
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return None
    fields = cast("dict[str, Any]", usage)
    prompt, completion = fields.get("prompt_tokens"), fields.get("completion_tokens", 0)
    if isinstance(prompt, int) and isinstance(completion, int) and prompt >= 0 and completion >= 0:
        return Usage(prompt, completion)
    return None


def reported_usage(raw: bytes) -> Usage | None:
    """:func:`usage_of` on undecoded bytes."""
    try:
        return usage_of(_decode(raw, need_choices=False))
    except ProviderError:
        return None


def _decode(raw: bytes, *, need_choices: bool = True) -> dict[str, Any]:
    try:
        data: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise ProviderError("the upstream's answer is not JSON") from None
    if not isinstance(data, dict) or (
        need_choices and not isinstance(cast("dict[str, Any]", data).get("choices"), list)
    ):
        raise ProviderError("the upstream's answer is not a chat completion")
    return cast("dict[str, Any]", data)


def _messages(data: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for choice in cast("list[Any]", data["choices"]):
        message = cast("dict[str, Any]", choice).get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            raise ProviderError("the upstream's answer is not a chat completion")
        yield cast("dict[str, Any]", choice), cast("dict[str, Any]", message)


def _call_parts(message: dict[str, Any], where: str) -> Iterator[tuple[dict[str, Any], str, str]]:
    """The part of each tool call that holds text, the field of it, and its path."""
    legacy = message.get("function_call")
    if isinstance(legacy, dict):
        yield cast("dict[str, Any]", legacy), "arguments", f"{where}.function_call"
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        for j, call in enumerate(cast("list[Any]", calls)):
            for kind, field in CALL_TEXTS:
                part = cast("dict[str, Any]", call).get(kind) if isinstance(call, dict) else None
                if isinstance(part, dict):
                    yield cast("dict[str, Any]", part), field, f"{where}.tool_calls[{j}].{kind}"


def _texts(
    message: dict[str, Any], where: str, validator: OutputValidator
) -> Iterator[tuple[str, str, Callable[..., OutputResult], Callable[[str], None]]]:
    """Every text of a message: itself, its path, what judges it, and what puts another in its place."""
    for field in TEXT_FIELDS:
        text = message.get(field)
        if isinstance(text, str) and text:
            yield text, f"{where}.{field}", validator.check_text, partial(message.__setitem__, field)
    for part, field, path in _call_parts(message, where):
        text = part.get(field)
        if isinstance(text, str) and text:
            yield text, f"{path}.{field}", validator.check_tool_arguments, partial(part.__setitem__, field)
    for place in _extras(message):
        yield place.text, f"{where}.{place.path}", validator.check_text, place.put


def _extras(message: dict[str, Any]) -> list[Place]:
    """Text in fields that no OpenAI answer has, and text fields that hold something else than text."""
    odd = any(isinstance(message.get(field), list | dict) for field in TEXT_FIELDS)
    if message.keys() <= KNOWN_FIELDS and not odd:
        return []
    places = text_places(message, KNOWN_FIELDS, structure=True)
    return [p for p in places if p.route[0][0] not in CALL_FIELDS]


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index", 0)
    return index if isinstance(index, int) else 0


def _guard_choice(choice: dict[str, Any], message: dict[str, Any], fields: FieldGuard, at: str) -> bool:
    """Guard all of a choice that is neither its message's text nor a tool call's; whether it changed."""
    changed = fields.envelope(choice, _KNOWN_CHOICE, f"{at}.")
    finish = choice.get("finish_reason")
    if finish is not None and not (isinstance(finish, str) and finish in FINISHES):
        reason = fields.string(f"{at}.finish_reason", finish) if isinstance(finish, str) else "stop"
        choice["finish_reason"] = reason or "stop"
        changed |= reason != finish
    role = message.get("role")
    if role is not None and not (isinstance(role, str) and role in ROLES):
        changed |= fields.envelope(message, frozenset(message.keys() - {"role"}), f"{at}.message.")
    for key in message.keys() - KNOWN_FIELDS:
        if isinstance(node := message[key], dict):
            changed |= fields.keys(cast("dict[str, Any]", node), f"{at}.message.{key}")
    changed |= fields.keys(message, f"{at}.message")
    legacy = message.get("function_call")
    if isinstance(legacy, dict):
        changed |= guard_call({"function": legacy}, f"{at}.message.function_call", fields, legacy=True)
    elif legacy is not None:
        changed |= fields.envelope(message, frozenset(message.keys() - {"function_call"}), f"{at}.message.")
    calls = message.get("tool_calls")
    if isinstance(calls, dict):  # one call without its list
        calls = message["tool_calls"] = [cast("Any", calls)]
        changed = True
    if isinstance(calls, list):
        for j, call in enumerate(cast("list[Any]", calls)):
            if not isinstance(call, dict):
                raise ProviderError("the upstream's answer is not a chat completion")
            changed |= guard_call(
                cast("dict[str, Any]", call), f"{at}.message.tool_calls[{j}]", fields, legacy=False
            )
    elif calls is not None:
        raise ProviderError("the upstream's answer is not a chat completion")
    return changed


def guard_call(call: dict[str, Any], where: str, fields: FieldGuard, *, legacy: bool) -> bool:
    """Guard all of a tool call but its arguments' text: ids, names, unknown fields, arguments that are no text."""
    changed = fields.envelope(call, _KNOWN_CALL, f"{where}.")
    for kind, name in CALL_TEXTS:
        part = call.get(kind)
        if isinstance(part, dict):
            fields_of = cast("dict[str, Any]", part)
            path = where if legacy else f"{where}.{kind}"
            changed |= fields.envelope(fields_of, frozenset({name}), f"{path}.")
            if fields_of.get(name) is not None and not isinstance(fields_of[name], str):
                changed |= fields.arguments(fields_of, name, f"{path}.{name}")
        elif part is not None:
            changed |= fields.envelope(call, frozenset(call.keys() - {kind}), f"{where}.")
    return changed


def _withhold(choice: dict[str, Any], message: dict[str, Any]) -> None:
    choice["finish_reason"] = "content_filter"
    choice["logprobs"] = None
    message.pop("tool_calls", None)
    message.pop("function_call", None)
