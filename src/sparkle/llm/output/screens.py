"""Screens: one RE2 pattern a family that matches wherever one of its rules can.

A screen is run over a whole text before any rule is tried, at RE2's speed, so only places where a rule is about to
match cost Python time. It may match more than the rules do, never less: looks at the neighbours are widened or left
out, and a search goes on a few bytes before the end of the last match, because two values may share a neighbour.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sparkle.llm.output.engine import Find, compile_re2, finder

OVERLAP = 8
"""Bytes at the end of a match of a number's screen that are looked at again: two neighbours of four bytes each."""

_CLASS = r"\[((?:\\.|[^\]\\])*)\]"
_TOKEN = re.compile(rf"\\.|{_CLASS}|\((?!\?)")
# Looks at two neighbours that patterns of numbers begin or end with, and what says the same to RE2.
_TWO_BEHIND = {
    "(?<![0-9])(?<![0-9]\\.)": "(?:^|[^0-9.]|(?:^|[^0-9])[.])",
    "(?<![0-9])(?<![0-9][ \\-])": "(?:^|[^0-9 \\-]|(?:^|[^0-9])[ \\-])",
}
_TWO_AHEAD = {"(?![ \\-]?[0-9])": "(?:$|[^0-9 \\-]|[ \\-](?:$|[^0-9]))"}
_BEHIND = re.compile(rf"\(\?<!{_CLASS}\)")
_AHEAD = re.compile(rf"\(\?!{_CLASS}\)\Z")
_LOOK = re.compile(rf"\(\?<?[!=](?:{_CLASS}|\\.|[^()\[\]\\])*\)")
# What Python's \s matches and RE2's does not: the screen of a value has to skip the same white space.
_SPACES = (
    r"[\s\x0b\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]{0,3}"
)
_OPENERS = "[\"'“‘`*(\\[【「《_]{0,3}"


def _widened(pattern: str, *, led: bool) -> str:
    """A pattern of the standard library without looks at its neighbours; ``led`` when words stand right before it."""
    if not led:
        both = next((look for look in _TWO_BEHIND if pattern.startswith(look)), "")
        if both:
            pattern = _TWO_BEHIND[both] + pattern[len(both) :]
        elif match := _BEHIND.match(pattern):
            pattern = f"(?:^|[^{match.group(1)}])" + pattern[match.end() :]
        for look, same in _TWO_AHEAD.items():
            if pattern.endswith(look):
                pattern = pattern[: -len(look)] + same
        pattern = _AHEAD.sub(lambda m: f"(?:$|[^{m.group(1)}])", pattern)
    return _LOOK.sub("", pattern)


def _without_groups(pattern: str) -> str:
    return _TOKEN.sub(lambda m: "(?:" if m.group() == "(" else m.group(), pattern)


def piece_screen(patterns: Sequence[str], where: str) -> Find:
    """The screen of a family of ``piece`` rules; the second character of its match stands in the value's run."""
    return finder(compile_re2("|".join(f"(?:{_without_groups(p)})" for p in patterns), where))


def number_screen(patterns: Sequence[str], near: str, where: str) -> Find:
    """The screen of a family of ``number`` rules; a number begins inside its match."""
    union = "|".join(f"(?:{_widened(p, led=bool(near))})" for p in patterns)
    return finder(compile_re2(f"(?i:{near})(?:{union})" if near else union, where))


def assign_screen(trigger: str, patterns: Sequence[str], where: str) -> Find:
    """The screen of a family of ``assign`` rules; group 1 is the trigger, which ends behind the sign of assignment."""
    union = "|".join(f"(?:{_without_groups(p)})" for p in patterns)
    return finder(compile_re2(f"({_without_groups(trigger)}){_SPACES}{_OPENERS}(?:{union})", where))
