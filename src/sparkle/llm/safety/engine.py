"""Matching all rules against a text in time linear in its length.

Two steps. One pass with all words that some pattern needs tells which word families occur at all; only patterns whose
needs all occur are then searched for. Ordinary text pays one pass at memory speed; a text full of trigger words
pays one linear search per rule it could match.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

from sparkle.errors import ConfigurationError
from sparkle.llm.safety.pattern import Compiled, Language, Need, Variant
from sparkle.llm.safety.regex import PatternError, Regex, RegexSet
from sparkle.llm.safety.rules import RuleBook, default_book
from sparkle.llm.safety.views import View


EXACT_BYTES = 131_072
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

    __slots__ = ("_exact", "_exact_source", "_loose", "needed", "source", "target")

    def __init__(self, target: Target, compiled: Compiled, needed: int) -> None:
        self.target = target
        self.source = compiled.loose
        self._exact_source = compiled.exact
        self.needed = needed
        """Bit set of the needs that must occur."""
        self._loose: Regex | None = None
        self._exact: Regex | None = None

    def spans(self, data: bytes, limit: int) -> Iterator[tuple[int, int]]:
        """Up to ``limit`` byte spans of the pattern in ``data``, from left to right.

        The loose pattern finds sentences, the exact one reads only those. Sentences of more than
        :data:`EXACT_BYTES` altogether are found without being read exactly: who writes a book of nothing but trigger
        words, without a full stop, gains nothing by it.

        Raises:
            ConfigurationError: the pattern is not valid RE2 syntax; the message names the rule.
        """
        if self._loose is None:
            self.compile()
        loose, exact = self._loose, self._exact
        if loose is None or exact is None:
            if loose is not None:
                yield from loose.spans(data, limit)
            return
        start, left, found = 0, EXACT_BYTES, 0
        while found < limit and (hit := loose.search(data, start)) is not None and hit[1] > hit[0]:
            first, last = _sentence(data, *hit)
            first = max(first, start)
            left -= last - first
            if left < 0:
                yield hit
                found, start = found + 1, hit[1]
                continue
            read = exact.search(data, first, min(last + _BEYOND, len(data)))
            if read is None or read[1] == read[0]:
                start = max(last, hit[1])
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


def _sentence(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The bytes from the full stop before ``start:end`` to the one after."""
    first = max(data.rfind(mark, 0, start) for mark in _STOPS)
    last = min((at for mark in _STOPS if (at := data.find(mark, end)) >= 0), default=len(data))
    return first + 1, last


class Matcher:
    """All patterns in one variant. Immutable after construction, thread-safe.

    Raises:
        ConfigurationError: a pattern does not compile; the message names the rule.
    """

    def __init__(self, book: RuleBook, variant: Variant) -> None:
        wanted: dict[Need, int] = {}
        self.probes: list[Probe] = []
        self._always: list[Probe] = []
        self._by_need: dict[int, list[Probe]] = {}
        languages = {kind: Language(book.fragments, kind) for kind in ("words", variant)}
        needs: list[list[int]] = []
        for target, pattern, as_words in _patterns(book):
            try:
                for compiled in languages["words" if as_words else variant].translate(pattern):
                    needs.append(
                        [wanted.setdefault(need, len(wanted)) for need in sorted(compiled.needs, key=sorted)]
                    )
                    self.probes.append(Probe(target, compiled, sum(1 << bit for bit in needs[-1])))
            except PatternError as error:
                raise ConfigurationError(f"rule {target.rule} {target.signal}: {error.message}") from None
        literals: dict[bytes, int] = {}
        for need, bit in wanted.items():
            for literal in need:
                literals[literal] = literals.get(literal, 0) | 1 << bit
        self._set = RegexSet(re.escape(literal) for literal in literals)
        self._meets = list(literals.values())
        users = Counter(bit for bits in needs for bit in bits)
        for probe, bits in zip(self.probes, needs, strict=True):
            if bits:
                # Under the need that fewest other patterns share: the rarer, the fewer candidates to look at.
                self._by_need.setdefault(min(bits, key=users.__getitem__), []).append(probe)
            else:
                self._always.append(probe)
        self._first = sum(1 << bit for bit in self._by_need)

    def candidates(self, data: bytes) -> Iterator[Probe]:
        """The patterns that could match ``data``; all of them when the set cannot decide."""
        hits = self._set.match(data)
        if hits is None:
            yield from self.probes
            return
        yield from self._always
        present = 0
        meets = self._meets
        for hit in hits:
            present |= meets[hit]
        by_need = self._by_need
        left = present & self._first
        while left:
            lowest = left & -left
            left ^= lowest
            for probe in by_need[lowest.bit_length() - 1]:
                if probe.needed & present == probe.needed:
                    yield probe


def _patterns(book: RuleBook) -> Iterator[tuple[Target, str, bool]]:
    """(target, pattern, whether its blanks are needed even in compact text)."""
    for rule in book.rules:
        for pattern in rule.patterns:
            yield Target(rule.id), pattern, not rule.compact
    for combination in book.combinations:
        for signal in combination.signals:
            for pattern in signal.patterns:
                yield Target(combination.id, signal.id, signal.weight), pattern, False


class Engine:
    """The matchers of both variants; the one for compact text is made when the first such text comes."""

    def __init__(self, book: RuleBook) -> None:
        self.book = book
        self._words = Matcher(book, "words")
        self._lock = Lock()
        self._made: Matcher | None = None

    @property
    def _compact(self) -> Matcher:
        if self._made is None:
            with self._lock:
                self._made = self._made or Matcher(self.book, "compact")
        return self._made

    def candidates(self, view: View) -> Iterator[Probe]:
        """The patterns worth searching for in one reading of a text."""
        return (self._compact if view.compact else self._words).candidates(view.data)

    @property
    def probes(self) -> tuple[Probe, ...]:
        """Every pattern, both variants."""
        return (*self._words.probes, *self._compact.probes)


@lru_cache(maxsize=1)
def default_engine() -> Engine:
    """The engine of the rules that Sparkle ships. Built once: policies differ in modes, not in patterns."""
    return Engine(default_book())
