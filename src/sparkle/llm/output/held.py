"""The text that is held back, as it came, and the way to it from the folded text that rules see."""

from __future__ import annotations

import re
from bisect import bisect_right

from sparkle.llm.output.text import INVISIBLE, fold

MAX_INVISIBLE = 32
"""Invisible characters in a row that may leave; no writing system and no emoji needs as many."""

_TOO_MANY = re.compile(f"[{INVISIBLE}]{{{MAX_INVISIBLE + 1}}}")
_TAIL = re.compile(f"[{INVISIBLE}]+\\Z")
_INVISIBLES = re.compile(f"[{INVISIBLE}]+")


class Held:
    """What is held back. Indices are code points of the folded held text unless they are called raw."""

    __slots__ = ("_invisible", "_marks", "_missing", "offset", "raw")

    def __init__(self) -> None:
        self.raw = ""
        self.offset = 0
        """Code points of the whole text, as it came, before ``raw``."""
        self._marks: list[int] = []  # where invisible characters stand (see text.fold)
        self._invisible = 0  # how many of them ``raw`` ends with
        self._missing: list[
            tuple[int, int]
        ] = []  # raw places from which more of them were left out, and how many

    def append(self, chunk: str, marks: list[int], base: int) -> None:
        """Take in a chunk; ``base`` folded characters are held already."""
        if marks:
            rest, missing = self._thin(chunk)
            if missing:
                self._missing += [(len(self.raw) + at, count) for at, count in missing]
                chunk, marks = rest, fold(rest)[1]
            self._marks += [base + mark for mark in marks]
        else:
            self._invisible = 0
        self.raw += chunk

    @property
    def shift(self) -> int | None:
        """How far every place stands from its offset in the whole text; ``None`` where invisible characters stand."""
        return None if self._marks or self._missing else self.offset

    def start(self, index: int) -> int:
        """Raw index of the character at ``index``."""
        return index + bisect_right(self._marks, index) if self._marks else index

    def end(self, index: int) -> int:
        """Raw index just behind the character before ``index``."""
        return index + bisect_right(self._marks, index - 1) if self._marks else index

    def original(self, raw_index: int) -> int:
        """Offset in the whole text, as it came."""
        missing = sum(count for at, count in self._missing if at <= raw_index) if self._missing else 0
        return self.offset + raw_index + missing

    def consume(self, index: int, raw_end: int) -> None:
        """Let go of the first ``index`` folded and ``raw_end`` raw characters."""
        self.offset = self.original(raw_end)
        if self._missing:
            self._missing = [(at - raw_end, count) for at, count in self._missing if at > raw_end]
        if self._marks:
            self._marks = (
                [mark - index for mark in self._marks if mark >= index] if raw_end < len(self.raw) else []
            )
        self.raw = self.raw[raw_end:]

    def withhold(self, chunk: str) -> None:
        """Pass over a chunk of a piece that goes on, all but the invisible characters at its end.

        Whether those stand inside the piece only the next character tells.
        """
        whole = self.raw + chunk
        tail = next((m.start() for m in _INVISIBLES.finditer(whole) if m.end() == len(whole)), len(whole))
        self.offset += tail
        self._marks, self._missing, self._invisible, self.raw = [], [], 0, ""
        self.append(whole[tail:], [0] * (len(whole) - tail), 0)

    def _thin(self, chunk: str) -> tuple[str, list[tuple[int, int]]]:
        """The chunk without invisible characters beyond the limit, and where how many are missing in the rest."""
        parts: list[str] = []
        missing: list[tuple[int, int]] = []
        if not self._invisible and not _TOO_MANY.search(chunk):  # the usual case, at the speed of one search
            tail = _TAIL.search(chunk, max(0, len(chunk) - MAX_INVISIBLE))
            self._invisible = len(tail.group()) if tail else 0
            return chunk, missing
        before, kept, size = self._invisible, 0, 0
        self._invisible = 0
        for match in _INVISIBLES.finditer(chunk):
            start, end = match.span()
            earlier = before if start == 0 else 0
            left = max(0, min(end - start, MAX_INVISIBLE - earlier))
            parts.append(chunk[kept : start + left])
            size += len(parts[-1])
            kept = end
            if left < end - start:
                missing.append((size, end - start - left))
            if end == len(chunk):
                self._invisible = earlier + left
        parts.append(chunk[kept:])
        return "".join(parts), missing
