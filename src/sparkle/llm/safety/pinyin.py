"""Reading Chinese that is written in pinyin, all of it or some characters: ``hu lüe 以shang的zhiling``.

Syllables and characters are read as one sequence. Where it sounds like a word of the rules, and no character of it
says otherwise, it is that word; a syllable of no such word becomes the commonest character of that sound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product

from sparkle.llm.safety.views import Run, View

_SYLLABLE = r"(?:zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw])?[aeiouv]{1,3}(?:ng(?![aeiouv])|n(?![aeiouv])|r(?![a-zü]))?"
_ONE = re.compile(_SYLLABLE)
_PIECE = re.compile("[a-z]{1,60}|[\u4e00-\u9fff]")
_JOINT = re.compile("[ '’-]{0,3}")
_CHINESE = rb"[\xe4-\xe9][\x80-\xbf]{2}"
_MIXED = _CHINESE + rb" ?(?:(?:zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw])[aeiouv]{1,3}(?:ng?|r)?[ '-]?){1,8}" + _CHINESE
"""Syllables between two characters."""
_MOST_SYLLABLES = 6
"""Of one word."""
_FEWEST_SYLLABLES = 3
"""Of a clause without a telling word."""
_MOST_SOUNDS = 8
"""Ways to read one word."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """A syllable, or a character and how it sounds."""

    start: int
    end: int
    sound: str
    char: str


class Pinyin:
    """Reads pinyin without tones, with blanks between syllables or without, beside characters or alone.

    Args:
        telling: pinyin of words (no blanks) to Chinese; one of them says that a text without a character is pinyin.
        around: syllables to the characters they most likely stand for.
        readings: characters with a way to read them, as ``略lue``; a character may come more than once.
        words: further words, which are read where the text is pinyin.
    """

    def __init__(
        self,
        telling: Mapping[str, str],
        around: Mapping[str, str],
        readings: Iterable[str],
        words: Iterable[str],
    ) -> None:
        self._sounds: dict[str, list[str]] = {}
        self._single: dict[str, str] = {_plain(sound): char for sound, char in around.items()}
        for reading in readings:
            self._sounds.setdefault(reading[0], []).append(reading[1:])
            self._single.setdefault(reading[1:], reading[0])
        self._words: dict[tuple[str, ...], list[str]] = {}
        self._telling = frozenset(telling.values())
        self._triggers = tuple(telling)
        for word in dict.fromkeys((*telling.values(), *sorted(words))):
            if 2 <= len(word) <= _MOST_SYLLABLES and all(char in self._sounds for char in word):
                ways = product(*(self._sounds[char] for char in word))
                for sounds in islice(ways, _MOST_SOUNDS):
                    self._words.setdefault(sounds, []).append(word)

    @property
    def indicator(self) -> bytes:
        """A pattern for bytes that finds one of the telling words, or syllables between characters."""
        spaced = (r"[ '-]?".join(_ONE.findall(word)) for word in sorted(self._triggers))
        return ("(?:" + "|".join(spaced) + ")").encode() + b"|" + _MIXED

    def read(self, view: View) -> Iterator[Run]:
        """The syllables of a view, in characters."""
        stretches = [units for units in self._stretches(view.text) if any(not unit.char for unit in units)]
        written = [self._written(units) for units in stretches]
        told = any(told for told, _ in written)
        for units, (beside, runs) in zip(stretches, written, strict=True):
            # Where one clause is pinyin, the next is, too.
            if beside or (told and len(units) >= _FEWEST_SYLLABLES):
                yield from runs

    def _stretches(self, text: str) -> Iterator[list[_Unit]]:
        """Syllables and characters that follow each other with nothing but blanks between."""
        units: list[_Unit] = []
        for match in _PIECE.finditer(text):
            start, end = match.span()
            if units and not _JOINT.fullmatch(text, units[-1].end, start):
                yield units
                units = []
            piece = match.group()
            if not piece.isascii():
                units.append(_Unit(start, end, self._sounds.get(piece, [""])[0], piece))
                continue
            syllables = list(_ONE.finditer(piece))
            # One after the other without backtracking: there are too many ways to cut a row of vowels.
            if sum(one.end() - one.start() for one in syllables) == len(piece):
                units += (_Unit(start + s.start(), start + s.end(), _plain(s.group()), "") for s in syllables)
            else:
                yield units
                units = []
        yield units

    def _written(self, units: list[_Unit]) -> tuple[bool, list[Run]]:
        """Whether the units are pinyin for sure, and how they read."""
        runs: list[Run] = []
        told = any(unit.char for unit in units)
        at = 0
        while at < len(units):
            word = self._word_at(units, at)
            size = len(word) if word else 1
            for offset in range(size):
                unit = units[at + offset]
                said = word[offset] if word else unit.char or self._single.get(unit.sound, "")
                if unit.char or not said:
                    continue
                following = at + offset + 1
                # The blank after a syllable goes with it.
                runs.append(
                    (unit.start, units[following].start if following < len(units) else unit.end, said)
                )
            told |= word in self._telling
            at += size
        return told, runs

    def _word_at(self, units: list[_Unit], at: int) -> str:
        """The longest word that the units from ``at`` on sound like, at least one of them being a syllable."""
        for size in range(min(_MOST_SYLLABLES, len(units) - at), 1, -1):
            stretch = units[at : at + size]
            if all(unit.char for unit in stretch):
                continue
            for word in self._words.get(tuple(unit.sound for unit in stretch), ()):
                if all(not unit.char or unit.char == char for unit, char in zip(stretch, word, strict=True)):
                    return word
        return ""


def _plain(sound: str) -> str:
    """The umlaut is written in more than one way."""
    return sound.replace("v", "u")
