"""Which families of rules a text may concern: all triggers in a few passes of RE2.

One automaton for all triggers would remember, after every digit, which of forty patterns have come how far. On text
whose digits do not repeat nearly every character then needs a state that was never built before, and a megabyte of
random figures takes four seconds. So a family may have a *hint* in the first automaton, which remembers little: a few
digits, or the words that must stand before a value. Only where a hint occurs the triggers of its families are looked
for, in an automaton of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparkle.llm.output.engine import compile_set

_Match = Callable[[bytes], list[int] | None]


class Triggers:
    """Says which of some triggers occur in a UTF-8 text; holds no state of a text."""

    __slots__ = ("_first", "_groups", "_sure")

    def __init__(self, triggers: Sequence[tuple[str, str]]) -> None:
        """Compile ``(hint, trigger)`` pairs; without a hint (empty) a trigger is looked for at once.

        Raises:
            PolicyError: a pattern is not RE2 syntax.
        """
        sure = [k for k, (hint, _) in enumerate(triggers) if not hint]
        hints = list(dict.fromkeys(hint for hint, _ in triggers if hint))
        self._first = compile_set([*(triggers[k][1] for k in sure), *hints])
        self._sure = sure
        self._groups: list[tuple[_Match, list[int]]] = []
        for hint in hints:
            members = [k for k, (own, _) in enumerate(triggers) if own == hint]
            self._groups.append((compile_set([triggers[k][1] for k in members]), members))

    def hinted(self, data: bytes) -> bool:
        """Whether a trigger may occur; ``False`` when none does. Cheaper than to ask which."""
        return self._first(data) is not None

    def __call__(self, data: bytes) -> list[int] | None:
        """Indices of the triggers that occur, in no order; ``None`` when none does."""
        hit = self._first(data)
        if hit is None:
            return None
        sure = self._sure
        known: list[int] = []
        for k in hit:
            if k < len(sure):
                known.append(sure[k])
            else:
                match, members = self._groups[k - len(sure)]
                known += [members[m] for m in match(data) or ()]
        return known or None
