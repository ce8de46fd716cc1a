"""Sieves: of a text full of near misses, the few places that a rule with a check digit may accept.

A screen (``screens.py``) finds one place at a time, and every place costs a few microseconds of Python. That is nothing
for an answer, which has a dozen of them, and seconds for a megabyte of numbers whose check digit is wrong. So when a
family has looked at :data:`PATIENCE` places in vain, the rest of the text goes through its sieve: the standard
library collects all candidates in one go (patterns of bounded length), the check digits of all of them are added up
together (``lanes.py``). A sieve lets through whatever its rule accepts, and little more; the rule has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sparkle.llm.output.dialled import hopeful
from sparkle.llm.output.engine import Find, compile_re2, finder
from sparkle.llm.output.identity_checks import (
    CARD_LENGTHS,
    HK_VALUES,
    IBAN_LENGTHS,
    ID_WEIGHTS,
    TW_EXAMPLE,
    TW_VALUES,
    TW_WEIGHTS,
    USCC_VALUES,
    USCC_WEIGHTS,
)
from sparkle.llm.output.lanes import Lanes, luhn, mod97, weighted
from sparkle.llm.output.looks import APART, FRAGMENTS, LOOSE, LOOSE_AHEAD

PATIENCE = 24
"""Places that a family looks at in vain, in one pass, before it turns to its sieve."""

_WIDEST = 96
"""More characters than a candidate and its neighbours have."""
_SPACED_LENGTHS = {country: end + (end - 1) // 4 for country, end in IBAN_LENGTHS.items()}
_NO_RE2 = re.compile(r"\(\?[<=!]|[*+?}]\+|\{[a-z]")
_HEAD = re.compile(r"\[[^\]]*\]")


class Place(NamedTuple):
    """Where a rule may accept a value; code points."""

    start: int
    end: int


class _Kind(NamedTuple):
    """How the candidates of a check are turned down together."""

    plain: Callable[[list[str]], list[str]]
    """Candidates as their lanes want them; empty what cannot be one."""
    lanes: Lanes
    fits: Callable[[str], bool]
    """What else must hold of one whose check digits are right."""


@dataclass(frozen=True, slots=True)
class Sieve:
    """The sieve of one rule."""

    patterns: tuple[re.Pattern[str], ...]
    gates: tuple[Find | None, ...]
    """What RE2 finds wherever the pattern does, where it can say it: often nothing, at a tenth of the time."""
    kind: _Kind | None
    """``None`` when the patterns say all."""

    @property
    def exact(self) -> bool:
        """Whether a place is the very match of the rule's pattern, and not only in the same run."""
        return self.kind is not None

    def places(self, text: str, low: int, high: int) -> list[Place]:
        """All places that begin in ``text[low:high]``, left to right."""
        found: list[Place] = []
        data = text[low : high + _WIDEST].encode()
        for pattern, gate in zip(self.patterns, self.gates, strict=True):
            if gate is None or gate(data, 0) is not None:
                found += _places(pattern, self.kind, text, low, high)
        return sorted(found) if len(self.patterns) > 1 else found


def _ibans(values: list[str]) -> list[str]:
    spaced = values[0][4:5] == " " if values else False  # those of one pattern are alike
    ends = _SPACED_LENGTHS if spaced else IBAN_LENGTHS
    turned = [
        value[4:end] + value[:4]
        if (end := ends.get(value[:2], _WIDEST)) <= len(value) and not value[end : end + 1].isalnum()
        else ""
        for value in values
    ]
    return "\n".join(turned).replace(" ", "").split("\n") if spaced else turned


def _digits(values: list[str]) -> list[str]:
    return "\n".join(values).replace(" ", "").replace("-", "").split("\n")  # all at once


def _hk(values: list[str]) -> list[str]:
    return [value.upper().rjust(11) for value in values]


def _same(values: list[str]) -> list[str]:
    return values


def _every(values: Sequence[str]) -> list[int]:
    return list(range(len(values)))


def _dialled_digits(values: list[str]) -> list[str]:
    return "\n".join(values).encode().translate(None, b" ().-").decode().split("\n")


def _always(_: str) -> bool:
    return True


def _lettered(value: str) -> bool:
    return not value.isdigit()


def _no_example(value: str) -> bool:
    return value != TW_EXAMPLE


def _card(digits: str) -> bool:
    return CARD_LENGTHS[int(digits[:4])] >> len(digits) & 1 == 1 and _mixed(digits)


def _mixed(digits: str) -> bool:
    return digits.strip(digits[0]) != ""


_ID_VALUES = bytes(10 if c in b"Xx" else c - 48 if 48 <= c < 58 else 0 for c in range(256))
# Letters of Hong Kong's numbers stand for 10 to 35, a missing first one for 36; in the check's place A is 10 as well.
_HK_ALL = bytes(36 if c == 32 else c - 55 if 65 <= c < 91 else HK_VALUES[c] for c in range(256))

_WHATEVER = _Kind(_same, _every, _always)
_KINDS: dict[str, _Kind] = {
    "card": _Kind(_digits, luhn(19), _card),
    "near_card": _Kind(_digits, luhn(19), _mixed),
    "cn_id": _Kind(_digits, weighted(_ID_VALUES, (*ID_WEIGHTS, 1), 11, 1), _always),
    "iban": _Kind(_ibans, mod97(34), _always),
    "uscc": _Kind(_same, weighted(USCC_VALUES, USCC_WEIGHTS, 31), _lettered),
    "hk_id": _Kind(_hk, weighted(_HK_ALL, (9, 8, 7, 6, 5, 4, 3, 2, 0, 1, 0), 11), _always),
    "tw_id": _Kind(_same, weighted(TW_VALUES, TW_WEIGHTS, 10), _no_example),
    "intl_phone": _Kind(_dialled_digits, hopeful, _always),
    "ipv4_public": _WHATEVER,
    "ipv4_special": _WHATEVER,
}
"""By the name of the check."""


def sieve(patterns: Sequence[str], check: str, *, whole: bool) -> Sieve | None:
    """The sieve of a rule with this check; ``None`` when there are no patterns for one.

    A pattern begins with the class of the value's first sign; names of ``looks.FRAGMENTS`` stand for what they name. A
    value behind a letter or digit is passed over, unless the rule is ``whole`` and a label stands there.

    Raises:
        ValueError: a pattern does not begin with a class.
    """
    if not patterns:
        return None
    return Sieve(
        tuple(re.compile(_pattern(p, whole=whole)) for p in patterns),
        tuple(None if _NO_RE2.search(p) else finder(compile_re2(p, "sieve")) for p in patterns),
        _KINDS.get(check),
    )


def family_sieve(sieve: str) -> re.Pattern[str]:
    """The sieve of a family of ``piece`` rules, which matches in every segment in which one of them accepts a value."""
    return re.compile(_filled(sieve), re.VERBOSE)


def trigger_sieve(sieve: str, never: str, value: str) -> tuple[re.Pattern[str] | None, re.Pattern[str]]:
    """The sieve of a family of ``assign`` rules, ``None`` without one, and what turns down what a trigger leads to.

    The sieve matches triggers exactly as the family's screen does, one after the other; its group 1 takes part where
    what follows is turned down. ``value`` is the pattern of the rules' values.
    """
    sign = re.sub(r"\{[0-9,]+\}\Z", "", value)
    never = _filled(never).replace("{value}", sign)
    lead = "\\s{0,3}[\"'“‘`*(\\[【「《_]{0,3}"
    # Atomic, because a trigger is not to be read in another way when what follows it is turned down.
    pattern = f"(?>(?:{sieve})(?={lead}(?:{value})))(?:(?=(?:{never})())|)"
    return re.compile(pattern, re.VERBOSE) if sieve else None, re.compile(never, re.VERBOSE)


def _filled(pattern: str) -> str:
    for name, fragment in FRAGMENTS.items():
        pattern = pattern.replace(name, fragment)
    return pattern


def _pattern(pattern: str, *, whole: bool) -> str:
    head = _HEAD.match(pattern)
    if head is None:
        raise ValueError("a sieve's pattern begins with a class")
    pattern = _filled(pattern)
    # The first sign alone is consumed: a search for a class is fast, and values may begin inside one another.
    first, rest = head.group(), pattern[head.end() :]
    if not whole:
        return f"{first}{APART}(?=({rest}))"
    # Labels last, because they are many and almost never asked.
    return f"{first}(?<![0-9].)(?=((?:{rest}){LOOSE_AHEAD})){LOOSE}"


def _places(pattern: re.Pattern[str], kind: _Kind | None, text: str, low: int, high: int) -> list[Place]:
    spans = [(m.start(), m.end(1)) for m in pattern.finditer(text, low, high + _WIDEST)]
    values = [text[start:end] for start, end in spans if start < high]
    if kind is None:
        return [Place(*span) for span in spans[: len(values)]]
    values = kind.plain(values)
    if not all(values):
        spans = [span for span, value in zip(spans, values, strict=False) if value]
        values = [value for value in values if value]
    return [Place(*spans[k]) for k in kind.lanes(values) if kind.fits(values[k])] if values else []
