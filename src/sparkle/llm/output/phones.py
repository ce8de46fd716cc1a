"""Checks of telephone numbers."""

from __future__ import annotations

import re

from sparkle.llm.output.candidate import Candidate, Span, arithmetic, digits_of, glued, word
from sparkle.llm.output.dialled import Dialled, dialled, hopeless
from sparkle.llm.output.tables import TABLES

_DATE = re.compile(r"(?:19|20)\d\d[.\-/ ](?:0?[1-9]|1[0-2])[.\-/ ]\d{1,2}")
_GROUP_ENDS = re.compile(r"[0-9]+")
_AREA = re.compile(TABLES.cn_area_codes)


def cn_mobile(c: Candidate) -> Span | None:
    """A mobile number of the mainland; not the result of a calculation."""
    return None if glued(c) or arithmetic(c.before) else c.span


def cn_landline(c: Candidate) -> Span | None:
    """A fixed line of the mainland: an area code in use, then seven or eight digits."""
    if glued(c) or arithmetic(c.before):
        return None
    digits = digits_of(c.value)
    digits = "0" + digits[2:] if digits.startswith("86") else digits
    area = _AREA.match(digits)
    return c.span if area and len(digits) - area.end() in (7, 8) else None


def us_phone(c: Candidate) -> Span | None:
    """A number of the North American plan written in its usual groups; 555-01xx is kept for fiction and passes."""
    digits = digits_of(c.value.partition("x")[0])[-10:]
    if glued(c) or arithmetic(c.before) or (digits[3:6] == "555" and digits[6:8] == "01"):
        return None
    return None if digits[1:3] == "11" or digits[4:6] == "11" else c.span


def intl_phone(c: Candidate) -> Span | None:
    """A number behind ``+`` and a country code: the longest part at the end of a group that such a number can have.

    Valid ones first, else one of a length that is possible in that country (plans change, fakes are common).
    """
    text, start, end = c
    value, extension, _ = text[start:end].partition("x")
    plus = value[0] == "+"
    dialled_digits = digits_of(value)
    if no_number(("+" if plus else "") + dialled_digits):
        return None
    if arithmetic(c.before) or word(c.before[-1:]):
        return None
    possible = 0
    groups = [group.span() for group in _GROUP_ENDS.finditer(value)]
    digits = "".join([value[start:end] for start, end in groups])
    for start, end in reversed(groups):
        if len(digits) < 8:
            break
        verdict = dialled(digits if plus else digits[2:], plus=plus)
        if verdict is Dialled.VALID:
            whole = extension and end == len(value)
            return None if _fiction(digits) else (c.start, c.end if whole else c.start + end)
        if not possible and verdict is Dialled.POSSIBLE:
            possible = end
        digits = digits[: start - end]
    if not possible or _fiction(value[:possible]):
        return None
    return c.start, c.end if possible == len(value) else c.start + possible


def no_number(dialled: str) -> bool:
    """Whether digits behind ``+`` or ``00`` are certain to be nobody's number; cheap."""
    if dialled[0] == "+":
        digits = dialled[1:]
        return (digits[4:9] == "55501" and _fiction(digits)) or hopeless(digits, plus=True)
    return hopeless(dialled[2:], plus=False)


def _fiction(text: str) -> bool:
    digits = digits_of(text)
    return len(digits) == 11 and digits[0] == "1" and digits[4:8] == "5550" and digits[8] == "1"


def near_phone(c: Candidate) -> Span | None:
    """Any number of 7 to 15 digits behind a word such as *phone* or 电话; not a date, not a decimal."""
    digits = digits_of(c.value.partition("x")[0])
    if not 7 <= len(digits) <= 15 or len(set(digits)) == 1 or glued(c):
        return None
    return None if _DATE.fullmatch(c.value) else c.span
