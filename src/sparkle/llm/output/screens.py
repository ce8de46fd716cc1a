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
_SPACED_BEHIND = {"(?<![0-9])(?<![0-9][ \\-])": "(?:^|[^0-9 \\-]|(?:^|[^0-9])[ \\-])"}
_TWO_BEHIND = {"(?<![0-9])(?<![0-9]\\.)": "(?:^|[^0-9.]|(?:^|[^0-9])[.])"} | _SPACED_BEHIND
_TWO_AHEAD = {"(?![ \\-]?[0-9])": "(?:$|[^0-9 \\-]|[ \\-](?:$|[^0-9]))"}
_BEHIND = re.compile(rf"\(\?<!{_CLASS}\)")
_AHEAD = re.compile(rf"\(\?!{_CLASS}\)\Z")
_LOOK = re.compile(rf"\(\?<?[!=](?:{_CLASS}|\\.|[^()\[\]\\])*\)")
# What Python's \s matches and RE2's does not: the screen of a value has to skip the same white space.
_SPACES = (
    r"[\s\x0b\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]{0,3}"
)
_OPENERS = "[\"'“‘`*(\\[【「《_]{0,3}"


# What candidate.glued lets stand on either side of a value that is no part of a longer word.
_LABELS = "(?i:tel|phone|mobile|cell|fax|card|visa|id|no|nr|number|ssn|whatsapp|wechat|iban|n)[._\\-/]?"
_LOOSE_BEHIND = f"(?:^|[^A-Za-z0-9._\\-/]|(?:^|[^A-Za-z0-9])[._\\-/]|{_LABELS})"
_LOOSE_AHEAD = "(?:$|[^A-Za-z0-9._\\-]|[._\\-](?:$|[^A-Za-z0-9]))"
_WHOLE_BEHIND = ("(?<![0-9])(?<![0-9]\\.)", "(?<![0-9])")  # what the looser look takes the place of
_WHOLE_AHEAD = "(?![0-9])"


def _widened(pattern: str, *, led: bool, whole: bool) -> str:
    """A pattern of the standard library with looks at its neighbours that RE2 knows, the same or wider.

    ``led`` when words stand right before it, ``whole`` when its check wants it to be no part of a longer word.
    """
    if whole and pattern.endswith(_WHOLE_AHEAD):
        pattern = pattern[: -len(_WHOLE_AHEAD)] + _LOOSE_AHEAD
    if whole and not led and not pattern.startswith(tuple(_SPACED_BEHIND)):
        look = next((look for look in _WHOLE_BEHIND if pattern.startswith(look)), "")
        pattern = _LOOSE_BEHIND + pattern[len(look) :] if look else pattern
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


def number_screen(patterns: Sequence[tuple[str, bool]], near: str, where: str) -> Find:
    """The screen of a family of ``number`` rules, each pattern with whether it is a whole word's.

    A number begins inside its match.
    """
    union = "|".join(f"(?:{_widened(p, led=bool(near), whole=whole)})" for p, whole in patterns)
    return finder(compile_re2(f"(?i:{near})(?:{union})" if near else union, where))


def assign_screen(trigger: str, patterns: Sequence[str], where: str) -> Find:
    """The screen of a family of ``assign`` rules; group 1 is the trigger, which ends behind the sign of assignment."""
    union = "|".join(f"(?:{_without_groups(p)})" for p in patterns)
    return finder(compile_re2(f"({_without_groups(trigger)}){_SPACES}{_OPENERS}(?:{union})", where))
