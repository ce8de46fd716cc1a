"""Chinese written otherwise: in pinyin, with characters that sound the same, with characters taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from sparkle.llm.safety.views import Run, View

_RUN = re.compile(r"[a-z][a-z '’-]*")
_CHINESE = "\u4e00-\u9fff"
_MOST_VARIANTS = 4_000

TONE_NUMBERS = rb"(?:[b-df-hj-np-tw-z]{0,2}[aeiouv]{1,3}(?:[1-5](?:ng?|r)?|(?:ng?|r)[1-5])[ '-]?){3}"
"""Syllables with the number of their tone behind the vowel or at the end."""
_NUMBERED = re.compile(r"(?<=[a-zü])[1-5](?![0-9])")
_SYLLABLES = re.compile(r"(?<![a-z0-9])(?:[a-zü]{1,6}[1-5][a-z]{0,3}[ '-]?){3,}")

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


class Pinyin:
    """Reads pinyin without tones, with blanks between syllables or without.

    Args:
        words: pinyin of words (no blanks) to Chinese; one of them says that a text holds pinyin.
        around: further syllables, read only beside those or beside Chinese characters.
    """

    def __init__(self, words: Mapping[str, str], around: Mapping[str, str]) -> None:
        single: dict[str, str] = {}
        self._after: dict[tuple[str, str], str] = {}
        self._before: dict[tuple[str, str], str] = {}
        for word, chinese in words.items():
            pieces = _syllables(word)
            if len(pieces) != len(chinese):
                continue
            single.update(zip(pieces, chinese, strict=True))
            for at in range(1, len(pieces)):
                self._after[chinese[at - 1], pieces[at]] = chinese[at]
                self._before[pieces[at - 1], chinese[at]] = chinese[at - 1]
        self._known = {**single, **around, **words}
        self._words = frozenset(words)
        ordered = sorted(self._known, key=len, reverse=True)
        self._any = re.compile("|".join(ordered))
        self._beside = re.compile(f"[{_CHINESE}]")

    @property
    def indicator(self) -> bytes:
        """A pattern for bytes that finds one of the words, syllables set apart or not."""
        spaced = (r"[ '-]?".join(_syllables(word)) for word in sorted(self._words))
        return ("(?:" + "|".join(spaced) + ")").encode()

    def read(self, view: View) -> Iterator[Run]:
        """The Latin runs of a view that are pinyin, in characters."""
        for match in _RUN.finditer(view.text):
            letters = [at for at in range(match.start(), match.end()) if "a" <= view.text[at] <= "z"]
            bare = "".join(view.text[at] for at in letters)
            found = list(self._any.finditer(bare))
            beside = self._beside.match(view.text, match.end()) or (
                match.start() and self._beside.match(view.text, match.start() - 1)
            )
            covered = sum(hit.end() - hit.start() for hit in found)
            # English has syllables of pinyin too; pinyin has nothing else.
            if (
                not (beside or any(hit.group() in self._words for hit in found))
                or covered * 5 < len(bare) * 4
            ):
                continue
            for index, hit in enumerate(found):
                last = index + 1 < len(found) and found[index + 1].start() == hit.end()
                end = letters[found[index + 1].start()] if last else letters[hit.end() - 1] + 1
                yield (
                    letters[hit.start()],
                    end,
                    self._character(view.text, hit.group(), letters[hit.start()], end),
                )

    def _character(self, text: str, syllables: str, start: int, end: int) -> str:
        """What they stand for, by the Chinese characters beside them where those make a word."""
        after = self._after.get((text[start - 1 : start], syllables))
        return after or self._before.get((syllables, text[end : end + 1]), self._known[syllables])


def _syllables(word: str) -> Sequence[str]:
    """A word cut into syllables: where a consonant (or a pair such as zh) begins one."""
    return re.findall(
        r"(?:zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw])?[aeiouv]+(?:ng(?![aeiouv])|n(?![aeiouv])|r(?![a-z]))?", word
    )


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
