"""Words that rules look for, misspelt: whoever reads reads them right, and so does a model.

One set of patterns tells at memory speed whether such a word occurs at all. It leaves out the words as they are
spelt, so ordinary text about instructions and prompts is not read twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from sparkle.llm.safety.regex import RegexSet
from sparkle.llm.safety.segmenting import english_words
from sparkle.llm.safety.views import Run, View

_SHORTEST = 5
"""Shorter words are too near to others."""
_SHORTEST_SKELETON = 4
"""Fewest letters of a word without vowels that say which word it was."""
_SHORTEST_INSERTED = 6
"""Letters of a word that is known with any other letter in it."""
_LONGEST = 24
_MOST_SOUNDS = 24
_VOWELS = frozenset("aeiou")
_WORD = re.compile(rf"(?<![a-z])[a-z]{{1,{_LONGEST}}}(?![a-z])")


class Misspelt:
    """Finds and mends misspelt words. Immutable, thread-safe.

    Args:
        words: lower-case Latin words; those of fewer than five letters are left alone.
        spelt: real words that must not be taken for one of them.
        short: short words that are mended too, where one of ``words`` is.
        heard: pairs of spellings that sound alike.
        chat: how short words are written in a hurry.
        vocabulary: further words, mended where one of ``words`` is: shuffled, or with a letter too few or too many.
    """

    def __init__(
        self,
        words: Iterable[str],
        spelt: Iterable[str],
        short: Iterable[str],
        heard: Sequence[tuple[str, str]],
        chat: Mapping[str, str],
        vocabulary: Iterable[str] = (),
    ) -> None:
        self._words = tuple(dict.fromkeys(word for word in words if len(word) >= _SHORTEST))
        self._plain = frozenset(self._words)
        self._spelt = frozenset(spelt) | self._plain
        self._exact: dict[str, str] = {}
        self._holes: dict[str, str] = {}
        self._shuffled: dict[str, str] = {}
        literals: list[str] = []
        for word in self._words:
            near = {variant for variant in _near(word, heard) if variant not in self._spelt}
            literals += near
            for variant in near:
                self._exact.setdefault(variant, word)
            for at in range(1, len(word)):
                self._holes.setdefault(f"{word[:at]}?{word[at + 1 :]}", word)
            self._shuffled.setdefault(_shuffle_key(word), word)
        self._short: dict[str, str] = dict(chat)
        for word in short:
            bare = word[0] + "".join(char for char in word[1:] if char not in _VOWELS)
            for variant in (bare, *_sounds(word, heard)):
                if variant == word or variant in self._spelt:
                    continue
                if len(variant) >= _SHORTEST_SKELETON:
                    self._exact.setdefault(variant, word)
                    literals.append(variant)
                self._short.setdefault(variant, word)
        for word in short:
            self._short.pop(word, None)
            self._exact.pop(word, None)
        literals = [variant for variant in literals if variant in self._exact]
        self._further: dict[str, str] = {}
        for word in sorted(set(vocabulary)):
            if word.isascii() and len(word) >= _SHORTEST:
                for variant in (_shuffle_key(word), *_near(word, ())):
                    self._further.setdefault(variant, word)
                self._spelt |= {word}
        patterns = [*(pattern for word in self._words for pattern in _patterns(word))]
        self._set = RegexSet(
            rb"\b(?:" + pattern.encode() + rb")\b" for pattern in [*patterns, *_grouped(literals)]
        )

    def occur(self, data: bytes) -> bool:
        """Whether a folded text may hold one."""
        return self._set.match(data) != []

    def mended(self, view: View) -> Iterator[Run]:
        """The misspelt words of a view and what they should be."""
        found: list[Run] = []
        short: list[Run] = []
        for match in _WORD.finditer(view.text):
            written = match.group()
            word = self._mend(written) if len(written) > 2 else None
            if word is not None:
                found.append((match.start(), match.end(), word))
            elif written in self._short:
                short.append((match.start(), match.end(), self._short[written]))
            elif len(written) >= _SHORTEST_SKELETON - 1 and written not in self._spelt:
                other = (
                    self._further.get(written)
                    or self._further.get(_shuffle_key(written))
                    or _everyday(written)
                )
                if other is not None:
                    short.append((match.start(), match.end(), other))
        yield from sorted([*found, *short]) if found else ()

    def _mend(self, word: str) -> str | None:
        if word in self._spelt:
            return None
        found = self._exact.get(word)
        if found is None and len(word) >= _SHORTEST:
            found = self._shuffled.get(_shuffle_key(word))
        if found is None and len(word) >= _SHORTEST:
            if len(word) > _SHORTEST_INSERTED:
                bare = (word[:at] + word[at + 1 :] for at in range(1, len(word) - 1))
                found = next((one for one in bare if one in self._plain), None)
            for at in range(1, len(word)) if found is None else ():
                found = self._holes.get(f"{word[:at]}?{word[at + 1 :]}")
                if found is not None:
                    break
        return found


def _everyday(written: str) -> str | None:
    """The commonest English word that is this one with its inner letters shuffled or its vowels left out."""
    if written in english_words():
        return None
    mended = _everyday_words()
    return mended.get(written) or mended.get("~" + _shuffle_key(written))


@lru_cache(maxsize=1)
def _everyday_words() -> dict[str, str]:
    """What shuffled letters (after a ``~``) and missing vowels may be; made when a first word is misspelt."""
    found: dict[str, str] = {}
    for word in english_words():
        if len(word) >= _SHORTEST_SKELETON:
            found.setdefault("~" + _shuffle_key(word), word)
            skeleton = word[0] + "".join(char for char in word[1:] if char not in _VOWELS)
            if len(skeleton) >= _SHORTEST_SKELETON - 1:
                found.setdefault(skeleton, word)
    return found


def _shuffle_key(word: str) -> str:
    return word[0] + "".join(sorted(word[1:-1])) + word[-1]


def _near(word: str, heard: Sequence[tuple[str, str]]) -> Iterator[str]:
    """A letter too few or too many, vowels left out, and as it is heard."""
    for at in range(1, len(word)):
        yield word[:at] + word[at + 1 :]
        yield word[:at] + word[at] + word[at:]
    if len(word) >= _SHORTEST_INSERTED:
        yield word[1] + word[0] + word[2:]
        yield word[:-2] + word[-1] + word[-2]
    skeleton = word[0] + "".join(char for char in word[1:] if char not in _VOWELS)
    if len(skeleton) >= _SHORTEST_SKELETON or (len(skeleton) > 2 and len(word) > _SHORTEST):
        yield skeleton
    yield from (sound for sound in _sounds(word, heard) if sound != word and len(sound) >= _SHORTEST_SKELETON)


def _sounds(word: str, heard: Sequence[tuple[str, str]]) -> list[str]:
    """Some of the ways in which a word may be written as it is heard."""
    sounds = {word}
    for usual, sound in heard:
        sounds |= {known.replace(usual, sound) for known in sounds if usual in known}
        if len(sounds) > _MOST_SOUNDS:
            break
    return sorted(sounds - {word})


def _patterns(word: str) -> Iterator[str]:
    """One letter wrong; the inner letters in any other order. Neither matches the word itself."""
    inner = "".join(sorted(set(word[1:-1])))
    wrong = [f"{word[:at]}{_but(word[at])}{word[at + 1 :]}" for at in range(1, len(word))]
    yield "|".join(wrong)
    if len(word) >= _SHORTEST_INSERTED:
        # A letter too many: neither the one before nor the one after, which are other patterns' words.
        yield "|".join(f"{word[:at]}[a-z]{word[at:]}" for at in range(1, len(word)))
    if len(inner) < 2:
        return
    shuffled: list[str] = []
    for at in range(1, len(word) - 2):
        others = inner.replace(word[at], "")
        left = len(word) - 2 - at
        shuffled.append(f"{word[:at]}[{others}][{inner}]{{{left}}}{word[-1]}")
    yield "|".join(shuffled)


def _but(letter: str) -> str:
    """Any letter but this one."""
    before = f"a-{chr(ord(letter) - 1)}" if letter > "a" else ""
    after = f"{chr(ord(letter) + 1)}-z" if letter < "z" else ""
    return f"[{before}{after}]"


def _grouped(literals: Iterable[str], size: int = 64) -> Iterator[str]:
    """Few patterns of many literals, which the set handles better than many of one."""
    ordered = sorted(set(literals))
    for at in range(0, len(ordered), size):
        yield "|".join(ordered[at : at + size])
