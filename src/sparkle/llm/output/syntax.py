"""Questions about a pattern that its syntax tree answers, asked when rules load."""

from __future__ import annotations

import re

# The standard library's own parser: private by name, stable for years, and the only typed alternative is a copy.
from re import _parser as _sre  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
from typing import Any, cast

from sparkle.llm.output.text import JOINED, SOFT

_ENDS = (
    *(c for c in map(chr, range(0x80)) if not re.match(f"[{JOINED}]", c) or re.match(f"[{SOFT}]", c)),
    *("\u00a0", "\u3000", "\u4e00", "\uff0c", "\u3002", "\U0001f600"),
)


def _parse(pattern: str) -> Any:
    return cast(Any, _sre).parse(pattern)


def bounded_width(pattern: str) -> int:
    """Longest text the pattern can match, in code points; a very large number when there is no bound."""
    return int(_parse(pattern).getwidth()[1])


def crosses_piece(pattern: str) -> bool:
    """Whether group 1 (the whole pattern without one) can match a character that ends a piece.

    What stands outside group 1 may look at one character on either side and is not part of the value.
    """
    tree = _parse(pattern)
    groups = [node for node in tree if str(node[0]) == "SUBPATTERN" and node[1][0] == 1]
    return any(_may_end(node) for node in (groups or tree))


def _may_end(node: Any) -> bool:
    name, argument = str(node[0]), node[1]
    if name == "LITERAL":
        return chr(argument) in _ENDS
    if name in ("ANY", "NOT_LITERAL"):
        return True
    if name == "IN":
        return any(_in_class(argument, c) for c in _ENDS)
    if name == "BRANCH":
        return any(_may_end(n) for branch in argument[1] for n in branch)
    if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        return any(_may_end(n) for n in argument[2])
    if name == "SUBPATTERN":
        return any(_may_end(n) for n in argument[-1])
    return name != "AT"


def _in_class(items: Any, char: str) -> bool:
    negated, found = False, False
    for name, argument in ((str(i[0]), i[1]) for i in items):
        if name == "NEGATE":
            negated = True
        elif name == "LITERAL":
            found = found or chr(argument) == char
        elif name == "RANGE":
            found = found or argument[0] <= ord(char) <= argument[1]
        else:  # a class such as \w: ask the engine about this one
            letter = {"CATEGORY_DIGIT": r"\d", "CATEGORY_WORD": r"\w", "CATEGORY_SPACE": r"\s"}.get(
                str(argument), "."
            )
            found = found or re.match(letter, char) is not None
    return found != negated
