"""Text in fields that this gateway does not know: guarded all the same.

Providers add fields faster than gateways learn them (``reasoning_details``, ``audio.transcript``, content in parts).
What is not known must not be a way past the guard, so every string in an unknown field counts as the model's text,
except under keys that hold structure.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from sparkle.errors import ProviderError

STRUCTURE = frozenset(
    {
        "id",
        "type",
        "role",
        "name",
        "index",
        "object",
        "format",
        "status",
        "mime_type",
        "media_type",
        "tool_call_id",
    }
    | (_BYTES := frozenset({"data", "b64_json", "signature", "encrypted_content", "encrypted"}))
)
"""Keys whose strings are not the model's text."""

WHOLE = frozenset({"annotations", "citations", "sources", "search_results", "images"})
"""Fields of a stream whose strings are complete in themselves; those of other fields go on from chunk to chunk."""

_MOST_PLACES = 10_000
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_LONG = 256

Step = tuple[str | int, Mapping[str, Any]]
"""A key, or a list position with the structure that stands beside it."""


@dataclass(slots=True)
class Place:
    """One string in a tree of JSON values."""

    container: Any
    key: str | int
    text: str
    route: tuple[Step, ...]

    @property
    def path(self) -> str:
        """Where it stands, e.g. ``reasoning_details[0].text``."""
        parts = [f"[{key}]" if isinstance(key, int) else f".{key}" for key, _ in self.route]
        return "".join(parts).lstrip(".")

    @property
    def whole(self) -> bool:
        """Whether it is complete in one chunk."""
        return self.route[0][0] in WHOLE

    def put(self, text: str) -> None:
        """Replace it."""
        self.container[self.key] = text


def text_places(tree: dict[str, Any], known: frozenset[str], *, structure: bool = False) -> Iterator[Place]:
    """Every string of ``tree`` that may be a model's text, but for the strings of the fields in ``known``.

    With ``structure``, also the strings under keys of structure; long base64 there is bytes, not text.

    Raises:
        ProviderError: There are more than 10,000 values.
    """
    nothing: Mapping[str, Any] = {}
    todo: deque[tuple[Any, str | int, Any, tuple[Step, ...]]] = deque()
    for name, value in tree.items():
        if isinstance(value, list | dict) or (isinstance(value, str) and name not in known):
            todo.append((tree, name, cast("Any", value), ((name, nothing),)))
    seen = 0
    while todo:
        container, key, value, route = todo.popleft()
        seen += 1
        if seen > _MOST_PLACES:
            raise ProviderError("the upstream's answer has too many parts to be checked")
        if isinstance(value, str):
            if value and (key not in STRUCTURE or (structure and not _is_bytes(key, value))):
                yield Place(container, key, value, route)
        elif isinstance(value, dict):
            node = cast("dict[str, Any]", value)
            todo += [(node, k, v, (*route, (k, nothing))) for k, v in node.items()]
        elif isinstance(value, list):
            items = cast("list[Any]", value)
            for position, item in enumerate(items):
                index, beside = _element(position, item)
                todo.append((items, position, item, (*route, (index, beside))))


def append_text(tree: dict[str, Any], route: tuple[Step, ...], text: str) -> None:
    """Put ``text`` where ``route`` leads: behind a string that stands there, into new list elements."""
    node: Any = tree
    for place, (key, beside) in enumerate(route):
        if place == len(route) - 1:
            if isinstance(key, int):
                node.append(text)
            else:
                before = node.get(key)
                node[key] = (before if isinstance(before, str) else "") + text
            return
        inside: Any = [] if isinstance(route[place + 1][0], int) else dict(beside)
        if isinstance(key, int):
            node.append(inside)
            node = inside
        else:
            if not isinstance(node.get(key), type(inside)):
                node[key] = inside
            node = node[key]


def _element(position: int, item: object) -> tuple[int, Mapping[str, Any]]:
    """Position of a list element as its own ``index`` says it, and its structure."""
    if not isinstance(item, dict):
        return position, {}
    fields = cast("dict[str, Any]", item)
    index = fields.get("index")
    beside = {k: v for k, v in fields.items() if k in STRUCTURE and isinstance(v, str | int)}
    return (index if isinstance(index, int) and 0 <= index < _MOST_PLACES else position), beside


def _is_bytes(key: str | int, value: str) -> bool:
    return key in _BYTES and len(value) > _LONG and _BASE64.fullmatch(value) is not None
