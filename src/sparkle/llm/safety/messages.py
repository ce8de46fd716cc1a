"""Every text of a conversation, with where it stands and how far it is trusted.

Only the structure is looked at here. Unknown roles count as untrusted, unknown parts are searched for strings, and
what is no message at all is refused: nothing reaches the model because nobody knew its shape.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sparkle.errors import InvalidRequestError
from sparkle.llm.policy import Trust
from sparkle.llm.safety.redact import Keys

TOOLS = "tools"
"""First key of everything in the tool definitions."""

TOOLS_ROLE = "tool_definition"
"""Role under which a policy sets the trust of tool definitions."""

MAX_DEPTH = 32
"""Deepest nesting of an unknown part that is searched for strings; deeper is refused."""

_INDIRECT_PARTS = frozenset(
    {"document", "file", "input_file", "tool_result", "search_result", "web_search_result"}
)
_BINARY_PARTS = frozenset({"image_url", "input_image", "image", "input_audio", "audio", "video", "video_url"})
# Of an image or audio part the payload says nothing to rules; everything else about it may be text.
_BINARY_KEYS = frozenset(
    {"url", "data", "image_url", "detail", "format", "file_id", "id", "type", "media_type"}
)
_SHORT_NAME = 16


@dataclass(frozen=True, slots=True)
class Piece:
    """One text to judge."""

    keys: Keys
    text: str
    trust: Trust
    joined: tuple[Piece, ...] = ()
    """The pieces that ``text`` joins, in order."""
    seam: str = ""
    """What stands between joined pieces."""
    alone: bool = False
    """The joined pieces are judged here only, not each by itself."""
    length: int | None = None
    """Code points of the value that ``text`` was decoded from; findings then span all of it. ``None``: not decoded."""

    def path(self) -> str:
        """The place in the caller's terms: ``messages[2].content[0].text``."""
        return render_path(self.keys)

    def places(self, start: int, end: int) -> list[tuple[Piece, int, int]]:
        """The pieces that ``start:end`` of the text lies in, each with its own span: this one, or those it joins."""
        if self.length is not None:
            return [(self, 0, self.length)]
        if not self.joined:
            return [(self, start, end)]
        found: list[tuple[Piece, int, int]] = []
        at = 0
        for piece in self.joined:
            finish = at + len(piece.text)
            if start < finish and at < end:
                found.append((piece, max(start, at) - at, min(end, finish) - at))
            at = finish + len(self.seam)
        return found


@dataclass(frozen=True, slots=True)
class Pieces:
    """Everything to judge in one request."""

    items: list[Piece]
    most_parts: int
    """Most content parts of one message."""


def render_path(keys: Keys) -> str:
    """``(2, "content", 0, "text")`` as ``messages[2].content[0].text``; tool definitions begin with ``tools``."""
    path = "messages" if isinstance(keys[0], int) else ""
    for key in keys:
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else key
    return path


def collect(messages: Sequence[Mapping[str, Any]], tools: object, roles: Mapping[str, Trust]) -> Pieces:
    """All texts of a request.

    Raises:
        InvalidRequestError: something is not the shape of a message; ``param`` names it.
    """
    if isinstance(messages, str | bytes) or not isinstance(cast(object, messages), Sequence):
        raise InvalidRequestError("messages must be a list", param="messages")
    collector = _Collector(roles)
    for index, message in enumerate(messages):
        collector.message(index, message)
    if tools is not None:
        collector.tools(tools)
    return Pieces(collector.items, collector.most_parts)


class _Collector:
    def __init__(self, roles: Mapping[str, Trust]) -> None:
        self._roles = roles
        self.items: list[Piece] = []
        self.most_parts = 0

    def message(self, index: int, message: object) -> None:
        if not isinstance(message, Mapping):
            raise InvalidRequestError("a message must be an object", param=f"messages[{index}]")
        fields = cast("Mapping[str, Any]", message)
        role = fields.get("role")
        if not isinstance(role, str):
            raise InvalidRequestError("a message needs a role", param=f"messages[{index}].role")
        trust = self._roles.get(role, "untrusted")
        content = fields.get("content")
        if isinstance(content, str):
            if content:
                self.items.append(Piece((index, "content"), content, trust))
        elif content is not None:
            self._parts((index, "content"), content, trust)
        if len(fields) > 2:
            self._extras(index, fields, trust)

    def _extras(self, index: int, fields: Mapping[str, Any], trust: Trust) -> None:
        name = fields.get("name")
        if name is not None:
            self._name((index, "name"), name, trust)
        refusal = fields.get("refusal")
        if isinstance(refusal, str):
            self.items.append(Piece((index, "refusal"), refusal, trust))
        calls = fields.get("tool_calls")
        if calls is not None:
            if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
                raise InvalidRequestError("tool_calls must be a list", param=f"messages[{index}].tool_calls")
            for number, call in enumerate(cast("Sequence[object]", calls)):
                self._call((index, "tool_calls", number), call, trust)
        legacy = fields.get("function_call")
        if isinstance(legacy, Mapping):
            self._function((index, "function_call"), cast("Mapping[str, Any]", legacy), trust)

    def _call(self, keys: Keys, call: object, trust: Trust) -> None:
        if not isinstance(call, Mapping):
            raise InvalidRequestError("a tool call must be an object", param=render_path(keys))
        fields = cast("Mapping[str, Any]", call)
        for kind in ("function", "custom"):
            inner = fields.get(kind)
            if isinstance(inner, Mapping):
                self._function((*keys, kind), cast("Mapping[str, Any]", inner), trust)

    def _function(self, keys: Keys, function: Mapping[str, Any], trust: Trust) -> None:
        # What a model wrote into a call is what somebody may have made it write: untrusted even in a watched turn.
        trust = "untrusted" if trust in ("watch", "trusted") else trust
        for key in ("name", "arguments", "input"):
            value = function.get(key)
            if isinstance(value, str):
                if key == "name":
                    self._name((*keys, key), value, trust)
                elif value:
                    self.items.append(Piece((*keys, key), value, trust))
            elif value is not None:
                self._walk((*keys, key), value, trust, 0)

    def _name(self, keys: Keys, name: object, trust: Trust) -> None:
        if not isinstance(name, str):
            raise InvalidRequestError("a name must be a string", param=render_path(keys))
        if len(name) > _SHORT_NAME or not name.isascii() or not name.isidentifier():
            self.items.append(Piece(keys, name, trust))

    def _parts(self, keys: Keys, content: object, trust: Trust) -> None:
        if isinstance(content, Mapping):
            self._part(keys, cast("Mapping[str, Any]", content), trust)
            return
        if not isinstance(content, Sequence) or isinstance(content, bytes | bytearray):
            raise InvalidRequestError(
                "content must be a string, a list of parts or null", param=render_path(keys)
            )
        parts = cast("Sequence[object]", content)
        self.most_parts = max(self.most_parts, len(parts))
        before = len(self.items)
        for number, part in enumerate(parts):
            if isinstance(part, str):
                self.items.append(Piece((*keys, number), part, trust))
            elif isinstance(part, Mapping):
                self._part((*keys, number), cast("Mapping[str, Any]", part), trust)
            else:
                raise InvalidRequestError(
                    "a content part must be an object", param=render_path((*keys, number))
                )
        texts = [piece for piece in self.items[before:] if not piece.joined]
        if len(texts) > 1:
            judged_as = max(texts, key=lambda piece: _ORDER[piece.trust]).trust
            # Models read parts with or without a line break between them, and an attack may be cut for either.
            for seam in ("", "\n"):
                self.items.append(
                    Piece(keys, seam.join(p.text for p in texts), judged_as, tuple(texts), seam)
                )

    def _part(self, keys: Keys, part: Mapping[str, Any], trust: Trust) -> None:
        named: object = part.get("type")
        kind = named if isinstance(named, str) else ""
        text = part.get("text")
        if kind in ("text", "input_text", "output_text") and isinstance(text, str):
            if text:
                self.items.append(Piece((*keys, "text"), text, trust))
            if len(part) == 2:
                return
            self._walk_fields(keys, part, trust, skip=frozenset({"type", "text"}))
        elif kind in _BINARY_PARTS:
            self._walk_fields(keys, part, trust, skip=_BINARY_KEYS, deep=False)
        else:
            if kind in _INDIRECT_PARTS and trust in ("untrusted", "trusted"):
                trust = "indirect"
            self._walk_fields(keys, part, trust, skip=frozenset({"type"} if kind else ()))

    def _walk_fields(
        self, keys: Keys, fields: Mapping[str, Any], trust: Trust, *, skip: frozenset[str], deep: bool = True
    ) -> None:
        for key, value in fields.items():
            if key not in skip and (deep or isinstance(value, str)):
                self._walk((*keys, key), value, trust, 0)

    def _walk(self, keys: Keys, value: object, trust: Trust, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise InvalidRequestError(f"nested deeper than {MAX_DEPTH}", param=render_path(keys[:4]))
        if isinstance(value, str):
            if value.startswith("data:"):
                self._data_uri(keys, value, trust)
            elif len(value) > 1:
                self.items.append(Piece(keys, value, trust))
        elif isinstance(value, Mapping):
            for key, inner in cast("Mapping[Any, object]", value).items():
                self._walk((*keys, key if isinstance(key, int) else str(key)), inner, trust, depth + 1)
        elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            for number, inner in enumerate(cast("Sequence[object]", value)):
                self._walk((*keys, number), inner, trust, depth + 1)

    def _data_uri(self, keys: Keys, uri: str, trust: Trust) -> None:
        """Text files come as data URIs; others say nothing to rules."""
        head, _, payload = uri.partition(",")
        if not head[5:].lower().startswith(("text/", "application/json", "application/xml", ";", "base64")):
            return
        if head.endswith(";base64"):
            try:
                text = base64.b64decode(payload).decode("utf-8", "replace")
            except (ValueError, binascii.Error):
                text = payload
        else:
            text = payload
        self.items.append(Piece(keys, text, trust, length=len(uri)))

    def tools(self, tools: object) -> None:
        """All strings of the tool definitions, joined into one text: they are many and short."""
        before = len(self.items)
        self._walk((TOOLS,), tools, self._roles.get(TOOLS_ROLE, "untrusted"), 0)
        texts = self.items[before:]
        del self.items[before:]
        if texts:
            seam = "\n\n"
            joined = seam.join(piece.text for piece in texts)
            self.items.append(Piece((TOOLS,), joined, texts[0].trust, tuple(texts), seam, alone=True))


_ORDER: dict[Trust, int] = {"off": 0, "trusted": 1, "watch": 2, "untrusted": 3, "indirect": 4}
