"""Checks of numbers that name a person, a company or an account."""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from operator import mul

from sparkle.llm.output.candidate import Candidate, Span, digits_of, glued
from sparkle.llm.output.tables import TABLES

IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in TABLES.words("iban_lengths")}
ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_SIGNS = "10X98765432"
_USCC_SIGNS = b"0123456789ABCDEFGHJKLMNPQRTUWXY"
USCC_VALUES = bytes(max(0, _USCC_SIGNS.find(code)) for code in range(256))
USCC_WEIGHTS = (*(3**place % 31 for place in range(17)), 1)  # the last one for the check character
HK_VALUES = bytes(10 if c == 65 else c - 48 if 48 <= c < 58 else 0 for c in range(256))
# Luhn's doubled digits, ASCII to ASCII, so that one translation and two sums do.
_TWICE = bytes(48 + (2 * (c - 48) - (9 if c > 52 else 0)) if 48 <= c < 58 else c for c in range(256))
# A letter stands for 10 to 35; what its two digits add, the second one nine times, is one number modulo 10.
TW_VALUES = bytes(
    c - 48
    if 48 <= c < 58
    else (n + 10) // 10 + (n + 10) % 10 * 9
    if (n := b"ABCDEFGHJKLMNPQRSTUVXYWZIO".find(c)) >= 0
    else 0
    for c in range(256)
)
TW_WEIGHTS = (1, 8, 7, 6, 5, 4, 3, 2, 1, 1)
TW_EXAMPLE = "A123456789"
"""The number that textbooks print."""
_LETTERS = {ord(letter): str(10 + n) for n, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ")}


def _card_lengths() -> list[int]:
    """Bit n of entry p: a card whose first four digits are p may have n digits."""
    masks = [0] * 10_000
    for low, high, lengths in TABLES.card_issuers:
        scale = 10 ** (4 - len(str(low)))
        for prefix in range(low * scale, (high + 1) * scale):
            masks[prefix] |= sum(1 << length for length in lengths)
    return masks


CARD_LENGTHS = _card_lengths()


def luhn_ok(digits: str) -> bool:
    """ISO/IEC 7812 check digit."""
    data = digits.encode()
    return (sum(data[::-2]) + sum(data[-2::-2].translate(_TWICE)) - 48 * len(data)) % 10 == 0


def card(c: Candidate) -> Span | None:
    """A bank card: issuer range, length, Luhn. Networks' test numbers count: they look like any other to a reader."""
    digits = c.value.replace(" ", "").replace("-", "")
    if not CARD_LENGTHS[int(digits[:4])] >> len(digits) & 1:
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
    return c.span if luhn_ok(digits) and len(set(digits)) > 1 and not glued(c) else None


def valid_date(digits: str) -> bool:
    """``YYYYMMDD`` of somebody who may live."""
    try:
        born = date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return False
    return 1900 <= born.year <= 2050


def cn_id(c: Candidate) -> Span | None:
    """Resident ID of the People's Republic (GB 11643): region, date, ISO 7064 MOD 11-2."""
    value = c.value.upper().replace(" ", "").replace("-", "")
    if (
        len(value) != 18
        or _ID_SIGNS[sum(map(mul, ID_WEIGHTS, map(int, value[:17]))) % 11] != value[17]
        or int(value[:2]) not in TABLES.cn_provinces
        or not valid_date(value[6:14])
        or glued(c)
    ):
        return None
    return c.span


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
    end = IBAN_LENGTHS.get(value[:2], 0)
    if not end:
        return None
    if value[4] == " ":  # in groups of four
        end += (end - 1) // 4
    if len(value) < end or value[end : end + 1].isalnum():
        return None
    text = value[:end].replace(" ", "")
    number = int((text[4:] + text[:4]).translate(_LETTERS))
    return (c.start, c.start + end) if number % 97 == 1 else None


def uscc(c: Candidate) -> Span | None:
    """Unified social credit code (GB 32100): check character, and a letter, without which it is one number of many."""
    value = c.value
    numbers = value.encode().translate(USCC_VALUES)
    if sum(map(mul, USCC_WEIGHTS, numbers)) % 31 or not value[:8].isdigit():
        return None
    return None if value.isdigit() else c.span


def hk_id(c: Candidate) -> Span | None:
    """Hong Kong identity card: check digit in parentheses."""
    value = c.value.upper().replace("(", "").replace(")", "")
    head = value[:-7].rjust(2)
    total = sum(w * (36 if ch == " " else ord(ch) - 55) for w, ch in zip((9, 8), head, strict=True))
    total += sum(map(mul, (7, 6, 5, 4, 3, 2, 1), value[-7:].encode().translate(HK_VALUES)))
    return c.span if total % 11 == 0 else None


def tw_id(c: Candidate) -> Span | None:
    """Taiwan identity number: letter, sex, check digit; the textbook example A123456789 is let through."""
    value = c.value
    return (
        c.span
        if sum(map(mul, TW_WEIGHTS, value.encode().translate(TW_VALUES))) % 10 == 0 and value != TW_EXAMPLE
        else None
    )


def unglued(c: Candidate) -> Span | None:
    """Anything that is not a part of a longer word."""
    return None if glued(c) else c.span
