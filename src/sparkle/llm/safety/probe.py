"""Searching for one pattern: first loosely, then exactly and only where that pays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from sparkle.errors import ConfigurationError
from sparkle.llm.safety.pattern import Compiled
from sparkle.llm.safety.regex import PatternError, Regex

EXACT_BYTES = 65_536
"""Bytes that one pattern reads exactly in one reading of a text."""

EXACT_MEMORY = 1 << 19
"""Bytes that the automaton of an exact pattern may hold."""

_STOPS = (b".", b"!", b"?")
_BEYOND = 160
"""Bytes read beyond the sentence, for patterns whose ends reach over a full stop."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a pattern stands for."""

    rule: str
    """Rule id, or the combination's id for a signal."""
    signal: str = ""
    """Signal id within the combination; empty for a rule."""
    weight: float = 0.0


class Probe:
    """One pattern with what it needs; compiled when it is first searched for, because most never are."""

    __slots__ = ("_exact", "_exact_source", "_loose", "local", "needed", "source", "target")

    def __init__(self, target: Target, compiled: Compiled, needed: frozenset[int]) -> None:
        self.target = target
        self.source = compiled.loose
        self.local = compiled.local
        self._exact_source = compiled.exact
        self.needed = needed
        """Numbers of the needs that must occur."""
        self._loose: Regex | None = None
        self._exact: Regex | None = None

    def spans(
        self, data: bytes, limit: int, start: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, int]]:
        """Up to ``limit`` byte spans of the pattern in ``data[start:end]``, from left to right.

        The loose pattern finds sentences, the exact one reads only those. Sentences of more than
        :data:`EXACT_BYTES` altogether are found without being read exactly: who writes a book of nothing but trigger
        words, without a full stop, gains nothing by it.

        Raises:
            ConfigurationError: the pattern is not valid RE2 syntax; the message names the rule.
        """
        if self._loose is None:
            self.compile()
        loose, exact = self._loose, self._exact
        stop = len(data) if end is None else end
        if loose is None:
            return
        if exact is None:
            yield from loose.spans(data, limit, start, stop)
            return
        left, found = EXACT_BYTES, 0
        while found < limit and (hit := loose.search(data, start, stop)) is not None and hit[1] > hit[0]:
            if left < 0:
                yield hit
                found, start = found + 1, hit[1]
                continue
            # Back to where the sentence begins; forth a little beyond where it ends, for what stands at its edge.
            first = max(data.rfind(mark, start, hit[0]) for mark in _STOPS)
            first = start if first < 0 else first
            after = after_stop(data, hit[1], min(hit[1] + left + 1, stop))  # a longer sentence is not read
            left -= after - first
            if left < 0:
                yield hit
                found, start = found + 1, hit[1]
                continue
            read = exact.search(data, first, min(after + _BEYOND, stop))
            if read is None or read[1] == read[0]:
                start = max(after, hit[1])
                continue
            yield read
            found, start = found + 1, read[1]

    def compile(self) -> None:
        """Compile the pattern. Two threads may do it at the same time; either result is right.

        Raises:
            ConfigurationError: the pattern is not valid RE2 syntax; the message names the rule.
        """
        try:
            if self._exact_source is not None:
                self._exact = Regex(self._exact_source, max_mem=EXACT_MEMORY)
            self._loose = Regex(self.source)
        except PatternError as error:
            raise ConfigurationError(
                f"rule {self.target.rule} {self.target.signal}: {error.message}"
            ) from None


@lru_cache(maxsize=1)
def _stop() -> Regex:
    return Regex(rb"[.!?]")


def after_stop(data: bytes, start: int, end: int) -> int:
    """The byte behind the next full stop, question mark or exclamation mark in ``start:end``, or ``end``."""
    found = _stop().search(data, start, end)
    return end if found is None else found[1]
