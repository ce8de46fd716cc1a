"""Patterns for words that attackers hide: reversed, rotated, pulled apart, spelled with digits.

Reading a whole text backwards or with digits as letters costs as much as judging it once more. So it is done only where
one of a few dozen words of the trade (``data/layers.yaml``) shows up in that disguise: ordinary texts contain the words
plain or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

BETWEEN = r"(?:[\s!-/:-@\[-`{-~]|\xf0[\x80-\xbf]{3}|\xe2[\x80-\xbf]{2}){1,3}"
"""What may stand between the letters of a word that was pulled apart, as RE2 over bytes: signs, blanks, emoji."""

_LOOSE = BETWEEN.replace("{1,3}", "{0,3}")
_SHORTEST_ROTATED = 6
"""Shorter words turn into other words too easily when their letters are rotated."""


def _letters(text: str) -> list[str]:
    """Each character as an RE2 unit over UTF-8 bytes."""
    return [f"(?:{char})" if not char.isascii() else re.escape(char) for char in text]


def any_of(words: Iterable[str]) -> bytes:
    """One of the words, as it stands."""
    return "|".join(sorted({re.escape(word) for word in words})).encode()


def reversed_words(words: Iterable[str]) -> bytes:
    """One of the words, backwards."""
    return any_of(word[::-1] for word in words)


def translated_words(words: Iterable[str], table: Mapping[int, str]) -> bytes:
    """One of the longer words, letters exchanged by ``table``."""
    return any_of(word.translate(table) for word in words if len(word) >= _SHORTEST_ROTATED)


def pulled_apart(words: Iterable[str]) -> bytes:
    """One of the words with something between its letters in at least one place."""
    found: list[str] = []
    for word in words:
        letters = _letters(word.replace(" ", ""))
        # The first place where the letters part is tried everywhere; behind it they may part again or not.
        found.extend(
            "".join(letters[:cut]) + BETWEEN + _LOOSE.join(letters[cut:]) for cut in range(1, len(letters))
        )
    return "|".join(found).encode()


def pulled_apart_text(words: Iterable[str]) -> re.Pattern[str]:
    """Like :func:`pulled_apart` (or the word in one piece) over code points of a folded text."""
    words = sorted({word.replace(" ", "") for word in words}, key=len, reverse=True)
    return re.compile("|".join(r"[\W_]{0,3}".join(map(re.escape, word)) for word in words))


def leet_words(words: Iterable[str], signs: Mapping[str, str]) -> bytes:
    """One of the words with at least one letter written as one of its ``signs`` (letter to signs)."""
    either = {letter: "[" + re.escape(letter + marks) + "]" for letter, marks in signs.items()}
    only = {letter: "[" + re.escape(marks) + "]" for letter, marks in signs.items()}
    found: list[str] = []
    for word in words:
        for cut, letter in enumerate(word):
            if letter in only:
                rest = "".join(either.get(other, re.escape(other)) for other in word[cut + 1 :])
                found.append(re.escape(word[:cut]) + only[letter] + rest)
    return "|".join(found).encode()
