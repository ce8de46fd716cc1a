"""Harmless uses of the words that a rule looks for: what a rule finds inside one of them does not count.

A pattern can say what an attack looks like, but RE2 has no look-around, so it cannot say "unless the speaker takes back
words of their own". That is said beside it, as ``spare`` patterns of the rule. They are only searched for around a
match, so ordinary text pays nothing for them. In text of tools and documents they do not apply: there the speaker is
not the user, and nothing is theirs to take back.
"""

from __future__ import annotations

from sparkle.errors import ConfigurationError
from sparkle.llm.safety.pattern import Language
from sparkle.llm.safety.regex import PatternError, Regex
from sparkle.llm.safety.rules import RuleBook

WINDOW = 320
"""Bytes read before and after a match."""

_TRIES = 12
"""Matches of a spare pattern around one match of the rule that are looked at."""


class Spares:
    """The harmless uses of every rule, compiled when a rule first meets something. Thread-safe."""

    def __init__(self, book: RuleBook) -> None:
        self._book = book
        self._patterns = {rule.id: rule.spare for rule in book.rules if rule.spare}
        self._compiled: dict[str, tuple[Regex, ...]] = {}

    def covers(self, rule: str, data: bytes, begin: int, end: int) -> bool:
        """Whether the match ``begin:end`` of the rule in the folded UTF-8 text lies within a harmless use.

        Raises:
            ConfigurationError: a spare pattern does not compile; the message names the rule.
        """
        if rule not in self._patterns:
            return False
        first = max(begin - WINDOW, 0)
        around = data[first : end + WINDOW]
        return any(_covers(spare, around, begin - first, end - first) for spare in self.compiled(rule))

    def compiled(self, rule: str) -> tuple[Regex, ...]:
        """The harmless uses of a rule. Two threads may compile them at the same time; either result is right.

        Raises:
            ConfigurationError: a spare pattern does not compile; the message names the rule.
        """
        known = self._compiled.get(rule)
        if known is None:
            language = Language(self._book.fragments)
            try:
                known = tuple(
                    Regex(alternative.exact or alternative.loose)
                    for pattern in self._patterns.get(rule, ())
                    for alternative in language.translate(pattern)
                )
            except PatternError as error:
                raise ConfigurationError(f"rule {rule} spare: {error.message}") from None
            self._compiled[rule] = known
        return known


def _covers(spare: Regex, data: bytes, begin: int, end: int) -> bool:
    at = 0
    for _ in range(_TRIES):
        found = spare.search(data, at)
        if found is None or found[0] > begin:
            return False
        if found[1] >= end:
            return True
        # One that began too early must not hide the one that covers.
        at = found[0] + 1
    return False
