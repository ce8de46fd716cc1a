"""Harmless uses of the words that a rule looks for: what a rule finds inside one of them does not count.

A pattern can say what an attack looks like, but RE2 has no look-around, so it cannot say "unless the speaker takes back
words of their own". That is said beside it, as ``spare`` patterns of the rule. They are only searched for around a
match, so ordinary text pays nothing for them. ``frames`` are uses that are harmless as long as nothing more is wanted:
a quotation that the text then tells the assistant to follow is none. What takes them back is ``unframed``. In text
of tools and documents they do not apply: there the speaker is
not the user, and nothing is theirs to take back.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparkle.errors import ConfigurationError
from sparkle.llm.safety.pattern import Language
from sparkle.llm.safety.regex import PatternError, Regex
from sparkle.llm.safety.rules import RuleBook

WINDOW = 320
"""Bytes read before and after a match."""

BEHIND = 60
"""Bytes behind a harmless use in which something may take it back."""

_EDGES = frozenset(b" \t\n.!?,;:\"'*()[]")
"""Marks that stand between clauses."""

_TRIES = 12
"""Matches of a spare pattern around one match of the rule that are looked at."""


@dataclass(frozen=True, slots=True)
class _Uses:
    """The patterns of one rule."""

    spare: tuple[Regex, ...]
    frames: tuple[Regex, ...]
    unframed: tuple[Regex, ...]


class Spares:
    """The harmless uses of every rule, compiled when a rule first meets something. Thread-safe."""

    def __init__(self, book: RuleBook) -> None:
        self._book = book
        self._rules = {rule.id: rule for rule in book.rules if rule.spare or rule.frames}
        self._compiled: dict[str, _Uses] = {}

    def covers(self, rule: str, data: bytes, begin: int, end: int) -> bool:
        """Whether the match ``begin:end`` of the rule in the folded UTF-8 text lies within a harmless use.

        Raises:
            ConfigurationError: a pattern does not compile; the message names the rule.
        """
        if rule not in self._rules:
            return False
        # Rules take the mark before a clause along; it says nothing of who speaks.
        while begin < end and data[begin] in _EDGES:
            begin += 1
        while end > begin and data[end - 1] in b"\"'":
            end -= 1
        first = max(begin - WINDOW, 0)
        around = data[first : end + WINDOW]
        uses = self._uses(rule)
        begin, end = begin - first, end - first
        return any(_covers(spare, around, begin, end) for spare in uses.spare) or any(
            _covers(frame, around, begin, end, uses.unframed) for frame in uses.frames
        )

    def compiled(self, rule: str) -> tuple[Regex, ...]:
        """The harmless uses of a rule, spares and frames.

        Raises:
            ConfigurationError: a pattern does not compile; the message names the rule.
        """
        uses = self._uses(rule)
        return (*uses.spare, *uses.frames)

    def _uses(self, rule: str) -> _Uses:
        # Two threads may compile them at the same time; either result is right.
        known = self._compiled.get(rule)
        if known is None:
            spec = self._rules[rule]
            language = Language(self._book.fragments)
            try:
                known = _Uses(*(_regexes(language, p) for p in (spec.spare, spec.frames, spec.unframed)))
            except PatternError as error:
                raise ConfigurationError(f"rule {rule} spare: {error.message}") from None
            self._compiled[rule] = known
        return known


def _regexes(language: Language, patterns: tuple[str, ...]) -> tuple[Regex, ...]:
    return tuple(
        Regex(alternative.exact or alternative.loose)
        for pattern in patterns
        for alternative in language.translate(pattern)
    )


def _covers(spare: Regex, data: bytes, begin: int, end: int, unless: tuple[Regex, ...] = ()) -> bool:
    at = 0
    for _ in range(_TRIES):
        found = spare.search(data, at)
        if found is None or found[0] > begin:
            return False
        if found[1] >= end:
            stretch = data[found[0] : found[1] + BEHIND]
            if all(taker.search(stretch) is None for taker in unless):
                return True
        # One that began too early must not hide the one that covers.
        at = found[0] + 1
    return False
