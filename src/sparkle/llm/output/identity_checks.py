"""Checks of numbers that name a person, a company or an account."""

from __future__ import annotations

from datetime import date
from itertools import pairwise

from sparkle.llm.output.candidate import Candidate, Span, digits_of, glued
from sparkle.llm.output.tables import TABLES

_IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in TABLES.words("iban_lengths")}
# Issuer ranges by the first two digits, so that most numbers are turned down by one look.
_ISSUERS = {
    first: tuple(row for row in TABLES.card_issuers if row[0] <= int(first.ljust(len(str(row[0])), "9")))
    for first in (f"{n:02}" for n in range(10, 100))
}
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def luhn_ok(digits: str) -> bool:
    """ISO/IEC 7812 check digit."""
    total = 0
    for place, char in enumerate(reversed(digits)):
        n = ord(char) - 48
        if place % 2:
            n = n * 2 - 9 if n > 4 else n * 2
        total += n
    return total % 10 == 0


def card(c: Candidate) -> Span | None:
    """A bank card: issuer range, length, Luhn. Networks' test numbers count: they look like any other to a reader."""
    digits = digits_of(c.value)
    low_high = _ISSUERS.get(digits[:2], ())
    if not any(low <= int(digits[: len(str(low))]) <= high and len(digits) in n for low, high, n in low_high):
        return None
    if not luhn_ok(digits) or len(set(digits)) < 2 or glued(c) or _counting(c.value):
        return None
    return c.span


def _counting(value: str) -> bool:
    """Whether the groups are a row of numbers (2230 2231 2232 2233), which passes the check digit one time in ten."""
    groups = [int(group) for group in value.replace("-", " ").split(" ") if group.isdigit()]
    steps = {b - a for a, b in pairwise(groups)}
    return len(groups) >= 4 and len(steps) == 1 and steps != {0}


def near_card(c: Candidate) -> Span | None:
    """Digits of a card's length behind the word card: Luhn alone."""
    digits = digits_of(c.value)
    return c.span if len(set(digits)) > 1 and not glued(c) and luhn_ok(digits) else None


def valid_date(digits: str) -> bool:
    """``YYYYMMDD`` of somebody who may live."""
    try:
        born = date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return False
    return 1900 <= born.year <= 2050


def cn_id(c: Candidate) -> Span | None:
    """Resident ID of the People's Republic (GB 11643): region, date, ISO 7064 MOD 11-2."""
    value = "".join(ch for ch in c.value.upper() if ch.isdigit() or ch == "X")
    if (
        len(value) != 18
        or int(value[:2]) not in TABLES.cn_provinces
        or not valid_date(value[6:14])
        or glued(c)
    ):
        return None
    total = sum(w * int(d) for w, d in zip(_ID_WEIGHTS, value[:17], strict=True))
    return c.span if "10X98765432"[total % 11] == value[17] else None


def cn_id15(c: Candidate) -> Span | None:
    """Resident ID of the first generation, 15 digits, only where the context says so."""
    digits = digits_of(c.value)
    ok = int(digits[:2]) in TABLES.cn_provinces and valid_date("19" + digits[6:12]) and not glued(c)
    return c.span if ok else None


def ssn(c: Candidate) -> Span | None:
    """US social security number: the ranges that were ever issued."""
    d = digits_of(c.value)
    bad = d[:3] in ("000", "666") or d[0] == "9" or d[3:5] == "00" or d[5:] == "0000"
    # Printed in wallets and advertisements, never a person's since (SSA history page).
    known = d in ("078051120", "219099999")
    return None if bad or known or glued(c) else c.span


def iban(c: Candidate) -> Span | None:
    """IBAN: country, its length, ISO 7064 MOD 97-10. The match may be longer than the number; it is cut to it."""
    value = c.value
    wanted = _IBAN_LENGTHS.get(value[:2], 0)
    end, seen = 0, 0
    while seen < wanted and end < len(value):
        seen += value[end] != " "
        end += 1
    if not wanted or seen < wanted or value[end : end + 1].isalnum():
        return None
    text = value[:end].replace(" ", "")
    number = int("".join(str(int(ch, 36)) for ch in text[4:] + text[:4]))
    return (c.start, c.start + end) if number % 97 == 1 else None


def uscc(c: Candidate) -> Span | None:
    """Unified social credit code (GB 32100): check character, and a letter, without which it is one number of many."""
    from stdnum.cn import uscc as registry

    value = c.value.upper()
    return c.span if any(ch.isalpha() for ch in value) and registry.is_valid(value) else None


def hk_id(c: Candidate) -> Span | None:
    """Hong Kong identity card: check digit in parentheses."""
    value = c.value.upper().replace("(", "").replace(")", "")
    head = value[:-7].rjust(2)
    total = sum((9 - i) * (36 if ch == " " else ord(ch) - 55) for i, ch in enumerate(head))
    total += sum((7 - i) * int(d) for i, d in enumerate(value[-7:-1]))
    check = 10 if value[-1] == "A" else int(value[-1])
    return c.span if (total + check) % 11 == 0 else None


def tw_id(c: Candidate) -> Span | None:
    """Taiwan identity number: letter, sex, check digit; the textbook example A123456789 is let through."""
    value = c.value.upper()
    code = "ABCDEFGHJKLMNPQRSTUVXYWZIO".index(value[0]) + 10
    total = (
        code // 10
        + code % 10 * 9
        + sum(int(d) * w for d, w in zip(value[1:], (8, 7, 6, 5, 4, 3, 2, 1, 1), strict=True))
    )
    return c.span if total % 10 == 0 and value != "A123456789" else None


def unglued(c: Candidate) -> Span | None:
    """Anything that is not a part of a longer word."""
    return None if glued(c) else c.span
