"""Signs and digits written for letters, where one sign may stand for two letters.

``1``, ``!`` and ``|`` are read as i or l. One table for a whole text cannot read "1gnore ru1es", so each word is read
in the way that makes it one of the words that the rules look for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import product

MAX_SIGNS = 4
"""Signs of a word of which all ways to read them are tried; a word with more is read by the first table."""


class Leet:
    """Reads a text with signs for letters; the length does not change. Immutable, thread-safe.

    Args:
        table: sign to letter.
        other: signs that may be another letter, too.
        known: words, lower case, that a word should become.
    """

    def __init__(self, table: Mapping[str, str], other: Mapping[str, str], known: Collection[str]) -> None:
        self._table = {ord(sign): letter for sign, letter in table.items()}
        self._choices = {sign: (table[sign], letter) for sign, letter in other.items() if sign in table}
        self._known = frozenset(word for word in known if word.isascii())
        signs = re.escape("".join({*table, *other}))
        self._word = re.compile(rf"[A-Za-z{signs}]*[{re.escape(''.join(self._choices))}][A-Za-z{signs}]*")

    def read(self, text: str) -> str:
        """The text with letters for signs."""
        return self._word.sub(self._chosen, text).translate(self._table)

    def _chosen(self, match: re.Match[str]) -> str:
        word = match.group()
        open_signs = [at for at, char in enumerate(word) if char in self._choices]
        if len(open_signs) > MAX_SIGNS:
            return word
        letters = list(
            word.translate({code: c for code, c in self._table.items() if chr(code) not in self._choices})
        )
        for chosen in product(*(self._choices[word[at]] for at in open_signs)):
            for at, letter in zip(open_signs, chosen, strict=True):
                letters[at] = letter
            read = "".join(letters).lower()
            if read in self._known or read.removesuffix("s") in self._known:
                return "".join(letters)
        # What ends a sentence is no letter.
        return word
