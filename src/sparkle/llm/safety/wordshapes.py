r"""Words with letters too many, letters hidden, or letters drawn with signs: ``iiignooore``, ``ign*re``, ``|\|``.

Each decoder finds such words of a view and says which English words they are, with the list of
:mod:`sparkle.llm.safety.segmenting`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from sparkle.llm.safety.segmenting import english_words
from sparkle.llm.safety.views import Run, View

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_THREE = "|".join(letter * 3 for letter in _LETTERS if letter not in "iwx")
STRETCHED = (
    rf"[a-z](?:{_THREE}|iii|www|xxx)|(?:{_THREE})[a-z]|(?:(?:"
    + "|".join(letter * 2 for letter in _LETTERS)
    + r")){4}"
).encode()
"""Three equal letters beside another one, or four pairs in a row."""

MASKED = rb"[a-z]\*{1,3}[a-z]{2}|[a-z]{2}\*{1,3}[a-z]|\b[a-z]\*[a-z]\*"
"""A word with an asterisk for a letter."""

DRAWN = rb"\|\\\||/-\\|\|-\|[a-z0-9!|]|\|-[a-z0-9!]"
"""Letters drawn with strokes; the folded text has a hyphen for the underscore."""

SIGNED = rb"[0-9@$!|+][a-z]?[(#][a-z]?[0-9@$!|+]"
"""A bracket or hash among other signs that stand for letters."""

EMOJI_INSIDE = rb"[a-z](?:\xf0[\x80-\xbf]{3}|\xe2[\x80-\xbf]{2}){1,2}[a-z]"
"""Emoji between two letters."""

_TOKEN = re.compile(r"\S{3,60}")
_SIGNS = re.compile(r"[0-9@$!|+]")
_SIGN_LETTERS = re.compile(r"[(#](?=[A-Za-z0-9@$!|+])")
_EMOJI = re.compile("(?<=[A-Za-z])[\u2190-\u2bff\U0001f000-\U0001faff\ufe0f]{1,3}(?=[A-Za-z])")
_REPEATED = re.compile(r"([a-z])\1+")
_WORD = re.compile(r"[a-z]{2,60}")
_TOO_MANY = re.compile(r"([a-z])\1\1")
_HIDDEN = re.compile(r"(?<![a-z*])[a-z*]{3,20}(?![a-z])")
_APART = re.compile(r"\*?(?:[a-z]\*){3,}[a-z]?")
"""Asterisks between letters, not for letters."""
_MOST_HIDDEN = 80
"""Words with hidden letters of one text that are looked up."""
_DRAWN: Mapping[str, str] = {
    "|\\/|": "m", "\\/\\/": "w", "/\\/\\": "m", "|\\|": "n", "/-\\": "a", "/\\": "a", "|-|": "h", "|_|": "u",
    "|<": "k", "|_": "l", "|=": "f", "|)": "d", "|3": "b", "|*": "p", "|2": "r", "|>": "p", "\\/": "v",
    "][": "i", "()": "o", "}{": "h", "><": "x", "'/": "y",
}  # fmt: skip
_DRAWN_SIGNS = re.compile("|".join(re.escape(signs) for signs in sorted(_DRAWN, key=len, reverse=True)))


def stretched(view: View) -> Iterator[Run]:
    """Words with repeated letters, which are none as they stand, with each letter once or as the word has it."""
    known, once = english_words(), _squeezed()
    for match in _WORD.finditer(view.text):
        word = match.group()
        if word in known or _REPEATED.search(word) is None:
            continue
        bare = _REPEATED.sub(r"\1", word)
        said = once.get(bare) or (bare if _TOO_MANY.search(word) else None)
        if said is not None and said != word:
            yield match.start(), match.end(), said


@lru_cache(maxsize=1)
def _squeezed() -> Mapping[str, str]:
    """What is left of each word with every letter once, to the commonest such word."""
    found: dict[str, str] = {}
    for word in english_words():
        found.setdefault(_REPEATED.sub(r"\1", word), word)
    return found


def masked(view: View) -> Iterator[Run]:
    """Words with asterisks for letters, as the commonest word that fits."""
    left = _MOST_HIDDEN
    for match in _HIDDEN.finditer(view.text):
        word = match.group()
        hidden = word.count("*")
        # What stands between asterisks is emphasised.
        if (
            not hidden
            or hidden * 5 > len(word) * 3
            or (word[0] == "*" == word[-1] and hidden < 3)
            or _APART.fullmatch(word)
        ):
            continue
        left -= 1
        if left < 0:
            return
        for written in dict.fromkeys((word, word.rstrip("*"))):
            said = _fitting(written)
            if said is not None:
                yield match.start(), match.start() + len(written), said
                break


def _fitting(word: str) -> str | None:
    alike = _alike().get((word[0], len(word)), ())
    # Vowels are what is hidden most.
    patterns = [re.compile(word.replace("*", letter)) for letter in ("[aeiou]", "[a-z]")]
    return next((other for one in patterns for other in alike if one.fullmatch(other)), None)


@lru_cache(maxsize=1)
def _alike() -> Mapping[tuple[str, int], list[str]]:
    """English words by first letter (or an asterisk) and length, the commonest first."""
    found: dict[tuple[str, int], list[str]] = {}
    for word in english_words():
        for first in (word[0], "*"):
            found.setdefault((first, len(word)), []).append(word)
    return found


def drawn(view: View) -> Iterator[Run]:
    r"""Letters drawn with strokes and brackets: ``|\|`` is an n, ``/-\`` an a."""
    for match in _DRAWN_SIGNS.finditer(view.source):
        yield match.start(), match.end(), _DRAWN[match.group()]


def signed(view: View) -> Iterator[Run]:
    """``(`` and ``#`` as c and h, in words that hold other signs for letters."""
    for token in _TOKEN.finditer(view.source):
        if len(_SIGNS.findall(token.group())) >= 2:
            for match in _SIGN_LETTERS.finditer(view.source, token.start(), token.end()):
                yield match.start(), match.end(), "c" if match.group() == "(" else "h"


def emoji_inside(view: View) -> Iterator[Run]:
    """Emoji within words, taken out."""
    for match in _EMOJI.finditer(view.source):
        yield match.start(), match.end(), ""
