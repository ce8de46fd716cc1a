"""What every check shares: the candidate, its surroundings, and when it is a part of something longer.

A check may look at no more than 64 characters to the left of the candidate and two to its right, so that a stream can
decide as a whole text does.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import NamedTuple


class Candidate(NamedTuple):
    """A match in its text; offsets in code points."""

    text: str
    start: int
    end: int

    @property
    def value(self) -> str:
        """The matched text."""
        return self.text[self.start : self.end]

    @property
    def before(self) -> str:
        """Up to 64 characters to the left."""
        return self.text[max(0, self.start - 64) : self.start]

    @property
    def after(self) -> str:
        """Up to two characters to the right."""
        return self.text[self.end : self.end + 2]

    @property
    def span(self) -> tuple[int, int]:
        """The span as matched."""
        return self.start, self.end


Span = tuple[int, int]
Check = Callable[[Candidate], Span | None]

_NO_DIGIT = re.compile("[^0-9]+")
_WORD = frozenset(string.ascii_letters + string.digits)
_STICKS_LEFT, _STICKS_RIGHT = _WORD | set("._-/"), _WORD | set("._-")
_GLUE = re.compile(r"[A-Za-z0-9][._\-/]\Z|[A-Za-z0-9]\Z|[0-9]\.\Z")
_LABEL = re.compile(
    r"(?i)(?:tel|phone|mobile|cell|fax|card|visa|id|no|nr|number|ssn|whatsapp|wechat|iban|n)[._\-/]?\Z"
)
_GLUED_RIGHT = re.compile(r"[A-Za-z0-9]|[._\-][A-Za-z0-9]")
_ARITHMETIC = re.compile(r"(?:[0-9)!\]]\s?[=≈]|[*×÷^√∑/]|[0-9)]\s?[+\-−])\s?\Z")


def word(char: str) -> bool:
    """Whether a character is an ASCII letter or digit (a Chinese one next to a value does not extend it)."""
    return char.isascii() and char.isalnum()


def digits_of(value: str) -> str:
    """The ASCII digits of a text."""
    return value if value.isdigit() else _NO_DIGIT.sub("", value)


def glued(c: Candidate) -> bool:
    """Whether the candidate is a part of a longer word, name or decimal number.

    ``screens.py`` says the same in RE2 for rules that are ``whole``.
    """
    text, start, end = c
    if start and text[start - 1] in _STICKS_LEFT:  # one look is enough for almost all
        before = text[max(0, start - 10) : start]
        if _GLUE.search(before) and not _LABEL.search(before):
            return True
    return text[end : end + 1] in _STICKS_RIGHT and _GLUED_RIGHT.match(text, end) is not None


def arithmetic(before: str) -> bool:
    """Whether what stands to the left is a calculation."""
    return _ARITHMETIC.search(before[-4:]) is not None  # no calculation's sign is longer
