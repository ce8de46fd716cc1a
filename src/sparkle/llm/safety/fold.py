"""The character table of the normaliser: one character in, one character out.

``str.translate`` with a 1:1 table runs in C and keeps every offset, so most normalising costs no bookkeeping:
letter case, full-width and mathematical forms, accents, look-alike letters of other scripts, Chinese punctuation and
traditional characters. Characters that must vanish (zero-width, bidirectional controls, tags) are mapped to one
marker, so that finding out whether any is present is a search for one character.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache

import msgspec
from msgspec import Struct

from sparkle.errors import ConfigurationError
from sparkle.llm.safety.resources import read_data

GONE = "\x7f"
"""Stands in a folded text for a character that the reader does not see. The ASCII control DEL itself is one."""

TAG_FIRST, TAG_LAST = 0xE0020, 0xE007E
"""Tag characters: invisible copies of ASCII."""

_INVISIBLE = (
    (0x00AD, 0x00AD),  # soft hyphen
    (0x034F, 0x034F),  # combining grapheme joiner
    (0x061C, 0x061C),  # Arabic letter mark
    (0x115F, 0x1160),  # Hangul fillers
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),  # Mongolian selectors
    (0x200B, 0x200F),  # zero-width, left-to-right and right-to-left marks
    (0x202A, 0x202E),  # bidirectional embedding and override
    (0x2060, 0x206F),  # word joiner, invisible operators, isolates, deprecated format characters
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),  # variation selectors
    (0xFEFF, 0xFEFF),  # byte order mark
    (0xFFA0, 0xFFA0),
    (0xFFF9, 0xFFFB),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE007F),  # tags
    (0xE0100, 0xE01EF),  # more variation selectors
)
# Ranges whose compatibility forms and accents are looked up; beyond them the table has nothing to say.
_LOOKED_UP = (
    (0x0080, 0x0530),
    (0x1C80, 0x2000),
    (0x2000, 0x2C00),
    (0x2E80, 0x2FE0),
    (0x3000, 0x3400),
    (0xA640, 0xA6A0),
    (0xA720, 0xA800),
    (0xAB30, 0xAB70),
    (0xF900, 0xFB10),
    (0xFE10, 0xFFF0),
    (0x1D400, 0x1D800),
    (0x1F100, 0x1F1AD),
)
_EXPANDED = ((0x2100, 0x2190), (0x2474, 0x24B6), (0x3300, 0x3400), (0xFB00, 0xFB07), (0x1F110, 0x1F12A))
_BRAILLE = {
    0x2800 + bits: letter
    for letter, bits in zip(
        "abcdefghijklmnopqrstuvwxyz",
        (1, 3, 9, 25, 17, 11, 27, 19, 10, 26, 5, 7, 13, 29, 21, 15, 31, 23, 14, 30, 37, 39, 58, 45, 61, 53),
        strict=True,
    )
}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_LETTER_ROWS = (0x1F130, 0x1F150, 0x1F170, 0x1F1E6)
"""Squared, negative circled, negative squared letters and regional indicators, A to Z."""


class _Pairs(Struct, frozen=True, forbid_unknown_fields=True):
    pairs: str
    note: str = ""


class _Characters(Struct, frozen=True, forbid_unknown_fields=True):
    lookalikes: tuple[_Pairs, ...]
    punctuation: tuple[_Pairs, ...]
    traditional: tuple[_Pairs, ...]

    def all(self) -> Iterator[tuple[str, str]]:
        for row in (*self.traditional, *self.lookalikes, *self.punctuation):
            for pair in row.pairs.split():
                if len(pair) != 2:
                    raise ConfigurationError(f"characters.yaml: {pair!r} is not a pair of characters")
                yield pair[0], pair[1]


def _simplest(char: str) -> str:
    """The one character that ``char`` stands for, or itself: compatibility form, then base letter, then lower case."""
    if not unicodedata.decomposition(char):  # most characters, and the question costs a tenth of normalising
        lower = char.lower()
        return lower if len(lower) == 1 else char
    plain = unicodedata.normalize("NFKC", char)
    if len(plain) != 1:
        # "a" with a ring above may compose to one character or, from a ligature, to several letters.
        letters = [c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c)]
        plain = letters[0] if len(letters) == 1 else char
    elif not plain.isascii():
        base = unicodedata.normalize("NFKD", plain)
        if len(base) > 1 and base[0].isascii() and all(unicodedata.combining(c) for c in base[1:]):
            plain = base[0]
    lower = plain.lower()
    return lower if len(lower) == 1 else plain


@lru_cache(maxsize=1)
def fold_table() -> Mapping[int, str]:
    """The table for ``str.translate``: code point to one character. Built once (about 15 ms), then shared.

    Raises:
        ConfigurationError: the data file has something other than pairs.
    """
    table: dict[int, str] = {code: chr(code).lower() for code in range(128)}
    table[ord("_")] = "-"  # a word boundary, which an underscore is not
    for first, last in _LOOKED_UP:
        for code in range(first, last):
            char = chr(code)
            table[code] = GONE if 0x0300 <= code <= 0x036F else _simplest(char)
    for code in (0x0085, 0x2028, 0x2029):
        table[code] = "\n"
    for code in (0x00A0, 0x1680, 0x3000, 0x205F, 0x202F, *range(0x2000, 0x200B)):
        table[code] = " "
    for code in range(0x0080, 0x00A0):
        table[code] = GONE  # C1 controls
    table[0x0085] = "\n"
    for first, last in ((0x1AB0, 0x1B00), (0x1DC0, 0x1E00), (0x20D0, 0x2100), (0xFE20, 0xFE30)):
        table.update(dict.fromkeys(range(first, last), GONE))  # combining marks outside the main block
    for start in _LETTER_ROWS:
        table.update({start + index: letter for index, letter in enumerate(_LETTERS)})
    table.update(_BRAILLE)
    characters = msgspec.yaml.decode(read_data("characters.yaml"), type=_Characters)
    for source, target in characters.all():
        table[ord(source)] = target
        if len(source.upper()) == 1:
            table.setdefault(ord(source.upper()), target)
            if table[ord(source.upper())] == source:
                table[ord(source.upper())] = target
    table.update(dict.fromkeys(expansions(), GONE))
    # Last, because nothing may make an invisible character visible again.
    for first, last in _INVISIBLE:
        table.update(dict.fromkeys(range(first, last + 1), GONE))
    # A missing key costs an exception inside str.translate, so the ideographs of ordinary Chinese text are named too.
    for code in range(0x4E00, 0x9FB0):
        table.setdefault(code, chr(code))
    return table


@lru_cache(maxsize=1)
def expansions() -> Mapping[int, str]:
    """Characters that stand for several (ligatures, parenthesised and squared forms), in lower case.

    They are folded to :data:`GONE` too; :func:`sparkle.llm.safety.views.visible` writes them out.
    """
    found: dict[int, str] = {}
    for first, last in _EXPANDED:
        for code in range(first, last):
            plain = unicodedata.normalize("NFKC", chr(code))
            if 1 < len(plain) <= 8 and any(c.isascii() and c.isalnum() for c in plain):
                found[code] = plain.lower()
    return found


def fold(text: str) -> str:
    """``text`` with every character replaced by the plain one it stands for; the same length, always."""
    return text.lower().replace("_", "-") if text.isascii() else text.translate(fold_table())


def readable_table() -> Mapping[int, str]:
    """Like :func:`fold_table`, for readers that know languages: compatibility forms only, no look-alikes, no case."""
    return _readable()


@lru_cache(maxsize=1)
def _readable() -> Mapping[int, str]:
    table: dict[int, str] = {}
    for code in (*range(0xFF01, 0xFFEF), *range(0x1D400, 0x1D800), *range(0x2460, 0x2500)):
        plain = unicodedata.normalize("NFKC", chr(code))
        if len(plain) == 1 and plain != chr(code):
            table[code] = sys.intern(plain)
    return table
