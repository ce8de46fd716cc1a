"""A thin typed door to google-re2, the only regular expression engine that judges callers' text.

RE2 runs in time linear in the input. Patterns and texts are bytes (UTF-8) matched as Latin-1: a byte is one step of
the automaton, so negated classes and counted gaps stay small, and a match can only begin and end at the bytes that
the pattern names. Offsets are bytes; :class:`sparkle.llm.safety.views.View` turns them into code points.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from sparkle.errors import ConfigurationError

RULE_MEMORY = 1 << 21
"""Bytes one rule's automaton may hold; above it RE2 forgets states or walks the NFA: slower, never wrong.

Half of it makes the worst text of the worst rule thirty times as slow (docs/decisions/0057)."""

SET_MEMORY = 16 << 20
"""Bytes a set's automaton may hold."""


class PatternError(ConfigurationError):
    """A pattern does not compile."""

    code = "pattern_error"


def _engine() -> Any:
    # The package's Python wrapper decodes and re-encodes every text; its extension module takes bytes as they are.
    import re2

    return cast(Any, re2)._re2


def _options(engine: Any, max_mem: int, *, latin1: bool = True) -> Any:
    options = engine.RE2.Options()
    if latin1:
        options.encoding = engine.RE2.Options.Encoding.LATIN1
    options.never_capture = True
    options.max_mem = max_mem
    options.log_errors = False
    return options


class Regex:
    """One compiled pattern. Thread-safe.

    Raises:
        PatternError: the pattern is not valid RE2 syntax or too large for ``max_mem`` bytes.
    """

    __slots__ = ("_both", "_match", "_unanchored", "pattern")

    def __init__(self, pattern: bytes, *, max_mem: int = RULE_MEMORY, latin1: bool = True) -> None:
        engine = _engine()
        compiled = engine.RE2(pattern, _options(engine, max_mem, latin1=latin1))
        if not compiled.ok():
            raise PatternError(f"not a valid RE2 pattern: {str(compiled.error())[:120]}")
        self.pattern = pattern
        self._match = compiled.Match
        self._unanchored = engine.RE2.Anchor.UNANCHORED
        self._both = engine.RE2.Anchor.ANCHOR_BOTH

    def search(self, data: bytes, start: int = 0, end: int | None = None) -> tuple[int, int] | None:
        """The byte span of the leftmost match within ``start:end``, or ``None``."""
        stop = len(data) if end is None else end
        span: tuple[int, int] = self._match(self._unanchored, data, start, stop)[0]
        return None if span[0] < 0 else span

    def spans(
        self, data: bytes, limit: int, start: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, int]]:
        """Up to ``limit`` byte spans in ``start:end`` from left to right, none overlapping, none empty."""
        for _ in range(limit):
            span = self.search(data, start, end)
            if span is None or span[1] == span[0]:
                return
            yield span
            start = span[1]

    def fullmatch(self, data: bytes) -> bool:
        """Whether the pattern matches the whole of ``data``."""
        return bool(self._match(self._both, data, 0, len(data))[0][0] >= 0)


class RegexSet:
    """Many patterns in one pass over the text.

    An automaton that runs out of memory would report no match at all, which for a guard means letting everything
    through. So the set holds one pattern more that matches every text: when it is missing, :meth:`match` answers
    ``None`` and the caller must try every pattern.
    """

    __slots__ = ("_match", "_sentinel", "size")

    def __init__(self, patterns: Iterable[bytes], *, max_mem: int = SET_MEMORY) -> None:
        engine = _engine()
        compiled = engine.Set(engine.RE2.Anchor.UNANCHORED, _options(engine, max_mem))
        count = 0
        for pattern in patterns:
            if compiled.Add(pattern) != count:
                raise PatternError(f"pattern {count} of a set is not valid RE2 syntax")
            count += 1
        self._sentinel: int = compiled.Add(rb"\z")
        if not compiled.Compile():
            raise PatternError(f"a set of {count} patterns does not fit in {max_mem} bytes")
        self.size = count
        self._match = compiled.Match

    def match(self, data: bytes) -> list[int] | None:
        """Indices of the patterns found anywhere in ``data``; ``None`` when the set could not decide."""
        found: list[int] = self._match(data)
        if len(found) == 1 and found[0] == self._sentinel:
            return []
        if self._sentinel not in found:
            return None
        found.remove(self._sentinel)
        return found
