"""Words that attackers hide: reversed, rotated, pulled apart, spelled with digits.

Reading a whole text backwards or with digits as letters costs as much as judging it once more. So it is done only where
one of a few dozen words of the trade (``data/layers.yaml``) shows up in that disguise and not plainly: ordinary texts
contain the words as they are, or not at all. All checks are passes at memory speed over the text's bytes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from sparkle.llm.safety.regex import RegexSet

_SEPARATORS = bytes(code for code in range(128) if not chr(code).isalnum())
_ENOUGH = 2
"""A word comes about by chance, across a comma or backwards; two different ones do not."""
_SHORTEST_PULLED_APART = 5
SPELLED = rb"[a-z][0-9@$+][a-z]|[a-z][!|][a-z]|[0-9@$][a-z]{2}|[a-z]{2}[0-9@$]|[0-9@$!|+]{2}[a-z]"
"""A sign that could be a letter, beside letters: where there is none, no word is spelled with signs."""


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

ROT47: Mapping[int, str] = {code: chr(33 + (code - 33 + 47) % 94) for code in range(33, 127)}
"""Like rot13 with digits and signs; undoes itself."""

BACKWARDS_ROT13 = "rot13 backwards"

UPSIDE_DOWN: Mapping[int, str] = {ord(a): b for a, b in zip("bdpqun", "qpdbnu", strict=True)}
"""Letters that are others when turned; the normaliser knows the rest by their looks."""

_EVERYDAY = (
    "the", "and", "you", "your", "all", "what", "that", "this", "with", "are", "for", "not", "tell", "from", "have",
    "will", "can", "about", "how", "now", "please", "must", "should", "write", "only", "answer", "any", "was", "were",
    "but", "which", "when", "them", "they", "there", "would",
)  # fmt: skip
"""Words that hardly an English text does without; a text that has some of them only rotated is rotated."""
_EVERYDAY_SIGNED = 12
"""The first so many are looked for as rot47 writes them."""
_EVERYDAY_PLAIN = re.compile(rb"\b(?:" + "|".join(_EVERYDAY).encode() + rb")\b")
_LETTERS = re.compile(rb"[a-z]{3,}")
_HEAD_BYTES = 600
"""Of a text that are looked at for everyday words."""

_COMMON_ROTATIONS = ("rot13",)
"""Those in which every word of the vocabulary is looked for."""


class Telltales:
    """Finds which disguises a text wears. Immutable, thread-safe.

    Args:
        words: Latin and Chinese words, lower case; one of them in disguise is enough.
        rotated: Latin words long enough to mean nothing else when rotated.
        reversed_words: words that mean nothing else when read backwards.
        leet: name of a way to read signs as letters to its table (sign to letter).
        vocabulary: further words; two different ones in the same disguise are enough.
    """

    def __init__(
        self,
        words: Sequence[str],
        rotated: Sequence[str],
        reversed_words: Sequence[str],
        leet: Mapping[str, Mapping[str, str]],
        vocabulary: Collection[str] = (),
    ) -> None:
        self._leet = [
            (name, bytes(ord(table.get(chr(code), chr(code))) if code < 128 else code for code in range(256)))
            for name, table in leet.items()
        ]
        further = sorted(set(vocabulary) - set(words))
        plain = [*((word, True) for word in words), *((word, False) for word in further)]
        self._plain = _Words((word, sure) for word, sure in plain)
        # What separators pull apart must be long, or there must be two of them.
        apart = [
            word
            for word, sure in plain
            if sure and (not word.isascii() or len(word) >= _SHORTEST_PULLED_APART)
        ]
        self._together = _Words((word, word.isascii()) for word in apart)
        disguised: list[tuple[str, str, bool]] = [("reversed", word[::-1], True) for word in reversed_words]
        disguised += [("reversed", word[::-1], False) for word in {*words, *further} - set(reversed_words)]
        for name, table in ROTATIONS.items():
            # The inverse of a rotation is its table read the other way round.
            inverse = {ord(letter): chr(code) for code, letter in table.items()}
            disguised += [(name, word.translate(inverse), True) for word in rotated]
            if name in _COMMON_ROTATIONS:
                disguised += [(name, word.translate(inverse), False) for word in further if word.isascii()]
        for word in rotated:
            # The folded text has capitals in small letters.
            disguised.append(("rot47", word.translate(dict(ROT47)).lower(), True))
            disguised.append((BACKWARDS_ROT13, word.translate(dict(ROTATIONS["rot13"]))[::-1], True))
        for word in _EVERYDAY[:_EVERYDAY_SIGNED]:
            disguised.append(("rot47", word.translate(dict(ROT47)).lower(), False))
        for word in words:
            turned = word.translate(UPSIDE_DOWN)[::-1]
            if word.isascii() and turned != word[::-1]:
                disguised.append(("upside down", turned, True))
        self._everyday = {
            word.translate({ord(letter): chr(code) for code, letter in table.items()}).encode(): name
            for name, table in ROTATIONS.items()
            for word in _EVERYDAY
        }
        self._names = [name for name, _, _ in disguised]
        self._disguised = _Words((word, sure) for _, word, sure in disguised)

    def disguises(self, data: bytes, *, spelled_with_signs: bool) -> set[str]:
        """Names of the disguises in the folded UTF-8 text: ``reversed``, ``rot13``, ``leet``, ``compact`` ...

        A set that cannot decide counts as finding everything.

        Args:
            data: the folded text.
            spelled_with_signs: whether :data:`SPELLED` occurs in it.
        """
        found: set[str] = set()
        plain: frozenset[int] | None = None
        hits = self._disguised.match(data)
        if hits:
            by_name: dict[str, set[int]] = {}
            for index in hits:
                by_name.setdefault(self._names[index], set()).add(index)
            for name, met in by_name.items():
                if self._disguised.sure(met):
                    found.add(name)
                elif len(met) >= _ENOUGH:
                    plain = self._plain.match(data) if plain is None else plain
                    # Chinese words read backwards are often others; a text that is backwards has more of ours than
                    # of the others.
                    if len(met) > len(plain):
                        found.add(name)
        for name, table in self._leet if spelled_with_signs else ():
            spelled = data.translate(table)
            if spelled != data:
                plain = self._plain.match(data) if plain is None else plain
                fresh = self._plain.match(spelled) - plain
                if len(fresh) >= _ENOUGH or self._plain.sure(fresh):
                    found.add(name)
        if data.isascii():
            found |= self._rotated(data)
        together = self._together.match(data.translate(None, _SEPARATORS))
        if together:
            fresh = together - self._together.match(data)
            if self._together.sure(fresh) or len(fresh) >= _ENOUGH:
                found.add("compact")
        return found

    def _rotated(self, data: bytes) -> set[str]:
        """Rotations under which a text has everyday words, where it has none as it stands."""
        if _EVERYDAY_PLAIN.search(data, 0, _HEAD_BYTES) is not None:
            return set()
        met: dict[str, set[bytes]] = {}
        for token in _LETTERS.findall(data, 0, _HEAD_BYTES):
            name = self._everyday.get(token)
            if name is not None:
                met.setdefault(name, set()).add(token)
        return {name for name, tokens in met.items() if len(tokens) >= _ENOUGH}


class _Words:
    """A set of words, some of which say enough alone."""

    def __init__(self, words: Iterable[tuple[str, bool]]) -> None:
        listed = list(words)
        self._set = RegexSet(re.escape(word.encode()) for word, _ in listed)
        self._sure = frozenset(index for index, (_, sure) in enumerate(listed) if sure)

    def match(self, data: bytes) -> frozenset[int]:
        """Indices of the words in ``data``; all of them when the set cannot decide."""
        indices = self._set.match(data)
        return frozenset(range(self._set.size)) if indices is None else frozenset(indices)

    def sure(self, indices: Iterable[int]) -> bool:
        """Whether one of the words says enough alone."""
        return not self._sure.isdisjoint(indices)


def pulled_apart(words: Iterable[str]) -> re.Pattern[str]:
    """The words with up to three signs or blanks between letters, over code points of a folded text."""
    ordered = sorted(set(words), key=len, reverse=True)
    return re.compile("|".join(r"[\W_]{0,3}".join(map(re.escape, word)) for word in ordered))
