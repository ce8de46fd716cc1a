"""Where Markdown shows text as code: students ask about HTML, and code is how they show it."""

from __future__ import annotations

import re
from bisect import bisect_right

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
_INLINE = re.compile(r"(?<!`)(`{1,2})(?!`)[^`\n]+\1(?!`)")


class CodeSpans:
    """The closed fenced blocks and inline code of a text, as code point spans.

    A fence that is never closed is not code: otherwise three characters would hide the rest of a message.
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self, text: str) -> None:
        spans: list[tuple[int, int]] = []
        opened: tuple[str, int] | None = None
        searched = 0
        for match in _FENCE.finditer(text):
            marks = match.group(1)
            if opened is None:
                opened = (marks, match.start())
            elif marks[0] == opened[0][0] and len(marks) >= len(opened[0]):
                spans.extend(inline.span() for inline in _INLINE.finditer(text, searched, opened[1]))
                spans.append((opened[1], match.end()))
                searched, opened = match.end(), None
        spans.extend(inline.span() for inline in _INLINE.finditer(text, searched))
        self._starts = [start for start, _ in spans]
        self._ends = [end for _, end in spans]

    def hold(self, start: int, end: int) -> bool:
        """Whether ``start:end`` lies within code."""
        index = bisect_right(self._starts, start) - 1
        return index >= 0 and end <= self._ends[index]
