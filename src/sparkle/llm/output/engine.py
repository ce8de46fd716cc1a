"""The one place that talks to google-re2, which ships without types.

Every pattern that may meet a long text runs here: RE2 is linear in the text whatever the pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

import re2  # pyright: ignore[reportMissingTypeStubs]  # google-re2 ships none

from sparkle.errors import PolicyError

_MAX_MEM = 64 << 20  # bytes an automaton may use: far above what our patterns need


class Match(Protocol):
    """The part of a match that is used here."""

    def span(self, group: int = 0) -> tuple[int, int]:
        """Start and end of a group, (-1, -1) when it took no part."""
        ...


class Pattern(Protocol):
    """A compiled pattern over ``str`` (code-point offsets) or ``bytes`` (byte offsets)."""

    @property
    def groups(self) -> int:
        """Number of capturing groups."""
        ...

    def search(self, text: str | bytes, pos: int = 0) -> Match | None:
        """Leftmost match at or after ``pos``."""
        ...

    def fullmatch(self, text: str | bytes) -> Match | None:
        """Match of the whole text."""
        ...

    def finditer(self, text: str | bytes, pos: int = 0) -> Iterator[Match]:
        """All matches, left to right, without overlap."""
        ...


Find = Callable[[bytes, int], "list[tuple[int, int]] | None"]
"""See :func:`finder`."""


def _options() -> Any:
    options = cast(Any, re2).Options()
    options.max_mem = _MAX_MEM
    options.log_errors = False
    return options


def compile_re2(pattern: str, where: str) -> Pattern:
    """Compile with RE2.

    Raises:
        PolicyError: the pattern is not RE2 syntax; ``where`` names the rule or policy entry.
    """
    try:
        return cast(Pattern, cast(Any, re2).compile(pattern, _options()))
    except cast(type[Exception], cast(Any, re2).error) as error:
        raise PolicyError(f"{where}: bad RE2 pattern: {error}") from None


def finder(pattern: Pattern) -> Find:
    """The leftmost match in UTF-8 bytes at or after a place, as cheaply as RE2's binding gives it.

    Three times as fast a match as ``finditer``, whose generator and match objects are Python code. Returns the spans of
    the match and its groups in bytes, ``None`` when there is none.
    """
    match = cast("Callable[[Any, bytes, int, int], list[tuple[int, int]]]", cast(Any, pattern)._regexp.Match)
    anywhere = cast(Any, re2)._Anchor.UNANCHORED

    def find(data: bytes, at: int) -> list[tuple[int, int]] | None:
        spans = match(anywhere, data, at, len(data))
        return spans if spans[0][0] >= 0 else None

    return find


def prefix(pattern: Pattern) -> Callable[[bytes, int, int], int]:
    """Where the match of a pattern ends that begins exactly at a place in UTF-8 bytes; -1 when there is none.

    The text is looked at up to the second place only.
    """
    match = cast("Callable[[Any, bytes, int, int], list[tuple[int, int]]]", cast(Any, pattern)._regexp.Match)
    here = cast(Any, re2)._Anchor.ANCHOR_START

    def end_of(data: bytes, at: int, end: int) -> int:
        return match(here, data, at, end)[0][1]

    return end_of


def compile_set(patterns: Sequence[str]) -> Callable[[bytes], list[int] | None]:
    """One automaton that says which of the patterns occur anywhere in a UTF-8 text; ``None`` when none does.

    An RE2 set answers "no match" when its memory budget is too small for its automaton. That is decided by the
    size of the program when the automaton is first used, so it is made to prove itself here on each pattern.
    """
    inner = cast(Any, re2).Set.SearchSet(_options())
    for pattern in patterns:
        inner.Add(pattern)
    inner.Compile()
    return cast(Callable[[bytes], "list[int] | None"], inner.Match)
