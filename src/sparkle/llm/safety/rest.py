"""The fields of a request beside its messages: tools, schemas, documents, and whatever a provider invents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sparkle.errors import InvalidRequestError
from sparkle.llm.policy import Trust
from sparkle.llm.safety.pieces import TOOL_FIELDS, read_together
from sparkle.llm.safety.redact import Keys
from sparkle.llm.safety.walk import Walker

TOOLS_ROLE = "tool_definition"
"""Role under which a policy sets the trust of tool definitions."""

_ELSEWHERE = frozenset({"messages", "tools"})
_PROMPT_FIELDS = frozenset({"system", "instructions"})
_SCALARS = frozenset({int, float, bool, type(None)})
_WORD_CHARS = 64
_TEMPLATES = ("chat_template", "chat_template_kwargs")
_SEAMS = ("\n\n",)


def take_rest(
    walker: Walker, tools: object, rest: Mapping[str, Any] | None, roles: Mapping[str, Trust]
) -> None:
    """Collect the strings of all fields but the messages, to be read together: they are many and short.

    Tool definitions are trusted as role ``tool_definition``, ``system`` and ``instructions`` as role ``system``, all
    others are data from who knows where.

    Raises:
        InvalidRequestError: the caller brings a chat template of its own.
        TooManyStringsError: there are too many strings.
    """
    items = walker.items
    first = len(items)
    if tools is not None:
        walker.value(("tools",), tools, roles.get(TOOLS_ROLE, "untrusted"), fixed=True)
        read_together(items, first, _SEAMS, few=1)
        first = len(items)
    if not rest:
        return
    settings = walker.words.settings
    for name, value in rest.items():
        if name in settings:
            kind: type[object] = type(cast("object", value))  # exact types: every request comes through here
            if kind in _SCALARS or (kind is str and _is_word(value)):
                continue
        elif name in _ELSEWHERE:
            continue
        _field(walker, name, value, roles)
    if len(items) - first > 1:
        read_together(items, first, _SEAMS, few=1)


def _is_word(value: str) -> bool:
    return len(value) <= _WORD_CHARS and value.isascii() and " " not in value


def _field(walker: Walker, name: str, value: object, roles: Mapping[str, Trust]) -> None:
    if name in _TEMPLATES and value is not None and _has_text(value, template=name == _TEMPLATES[0]):
        # A template says where the system prompt ends and the user begins: whoever writes it needs no injection.
        raise InvalidRequestError(f"{name} is the server's to set", param=name)
    trust: Trust = "indirect"
    if name in TOOL_FIELDS:
        trust = roles.get(TOOLS_ROLE, "untrusted")
    elif name in _PROMPT_FIELDS:
        trust = roles.get("system", "untrusted")
    elif name not in walker.words.settings and name not in _TEMPLATES:
        walker.key(("body",), name, trust)
    keys: Keys = (name,)
    if name == "stop" and isinstance(value, list):
        stops = cast("list[object]", value)
        value = stops[4:] if all(map(_is_stop, stops[:4])) else stops
    walker.value(keys, value, trust, fixed=True)


def _is_stop(value: object) -> bool:
    """A stop word is never shown to the model; a long one is no stop word."""
    return isinstance(value, str) and len(value) <= _WORD_CHARS // 4


def _has_text(value: object, *, template: bool) -> bool:
    if template or isinstance(value, str):
        return True
    waiting: list[object] = [value]
    seen = 0
    while waiting:
        inner = waiting.pop()
        seen += 1
        if isinstance(inner, str) or seen > 100:
            return True
        if isinstance(inner, Mapping):
            waiting.extend(cast("Mapping[object, object]", inner).values())
        elif isinstance(inner, list | tuple):
            waiting.extend(cast("list[object]", inner))
    return False
