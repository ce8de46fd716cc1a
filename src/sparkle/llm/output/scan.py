"""One pass over a settled part of a text: triggers, then only the rules of the families that were triggered."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from dataclasses import dataclass, field

from sparkle.llm.output.active import ActiveScanner, ActiveState
from sparkle.llm.output.finders import Pass, find_assigned, find_numbers, find_pieces
from sparkle.llm.output.modes import KeyBody, Quoted
from sparkle.llm.output.rules import WIDEST_NUMBER, Family, RuleSet
from sparkle.llm.output.spans import Span
from sparkle.llm.output.text import piece_at
from sparkle.llm.output.triggers import Triggers

LOOK_BEHIND = 128
"""Characters to the left in which a trigger may begin."""
MAX_JUDGED = 4096
"""Values that are found in one text; what follows is withheld (see docs/decisions/0056)."""
MAX_ELEMENTS = 8192
"""Likewise the beginnings of HTML elements."""
_ELEMENT = re.compile("<[A-Za-z/!?]")


_BUILTIN = frozenset({"active", "private_key"})
"""Families whose findings count as values."""


@dataclass(slots=True)
class ScanState:
    """What the pass remembers from the text before."""

    key: KeyBody = field(default_factory=KeyBody)
    quoted: Quoted = field(default_factory=Quoted)
    active: ActiveState = field(default_factory=ActiveState)
    judged: int = 0
    """Values found so far."""
    elements: int = 0
    """Beginnings of HTML elements so far."""
    crowded: bool = False
    """Whether they are too many: nothing that follows leaves."""

    def copy(self) -> ScanState:
        """An independent copy."""
        return ScanState(self.key.copy(), self.quoted.copy(), self.active.copy(), self.judged, self.elements)

    @property
    def idle(self) -> bool:
        """Whether a text without a trigger has no finding."""
        return not (self.key.place or self.quoted.closer or self.active.busy)


class Scanner:
    """The rules of one policy, ready to run; holds no state of a text and may be shared by threads."""

    def __init__(self, rules: RuleSet, *, markdown: bool = True) -> None:
        self._families = tuple(f for f in rules.families if f.trigger)
        self._match = Triggers([(f.hint, f.trigger) for f in self._families])
        self._key_rule = rules.by_id.get("secret.private_key")
        self._password_rule = rules.by_id.get("secret.password")
        self._active = ActiveScanner(rules, markdown=markdown)
        crowded = rules.by_id.get("secret.crowded")
        bounded = crowded is not None and crowded.enforced
        self._most = MAX_JUDGED if bounded else math.inf
        self._most_elements = MAX_ELEMENTS if bounded else math.inf

    def triggered(self, data: bytes) -> list[int] | None:
        """Indices of the families whose trigger occurs in a UTF-8 text; ``None`` when there is none."""
        return self._match(data)

    def hinted(self, data: bytes) -> bool:
        """Whether a trigger may occur in a UTF-8 text, which costs less than to know which."""
        return self._match.hinted(data)

    def scan(
        self, text: str, low: int, high: int, known: list[int] | None, state: ScanState, *, final: bool
    ) -> tuple[list[Span], int, ScanState]:
        """Spans that begin in ``text[low:high]``, how far they are settled, and the state at that point.

        ``high`` must be settled (:func:`sparkle.llm.output.text.settled`). The point returned is lower when a number
        reaches over ``high``, a Markdown code span is not closed yet, or the text is too crowded to be judged from
        there on.
        """
        families = [self._families[k] for k in sorted(known or ())]  # a set names them in any order
        names = {family.name for family in families}
        room = self._most - state.judged
        base = max(0, low - LOOK_BEHIND)
        work = Pass(text, low, high, base, text[base:].encode(), room)
        numbers = work.each(find_numbers, (f for f in families if f.finder == "number"))
        pieces = work.each(find_pieces, (f for f in families if f.finder == "piece"))
        judged = numbers.judged + pieces.judged
        ends = [_crowded(judged, room, text, low)]
        most = self._most_elements - state.elements
        if "active" in names and text.count("<", low, high) > most:
            ends.append(_crowded([m.start() for m in _ELEMENT.finditer(text, low, high)], most, text, low))
        crowded = any(end is not None for end in ends)
        high = min([high, *(end for end in ends if end is not None)])
        places = sorted((span.start, span.end) for span in numbers.spans)
        while True:
            work = work.until(_uncrossed(text, low, high, places))
            high, after = work.high, state.copy()
            self._modes(names, families, work, after)
            found, settled = self._active.scan(
                text, low, high, after.active, triggered="active" in names, final=final
            )
            if settled < high:
                high, crowded = settled, False
                continue
            work.spans += found
            work.judged += [s.start for s in work.spans if not s.continued and s.rule.spec.family in _BUILTIN]
            work.judged += [at for at in judged if at < high]
            end = _crowded(work.judged, room, text, low)
            if end is None:
                break
            high, crowded = end, True
        after.judged += len(work.judged)
        if "active" in names and text.find("<", low, high) >= 0:
            after.elements += len(_ELEMENT.findall(text, low, high))
        after.crowded = crowded
        return [*pieces.before(high), *work.spans, *numbers.before(high)], high, after

    def _modes(self, names: set[str], families: list[Family], work: Pass, after: ScanState) -> None:
        if self._password_rule is not None:
            work.spans += after.quoted.scan(work.text, work.low, work.high, self._password_rule)
        for family in families:
            if family.finder == "assign":
                find_assigned(family, work, after.quoted, self._password_rule)
        if self._key_rule is not None and (after.key.place or "private_key" in names):
            triggered = "private_key" in names
            work.spans += after.key.scan(work.text, work.low, work.high, self._key_rule, triggered=triggered)


def _uncrossed(text: str, low: int, high: int, numbers: list[tuple[int, int]]) -> int:
    """The last start of a piece up to ``high`` that no number (start and end, sorted) reaches over."""
    known = bisect_left(numbers, (high,))
    while True:
        # No number is wider, so only the last ones that begin before ``high`` can reach over it.
        first = bisect_left(numbers, (high - WIDEST_NUMBER,), 0, known)
        crossing = next((start for start, end in numbers[first:known] if end > high), None)
        if crossing is None:
            return high
        high = piece_at(text, low, crossing)
        known = bisect_left(numbers, (high,), 0, known)


def _crowded(judged: list[int], room: float, text: str, low: int) -> int | None:
    """Start of the piece from which on there is too much to judge; ``None`` when there is room for all."""
    if len(judged) <= room:
        return None
    return piece_at(text, low, sorted(judged)[int(room)])
