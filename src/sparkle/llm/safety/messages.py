"""Every text of a request, with where it stands and how far it is trusted.

Only the structure is looked at here. Unknown roles count as untrusted, unknown fields and parts are searched for
strings, and what is no message at all is refused: nothing reaches the model because nobody knew its shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sparkle.errors import InvalidRequestError
from sparkle.llm.policy import Trust
from sparkle.llm.safety.pieces import Piece, Pieces, join_turns, read_together, render_path
from sparkle.llm.safety.redact import Keys
from sparkle.llm.safety.rest import take_rest
from sparkle.llm.safety.walk import TooManyStringsError, Walker

_INDIRECT_PARTS = frozenset(
    {"document", "file", "input_file", "tool_result", "search_result", "web_search_result"}
)
_MESSAGE_FIELDS = frozenset({"role", "content", "name", "tool_calls", "function_call"})
_SHORT_NAME = 16
_SEAMS = ("\n", "")


def collect(
    messages: Sequence[Mapping[str, Any]],
    tools: object,
    roles: Mapping[str, Trust],
    rest: Mapping[str, Any] | None = None,
    *,
    most: int | None = None,
) -> Pieces:
    """All texts of a request.

    Args:
        messages: the conversation.
        tools: the tool definitions, of any shape.
        roles: how far each role's text is trusted.
        rest: the request's other top-level fields; ``messages`` and ``tools`` in it are passed over.
        most: strings after which nothing more is collected; ``Pieces.strings`` is then greater.

    Raises:
        InvalidRequestError: something is not the shape of a message; ``param`` names it.
    """
    if isinstance(messages, str | bytes) or not isinstance(cast(object, messages), Sequence):
        raise InvalidRequestError("messages must be a list", param="messages")
    collector = _Collector(roles, most)
    walker = collector.walker
    try:
        for index, message in enumerate(messages):
            collector.message(index, message)
        collector.close()
        collector.close_turns()
        if tools is not None or rest:
            take_rest(walker, tools, rest, roles)
    except TooManyStringsError:
        pass  # the number says it; whoever asked for it reads no further
    return Pieces(walker.items, collector.most_parts, walker.strings, walker.total)


class _Collector:
    def __init__(self, roles: Mapping[str, Trust], most: int | None) -> None:
        self._roles = roles
        self.walker = Walker(most)
        self.most_parts = 0
        self._speaker = ""
        self._first = 0
        self._turns: list[Piece] = []
        self._answered = False

    def message(self, index: int, message: object) -> None:
        if not isinstance(message, Mapping):
            raise InvalidRequestError("a message must be an object", param=f"messages[{index}]")
        fields = cast("Mapping[str, Any]", message)
        role = fields.get("role")
        if not isinstance(role, str):
            raise InvalidRequestError("a message needs a role", param=f"messages[{index}].role")
        trust = self._roles.get(role, "untrusted")
        before = len(self.walker.items)
        name = fields.get("name")
        if name is not None:
            self._name((index, "name"), name, trust)  # models are shown it before what is said
        content = fields.get("content")
        if isinstance(content, str):
            self.walker.add(Piece((index, "content"), content, trust))
        elif content is not None:
            self._parts((index, "content"), content, trust)
        if len(fields) > 2:
            self._extras(index, fields, trust)
        if len(self.walker.items) > before:  # a message that says nothing parts no neighbours
            speaker = "user" if role == "retrieved" else role  # upstream they are the same
            if trust == "untrusted":
                # Only what follows an answer is a further turn; neighbours are read together anyway.
                self._answered |= bool(self._turns) and speaker != self._speaker
                self._turns += [p for p in self.walker.items[before:] if p.trust == "untrusted" and p.text]
            if speaker != self._speaker:
                self.close(before)
                self._speaker = speaker

    def close(self, end: int | None = None) -> None:
        """Have the texts of neighbouring messages of one role, up to ``end``, read together."""
        items = self.walker.items
        end = len(items) if end is None else end
        if end - self._first > 1:
            later = items[end:]
            del items[end:]
            read_together(items, self._first, _SEAMS)
            end = len(items)
            items += later
        self._first = end

    def close_turns(self) -> None:
        """Have a speaker's turns read together, too, if somebody answered in between."""
        if self._answered:
            self.walker.items.append(join_turns(self._turns))

    def _extras(self, index: int, fields: Mapping[str, Any], trust: Trust) -> None:
        calls = fields.get("tool_calls")
        if calls is not None:
            if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
                raise InvalidRequestError("tool_calls must be a list", param=f"messages[{index}].tool_calls")
            for number, call in enumerate(cast("Sequence[object]", calls)):
                self._call((index, "tool_calls", number), call, trust)
        legacy = fields.get("function_call")
        if legacy is not None:
            self._function((index, "function_call"), legacy, _of_calls(trust))
        for field, value in fields.items():
            if field not in _MESSAGE_FIELDS:
                self._field((index,), field, value, trust)

    def _call(self, keys: Keys, call: object, trust: Trust) -> None:
        if not isinstance(call, Mapping):
            raise InvalidRequestError("a tool call must be an object", param=render_path(keys))
        trust = _of_calls(trust)
        for kind, inner in cast("Mapping[str, Any]", call).items():
            if kind in ("function", "custom"):
                self._function((*keys, kind), inner, trust)
            else:
                self._field(keys, kind, inner, trust)

    def _function(self, keys: Keys, function: object, trust: Trust) -> None:
        if not isinstance(function, Mapping):
            self.walker.value(keys, function, trust)
            return
        for key, value in cast("Mapping[str, Any]", function).items():
            if key == "name" and isinstance(value, str):
                self._name((*keys, key), value, trust)
            else:
                self._field(keys, key, value, trust)

    def _field(self, keys: Keys, key: object, value: object, trust: Trust) -> None:
        """A field that nobody named: its key is text, and all it holds."""
        if key not in ("tool_call_id", "refusal", "reasoning_content"):
            self.walker.key(keys, key, trust)
        inner: Keys = (*keys, key if isinstance(key, int) else str(key))
        self.walker.value(inner, value, trust, fixed=not isinstance(key, str))

    def _name(self, keys: Keys, name: object, trust: Trust) -> None:
        if not isinstance(name, str):
            raise InvalidRequestError("a name must be a string", param=render_path(keys))
        if len(name) > _SHORT_NAME or not name.isascii() or not name.isidentifier():
            self.walker.add(Piece(keys, name, trust))

    def _parts(self, keys: Keys, content: object, trust: Trust) -> None:
        if isinstance(content, Mapping):
            self._part(keys, cast("Mapping[str, Any]", content), trust)
            return
        if not isinstance(content, Sequence) or isinstance(content, bytes | bytearray):
            raise InvalidRequestError(
                "content must be a string, a list of parts or null", param=render_path(keys)
            )
        parts = cast("Sequence[object]", content)
        self.walker.count(len(parts))
        self.most_parts = max(self.most_parts, len(parts))
        for number, part in enumerate(parts):
            if isinstance(part, str):
                self.walker.add(Piece((*keys, number), part, trust))
            elif isinstance(part, Mapping):
                self._part((*keys, number), cast("Mapping[str, Any]", part), trust)
            else:
                raise InvalidRequestError(
                    "a content part must be an object", param=render_path((*keys, number))
                )

    def _part(self, keys: Keys, part: Mapping[str, Any], trust: Trust) -> None:
        kind: object = part.get("type")
        text = part.get("text")
        if kind in ("text", "input_text", "output_text") and isinstance(text, str):
            self.walker.add(Piece((*keys, "text"), text, trust))
            for key, value in part.items() if len(part) > 2 else ():
                if key not in ("type", "text"):
                    self._field(keys, key, value, trust)
            return
        if isinstance(kind, str) and kind in _INDIRECT_PARTS and trust in ("untrusted", "trusted"):
            trust = "indirect"
        self.walker.value(keys, part, trust)


def _of_calls(trust: Trust) -> Trust:
    """What a model wrote into a call is what somebody may have made it write: untrusted even in a watched turn."""
    return "untrusted" if trust in ("watch", "trusted") else trust
