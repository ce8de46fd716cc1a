"""Words that attackers hide: reversed, rotated, pulled apart, spelled with digits.

Reading a whole text backwards or with digits as letters costs as much as judging it once more. So it is done only where
one of a few dozen words of the trade (``data/layers.yaml``) shows up in that disguise and not plainly: ordinary texts
contain the words as they are, or not at all. All checks are passes at memory speed over the text's bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from sparkle.llm.safety.regex import RegexSet

_SEPARATORS = bytes(code for code in range(128) if not chr(code).isalnum())
_ENOUGH_CHINESE = 2
"""Two characters meet across a comma by chance; two such words do not."""
_SHORTEST_PULLED_APART = 5


def rotation(shift: int) -> dict[int, str]:
    """The table that moves Latin letters on by ``shift`` places, case kept."""
    return {start + i: chr(start + (i + shift) % 26) for start in (65, 97) for i in range(26)}


def atbash() -> dict[int, str]:
    """The table that reads the Latin alphabet from its end."""
    return {start + i: chr(start + 25 - i) for start in (65, 97) for i in range(26)}


ROTATIONS: Mapping[str, Mapping[int, str]] = {
    "atbash": atbash(),
    **{f"rot{shift}": rotation(shift) for shift in range(1, 26)},
}
"""Name to the table that undoes it."""


class Telltales:
    """Finds which disguises a text wears. Immutable, thread-safe.

    Args:
        words: Latin and Chinese words, lower case.
        rotated: Latin words long enough to mean nothing else when rotated.
        reversed_words: words that mean nothing else when read backwards.
        leet: name of a way to read signs as letters to its table (sign to letter).
    """

    def __init__(
        self,
        words: Sequence[str],
        rotated: Sequence[str],
        reversed_words: Sequence[str],
        leet: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._plain = RegexSet(re.escape(word.encode()) for word in words)
        self._latin = frozenset(
            index
            for index, word in enumerate(words)
            if word.isascii() and len(word) >= _SHORTEST_PULLED_APART
        )
        self._leet_words = frozenset(index for index, word in enumerate(words) if word.isascii())
        self._chinese = frozenset(index for index, word in enumerate(words) if not word.isascii())
        self._leet = [
            (name, bytes(ord(table.get(chr(code), chr(code))) if code < 128 else code for code in range(256)))
            for name, table in leet.items()
        ]
        disguised = [("reversed", word[::-1]) for word in reversed_words]
        for name, table in ROTATIONS.items():
            # The inverse of a rotation is its table read the other way round.
            inverse = {ord(plain): chr(code) for code, plain in table.items()}
            disguised += [(name, word.translate(inverse)) for word in rotated]
        self._names = [name for name, _ in disguised]
        self._disguised = RegexSet(re.escape(word.encode()) for _, word in disguised)

    def disguises(self, data: bytes) -> set[str]:
        """Names of the disguises in the folded UTF-8 text: ``reversed``, ``rot13``, ``leet``, ``compact`` ...

        A set that cannot decide counts as finding everything.
        """
        indices = self._disguised.match(data)
        found = set(self._names) if indices is None else {self._names[index] for index in indices}
        plain: frozenset[int] | None = None
        for name, table in self._leet:
            spelled = data.translate(table)
            if spelled != data:
                plain = self._words(data) if plain is None else plain
                if self._words(spelled) & self._leet_words - plain:
                    found.add(name)
        squeezed = data.translate(None, _SEPARATORS)
        together = self._words(squeezed)
        if together:
            plain = self._words(data) if plain is None else plain
            fresh = together - plain
            if fresh & self._latin or len(fresh & self._chinese) >= _ENOUGH_CHINESE:
                found.add("compact")
        return found

    def _words(self, data: bytes) -> frozenset[int]:
        indices = self._plain.match(data)
        return frozenset(range(self._plain.size)) if indices is None else frozenset(indices)


def pulled_apart(words: Iterable[str]) -> re.Pattern[str]:
    """The words with up to three signs or blanks between letters, over code points of a folded text."""
    ordered = sorted(set(words), key=len, reverse=True)
    return re.compile("|".join(r"[\W_]{0,3}".join(map(re.escape, word)) for word in ordered))
