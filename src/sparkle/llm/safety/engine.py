"""Matching all rules against a text in time linear in its length.

Two steps. One pass with all words that some pattern needs tells which word families occur at all; only patterns whose
needs all occur are then searched for. Ordinary text pays one pass at memory speed; a text full of trigger words
pays one linear search per rule it could match.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from threading import Lock

import msgspec

from sparkle.errors import ConfigurationError
from sparkle.llm.safety.pattern import EDGE_BYTES, RARE_SIGNS, Language, Need, Variant
from sparkle.llm.safety.probe import Probe, Target, after_stop
from sparkle.llm.safety.regex import PatternError, RegexSet
from sparkle.llm.safety.resources import read_data
from sparkle.llm.safety.rules import RuleBook, default_book
from sparkle.llm.safety.views import View

MAX_NEEDS = 3
"""Needs of one pattern that are looked for."""

NOTHING = 0
"""The need that every text meets."""

PIECE_BYTES = 1_024
"""Bytes from which a text is cut; the pieces are at least half as long."""


class Matcher:
    """All patterns in one variant. Immutable after construction, thread-safe.

    Raises:
        ConfigurationError: a pattern does not compile; the message names the rule.
    """

    def __init__(self, book: RuleBook, variant: Variant) -> None:
        wanted: dict[Need, int] = {}
        needs: list[list[int]] = []
        self.probes: list[Probe] = []
        languages = {kind: Language(book.fragments, kind) for kind in ("words", variant)}
        for target, pattern, as_words in _patterns(book):
            try:
                for compiled in languages["words" if as_words else variant].translate(pattern):
                    met = [wanted.setdefault(need, len(wanted) + 1) for need in _rarest(compiled.needs)]
                    needs.append(met or [NOTHING])
                    self.probes.append(Probe(target, compiled, frozenset(needs[-1])))
            except PatternError as error:
                raise ConfigurationError(f"rule {target.rule} {target.signal}: {error.message}") from None
        literals: dict[bytes, list[int]] = {}
        for need, number in wanted.items():
            for literal in need:
                literals.setdefault(literal, []).append(number)
        self.literals = tuple(literals)
        self._set = RegexSet(re.escape(literal) for literal in literals)
        self._meets = [frozenset(met) for met in literals.values()]
        self._longest = max(map(len, literals), default=0)
        users = Counter(number for met in needs for number in met)
        self._local, self._wide = _Shelf(), _Shelf()
        for probe, met in zip(self.probes, needs, strict=True):
            # Under the need that fewest others share: the rarer, the fewer candidates to look at.
            (self._local if probe.local else self._wide).add(
                min(met, key=lambda number: (users[number], number)), probe
            )

    def candidates(
        self, data: bytes, changed: list[tuple[int, int]] | None = None
    ) -> Iterator[tuple[Probe, int, int]]:
        """The patterns that could match and the bytes ``start:end`` in which they could.

        A long text is cut at full stops; local patterns are told for each piece, others for the whole. Where the set
        cannot decide, every pattern is told.

        Args:
            data: the text.
            changed: sorted spans of which a match must touch one; ``None``: any match will do.
        """
        size = len(data)
        start = at = 0
        whole: set[int] = set()
        while start < size:
            end = after_stop(data, start + PIECE_BYTES // 2, size) if size - start > PIECE_BYTES else size
            first, last = max(start - EDGE_BYTES, 0), min(end + EDGE_BYTES, size)
            # Words that reach over the cut belong to both pieces.
            present = self._present(data if end - start == size else data[first : last + self._longest])
            if present is None:
                for probe in self.probes:
                    yield probe, 0, size
                return
            whole |= present
            start = end
            if changed is not None:
                while at < len(changed) and changed[at][1] < first - 1:
                    at += 1
                if at == len(changed) or changed[at][0] > last + 1:
                    continue
            for probe in self._local.wanted(present):
                yield probe, first, last
        for probe in self._wide.wanted(whole):
            yield probe, 0, size

    def _present(self, data: bytes) -> set[int] | None:
        """The needs met in ``data``; ``None``: the set cannot decide."""
        hits = self._set.match(data)
        if hits is None:
            return None
        meets = self._meets
        return {NOTHING}.union(*[meets[hit] for hit in hits])


def _rarest(needs: Iterable[Need]) -> list[Need]:
    """The few needs that the fewest texts meet."""
    return sorted(needs, key=lambda need: (sum(map(_commonness, need)), sorted(need)))[:MAX_NEEDS]


def _commonness(word: bytes) -> float:
    """About how likely a text of a few hundred characters holds the word: by its length, unless it is known better."""
    if word in _common():
        return 1.0
    if word in RARE_SIGNS:
        return 0.1
    if word.isascii():
        return 0.9 if len(word) < 3 else 4.0 ** -(min(len(word), 7) - 2)
    return 4.0 ** -min(len(word) / 3, 4)


@lru_cache(maxsize=1)
def _common() -> frozenset[bytes]:
    words = msgspec.yaml.decode(read_data("common.yaml"), type=tuple[str, ...])
    return frozenset(word.encode() for word in words)


class _Shelf:
    """Patterns filed under one of their needs."""

    __slots__ = ("_by_need", "_filed")

    def __init__(self) -> None:
        self._by_need: dict[int, list[Probe]] = {}
        self._filed: set[int] = set()

    def add(self, need: int, probe: Probe) -> None:
        self._by_need.setdefault(need, []).append(probe)
        self._filed.add(need)

    def wanted(self, present: set[int]) -> list[Probe]:
        """The patterns whose needs are all in ``present``."""
        by_need = self._by_need
        return [probe for need in self._filed & present for probe in by_need[need] if probe.needed <= present]


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

    @property
    def vocabulary(self) -> frozenset[str]:
        """The longer words that patterns look for: at least five letters or two Chinese characters."""
        words = (literal.decode() for literal in self._words.literals)
        return frozenset(
            word
            for word in words
            if (len(word) >= 5 if word.isascii() else len(word) >= 2) and word.isalpha()
        )

    def candidates(self, view: View) -> Iterator[tuple[Probe, int, int]]:
        """The patterns worth searching for in one reading of a text, and the bytes to search them in."""
        # In a short text finding out where it was changed costs more than judging all of it.
        changed = view.changed_bytes() if len(view.data) > PIECE_BYTES else None
        return (self._compact if view.compact else self._words).candidates(view.data, changed)

    @property
    def probes(self) -> tuple[Probe, ...]:
        """Every pattern, both variants."""
        return (*self._words.probes, *self._compact.probes)


@lru_cache(maxsize=1)
def default_engine() -> Engine:
    """The engine of the rules that Sparkle ships. Built once: policies differ in modes, not in patterns."""
    return Engine(default_book())
