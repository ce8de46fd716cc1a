"""From the bytes of a reading to the tokens and numbers that the fast tier weighs.

Words of alphabetic scripts are tokens, so is every character of scripts written without blanks and every sign. An
n-gram is a number made of its tokens' CRC-32: training and serving agree in every process, and no list of words is
needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from zlib import crc32

BITS = 20
"""N-gram buckets are numbers below ``2 ** BITS``."""

MASK = (1 << BITS) - 1

PER_TOKEN = 4
"""N-grams that end at one token: itself, with the one before, with the two before, with the one before that."""

START = 1
"""Stands for the tokens before the first."""

WINDOW = 64
"""Tokens of one window."""

STRIDE = 32
"""Tokens from one window's beginning to the next's."""

UNCUT = 96
"""A text of up to so many tokens is one window."""

TOKEN = re.compile(
    rb"[\xe0\xe2-\xef][\x80-\xbf]{2}"  # one character of Chinese, Japanese, Korean, Thai, Hindi ...; also symbols
    rb"|[a-z0-9\x80-\xdf\xe1]+"  # a word: Latin, Cyrillic, Greek, Arabic, Hebrew ...
    rb"|[^\s\x00-\x1f]"
)
"""Over the folded text's UTF-8 bytes (:attr:`sparkle.llm.safety.views.View.data`)."""


def token_hashes(data: bytes) -> list[int]:
    """One number below 2**32 a token, in order."""
    return list(map(crc32, TOKEN.findall(data)))


_WORD = re.compile(rb"[\xe0\xe2-\xef][\x80-\xbf]{2}|[a-z0-9\x80-\xdf\xe1]+")
_SHORT_BYTES = 48


def says_enough(data: bytes) -> bool:
    """Whether a folded text has at least three words, or four characters of a script without blanks.

    Less is a name or a key word ("password", 密码), which says nothing about what anybody wants.
    """
    if len(data) > _SHORT_BYTES:
        return True
    # Four characters of Chinese count as three words.
    return sum(3 if word[0] >= 0xE0 and len(word) == 3 else 4 for word in _WORD.findall(data)) >= 12


def token_spans(data: bytes) -> list[tuple[int, int]]:
    """The bytes ``start:end`` of every token, in order."""
    return [match.span() for match in TOKEN.finditer(data)]


def window_bounds(tokens: int) -> Iterator[tuple[int, int]]:
    """The windows ``first:last`` (tokens) of a text, overlapping by half; one empty window for no token."""
    if tokens <= UNCUT:
        yield 0, tokens
        return
    for first in range(0, tokens - STRIDE, STRIDE):
        yield first, min(first + WINDOW, tokens)
