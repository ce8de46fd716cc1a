"""Chinese written otherwise: glossed, with characters that sound the same, with characters taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from sparkle.llm.safety.views import Run, View

_MOST_VARIANTS = 4_000

TONE_NUMBERS = rb"(?:[b-df-hj-np-tw-z]{0,2}[aeiouv]{1,3}(?:[1-5](?:ng?|r)?|(?:ng?|r)[1-5])[ '-]?){3}"
"""Syllables with the number of their tone behind the vowel or at the end."""
_NUMBERED = re.compile(r"(?<=[a-zü])[1-5](?![0-9])")
_SYLLABLES = re.compile(r"(?<![a-z0-9])[a-zü]{1,6}[1-5](?:[a-zü]{1,9}[1-5]){0,12}[a-z]{0,3}(?![a-z0-9])")

GLOSSES = rb"(?:[\xe4-\xe9][\x80-\xbf]{2}\([a-z1-5 ]{1,12}\)){3}"
"""Chinese characters, each with its pronunciation in brackets."""
_GLOSS = re.compile("(?<=[\u4e00-\u9fff])\\([a-z1-5 ]{1,12}\\)")


def tone_numbers(view: View) -> Iterator[Run]:
    """Pinyin without the numbers of its tones."""
    for match in _SYLLABLES.finditer(view.text):
        for number in _NUMBERED.finditer(view.text, match.start(), match.end()):
            yield number.start(), number.end(), ""


def glosses(view: View) -> Iterator[Run]:
    """Chinese without the pronunciation that stands in brackets behind its characters."""
    for match in _GLOSS.finditer(view.text):
        yield match.start(), match.end(), ""


class Homophones:
    """Finds words that are spelt with other characters of the same sound.

    Args:
        sounds: groups of characters that sound alike.
        words: the words; every character of a word may stand in one group.
    """

    def __init__(self, sounds: Sequence[str], words: Sequence[str]) -> None:
        group = {char: chars for chars in sounds for char in chars}
        self._right: dict[str, str] = {}
        for word in words:
            choices = [group.get(char, char) for char in word]
            for made in product(*choices):
                variant = "".join(made)
                if variant != word and len(self._right) < _MOST_VARIANTS:
                    self._right.setdefault(variant, word)
        for word in words:
            self._right.pop(word, None)
        self._any = re.compile("|".join(sorted(self._right, key=len, reverse=True)))

    @property
    def indicator(self) -> bytes:
        """A pattern for bytes that finds a variant."""
        return "|".join(sorted(self._right)).encode()

    def read(self, view: View) -> Iterator[Run]:
        """The variants in a view and the words they stand for."""
        for match in self._any.finditer(view.text):
            yield match.start(), match.end(), self._right[match.group()]


class Parts:
    """Finds characters that were taken apart. ``parts``: the parts to the whole."""

    def __init__(self, parts: Mapping[str, str]) -> None:
        self._parts = parts
        self._any = re.compile("|".join(sorted(parts, key=len, reverse=True)))

    @property
    def indicator(self) -> bytes:
        """A pattern for bytes that finds one of them."""
        return "|".join(sorted(self._parts)).encode()

    def read(self, view: View) -> Iterator[Run]:
        """The parts in a view and the characters they make."""
        for match in self._any.finditer(view.source):
            yield match.start(), match.end(), self._parts[match.group()]
