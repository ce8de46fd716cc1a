"""The hidden instructions in an answer: a canary, or a long part of their text.

Both texts are compared as lower-case letters and digits in UTF-8, without ASCII spaces and punctuation, so that layout
does not hide a copy; a Chinese character weighs three bytes, about what it says. A copy of ``L`` bytes is a leak. Its
finding begins at the piece that holds its :data:`GRAM`-th byte: so much may be said before the stream waits, and an
answer's first words never wait.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock

from sparkle.llm.output.engine import Pattern, compile_re2
from sparkle.llm.output.text import fold

GRAM = 16
"""Bytes of a copy that are looked up, and that may leave before it is held back."""
_CANARY_FREE = 4
_LEAST_PROMPT = 32
_MAX_GAP = 64
"""So many spaces or signs in a row end a copy, so that what is held back stays bounded."""
_INDEX_AFTER = 256
_MAX_PLACES = 64
_CACHE_BYTES = 1 << 20

_KEPT = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DROPPED = bytes(b for b in range(128) if b not in _KEPT)
_LOWER = bytes(b + 32 if 65 <= b <= 90 else b for b in range(256))


@lru_cache(maxsize=1)
def _long_gap() -> Pattern:
    return compile_re2(f"[\\x00-/:-@\\[-`{{-\\x7f]{{{_MAX_GAP + 1},}}", "gap")


def plain(data: bytes) -> bytes:
    """A UTF-8 text as it is compared."""
    return data.translate(_LOWER, _DROPPED)


@dataclass(slots=True, eq=False)
class PromptGuard:
    """What must not leak in one call; made by :meth:`OutputValidator.prompt_guard`, safe to share and to cache."""

    prompt: bytes
    canary: bytes
    least: int
    """Bytes of a copy that make a leak; 0: copies are not looked for."""
    _lookups: int = 0
    _index: frozenset[bytes] | None = None

    @property
    def active(self) -> bool:
        """Whether there is anything to look for."""
        return bool(self.canary) or self.least > 0

    @property
    def shortest(self) -> int:
        """Bytes of :func:`plain` text below which a text can be no leak."""
        return min(len(self.canary) or sys.maxsize, self.least or sys.maxsize)

    def index(self, lookups: int) -> frozenset[bytes] | bytes:
        """What a gram is looked up in: the prompt, and after many lookups a set of its grams."""
        if self._index is None:
            self._lookups += lookups
            if self._lookups < _INDEX_AFTER:
                return self.prompt
            prompt = self.prompt
            self._index = frozenset(prompt[i : i + GRAM] for i in range(len(prompt) - GRAM + 1))
        return self._index

    def places(self, gram: bytes) -> list[int]:
        """Where they stand, at most :data:`_MAX_PLACES`."""
        found: list[int] = []
        at = self.prompt.find(gram)
        while at >= 0 and len(found) < _MAX_PLACES:
            found.append(at)
            at = self.prompt.find(gram, at + 1)
        return found


NO_PROMPT = PromptGuard(b"", b"", 0)


class PromptGuards:
    """Makes guards and keeps those of the last prompts, by text, up to a megabyte of them."""

    def __init__(self, overlap: int) -> None:
        self._overlap = overlap
        self._cache: OrderedDict[tuple[tuple[str, ...], str], PromptGuard] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, system_texts: Sequence[str], canary: str | None) -> PromptGuard:
        """The guard of these system texts and this canary."""
        key = (tuple(system_texts), canary or "")
        with self._lock:
            found = self._cache.get(key)
            if found is not None:
                self._cache.move_to_end(key)
                return found
        guard = self._make(key[0], key[1])
        with self._lock:
            if key not in self._cache:
                self._cache[key] = guard
                self._bytes += len(guard.prompt)
            while self._bytes > _CACHE_BYTES and len(self._cache) > 1:
                _, old = self._cache.popitem(last=False)
                self._bytes -= len(old.prompt)
        return guard

    def _make(self, texts: tuple[str, ...], canary: str) -> PromptGuard:
        parts = [plain(fold(text)[0].encode()) for text in texts]
        longest = max(map(len, parts), default=0)
        least = 0
        if self._overlap and longest >= _LEAST_PROMPT:
            least = max(GRAM, min(self._overlap, longest))
        mark = plain(fold(canary)[0].encode())
        return PromptGuard(b"\0".join(parts), mark if len(mark) >= 8 else b"", least)


@dataclass(slots=True)
class LeakTracker:
    """Looks for one prompt in one text that comes in chunks; positions are bytes of :func:`plain` text so far."""

    guard: PromptGuard
    total: int = 0
    held: int = 0
    """Bytes at the end that may be the beginning of a leak and that may not leave."""
    _tail: bytes = b""
    _gap: int = 0
    _hot: bool = False
    _keep: int = field(init=False)

    def __post_init__(self) -> None:
        self._keep = max(self.guard.least, len(self.guard.canary), GRAM)

    def feed(self, data: bytes) -> list[tuple[int, int, str]]:
        """Take in text (UTF-8); copies found: start (free bytes left out), end, and the rule's id."""
        part = plain(data)
        dropped = len(data) - len(part)
        if self._gap + dropped > _MAX_GAP:
            return self._feed_gaps(data)
        self._gap = self._gap + len(data) if not part else len(data) - len(data.rstrip(_DROPPED))
        return self._feed(part) if part else []

    def reset(self) -> None:
        """What came before does not go on here."""
        self._tail, self._gap, self._hot, self.held = b"", 0, False, 0

    def _feed_gaps(self, data: bytes) -> list[tuple[int, int, str]]:
        """A chunk in which a gap may be too long for a copy to go on behind it."""
        found: list[tuple[int, int, str]] = []
        start = len(data) - len(data.lstrip(_DROPPED))
        gap = self._gap + start
        if gap > _MAX_GAP:
            self.reset()
        for match in _long_gap().finditer(data, start):
            left, right = match.span()
            found += self._feed(plain(data[start:left]))
            self.reset()
            start, gap = right, right - left
        rest = data[start:]
        found += self._feed(plain(rest))
        self._gap = len(rest) - len(rest.rstrip(_DROPPED)) if rest else gap
        return found

    def _feed(self, part: bytes) -> list[tuple[int, int, str]]:
        if not part:
            return []
        old, guard = self.total, self.guard
        buffer = self._tail + part
        base = old - len(self._tail)
        self.total = old + len(part)
        found: list[tuple[int, int, str]] = []
        held = 0
        if guard.canary:
            found, held = self._find_canary(buffer, base, old)
        if guard.least:
            step = guard.least - GRAM + 1
            if self._hot or len(part) >= step:
                found += self._find_copies(buffer, base, old, step)
            last = buffer[-GRAM:]
            self._hot = len(last) == GRAM and last in guard.index(1)
            if self._hot:
                held = max(held, self._match_length(buffer) - GRAM)
        self.held = held
        self._tail = buffer[-self._keep :]
        return found

    def _find_copies(self, buffer: bytes, base: int, old: int, step: int) -> list[tuple[int, int, str]]:
        """Maximal copies of at least ``least`` bytes that end in the new part.

        Each holds a gram that begins at a multiple of ``step``, so only those are looked up.
        """
        guard = self.guard
        found: list[tuple[int, int, str]] = []
        first = max(base, old - guard.least)
        done: dict[int, int] = {}  # difference of positions of a copy found -> its end
        starts = range(-(-first // step) * step - base, len(buffer) - GRAM + 1, step)
        index = guard.index(len(starts))
        for at in [at for at in starts if buffer[at : at + GRAM] in index]:
            gram = buffer[at : at + GRAM]
            for place in guard.places(gram):
                if done.get(at - place, 0) >= at + GRAM:
                    continue
                left = _common_suffix(buffer, at, guard.prompt, place)
                right = _common_prefix(buffer, at + GRAM, guard.prompt, place + GRAM)
                start, end = at - left, at + GRAM + right
                done[at - place] = end
                if end - start >= guard.least and base + end > old:
                    found.append((base + start + GRAM, base + end, "leak.system_prompt"))
        return found

    def _find_canary(self, buffer: bytes, base: int, old: int) -> tuple[list[tuple[int, int, str]], int]:
        canary = self.guard.canary
        found: list[tuple[int, int, str]] = []
        at = buffer.find(canary)
        while at >= 0:
            if base + at + len(canary) > old:
                found.append((base + at + _CANARY_FREE, base + at + len(canary), "leak.canary"))
            at = buffer.find(canary, at + 1)
        near = buffer[-len(canary) :]
        if canary[:_CANARY_FREE] in near:
            for length in range(min(len(near), len(canary) - 1), _CANARY_FREE, -1):
                if near.endswith(canary[:length]):
                    return found, length - _CANARY_FREE
        return found, 0

    def _match_length(self, buffer: bytes) -> int:
        gram, end = buffer[-GRAM:], len(buffer) - GRAM
        places = self.guard.places(gram)
        return GRAM + max((_common_suffix(buffer, end, self.guard.prompt, p) for p in places), default=0)


def _common_suffix(a: bytes, a_end: int, b: bytes, b_end: int) -> int:
    """Length of the longest common suffix of ``a[:a_end]`` and ``b[:b_end]``; no NUL is ever common."""
    length = 0
    while length < a_end and length < b_end and a[a_end - 1 - length] == b[b_end - 1 - length]:
        length += 1
    return length


def _common_prefix(a: bytes, a_start: int, b: bytes, b_start: int) -> int:
    limit = min(len(a) - a_start, len(b) - b_start)
    low, high = 0, limit
    if a[a_start : a_start + limit] == b[b_start : b_start + limit]:
        return limit
    while low < high:  # bytes are equal up to some length and not at the next: halve
        middle = (low + high + 1) // 2
        if a[a_start : a_start + middle] == b[b_start : b_start + middle]:
            low = middle
        else:
            high = middle - 1
    return low


def index_back(text: str, end: int, back: int) -> int:
    """Index of the character of ``text[:end]`` that holds the ``back``-th byte of plain text from the end (1-based)."""
    width = back + 16
    while len(plain(text[max(0, end - width) : end].encode())) < back and width < end:
        width *= 2
    low, high = max(0, end - width), end
    while (
        high - low > 1
    ):  # the plain length of text[i:end] only falls with i: find the last i with at least `back`
        middle = (low + high) // 2
        if len(plain(text[middle:end].encode())) >= back:
            low = middle
        else:
            high = middle
    return low
