"""One pass over a settled part of a text: triggers, then only the rules of the families that were triggered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from sparkle.llm.output.active import ActiveScanner, ActiveState
from sparkle.llm.output.engine import compile_re2, compile_set
from sparkle.llm.output.modes import KeyBody, Quoted
from sparkle.llm.output.rules import Family, Rule, RuleSet
from sparkle.llm.output.spans import Span
from sparkle.llm.output.text import JOINED, piece_at, run_end, run_start

LOOK_BEHIND = 128
"""Characters to the left in which a trigger may begin."""
_NUMBER_BACK = 8  # a trigger stands no further behind the beginning of its number
_BEFORE_VALUE = re.compile(r"\s{0,3}([\"'“‘`*(\[【「《_]{0,3})")
_CLOSERS = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`", "「": "」", "【": "】", "《": "》"}
# What may follow a value in the same piece and still belong to it: a comma that no new key follows.
_VALUE_GOES_ON = re.compile(
    f"(?:[,;|{{}}\\[\\]](?=[{JOINED}])(?![A-Za-z_]+[\"']?[=:])(?![\"']))(?:[!#-&(-+\\-./0-:<-Z\\\\^-z~])+"
)
_FIRST_PIECE = 256


@dataclass(slots=True)
class ScanState:
    """What the pass remembers from the text before."""

    key: KeyBody = field(default_factory=KeyBody)
    quoted: Quoted = field(default_factory=Quoted)
    active: ActiveState = field(default_factory=ActiveState)

    def copy(self) -> ScanState:
        """An independent copy."""
        return ScanState(self.key.copy(), self.quoted.copy(), self.active.copy())

    @property
    def idle(self) -> bool:
        """Whether a text without a trigger has no finding."""
        return not (self.key.place or self.quoted.closer or self.active.busy)


class Scanner:
    """The rules of one policy, ready to run; holds no state of a text and may be shared by threads."""

    def __init__(self, rules: RuleSet, *, markdown: bool = True) -> None:
        self._families = tuple(f for f in rules.families if f.trigger)
        self._triggers = tuple(compile_re2(f.trigger, f"output family {f.name}") for f in self._families)
        self._match = compile_set([f.trigger for f in self._families])
        self._key_rule = rules.by_id.get("secret.private_key")
        self._password_rule = rules.by_id.get("secret.password")
        self._active = ActiveScanner(rules, markdown=markdown)

    def triggered(self, data: bytes) -> list[int] | None:
        """Indices of the families whose trigger occurs in a UTF-8 text; ``None`` when there is none."""
        return self._match(data)

    def scan(
        self, text: str, low: int, high: int, known: list[int] | None, state: ScanState, *, final: bool
    ) -> tuple[list[Span], int, ScanState]:
        """Spans that begin in ``text[low:high]``, how far they are settled, and the state at that point.

        ``high`` must be settled (:func:`sparkle.llm.output.text.settled`). The point returned is lower when a number
        reaches over ``high`` or a Markdown code span is not closed yet.
        """
        base = max(0, low - LOOK_BEHIND)
        data = text[base:].encode()
        hits = {self._families[k].name: k for k in known or ()}
        numbers: list[Span] = []
        for k in hits.values():
            family = self._families[k]
            if family.finder == "number":
                numbers += self._numbers(family, self._hits(k, data, base), text, low, high)
        while True:
            crossing = [s.start for s in numbers if s.start < high < s.end]
            if not crossing:
                break
            high = piece_at(text, low, min(crossing))
        after = state.copy()
        spans: list[Span] = []
        for k in hits.values():
            family = self._families[k]
            if family.finder == "piece":
                spans += self._pieces(family, self._hits(k, data, base), text, low, high)
        spans += self._modes(hits, data, base, text, low, high, after)
        found, settled = self._active.scan(
            text, low, high, after.active, triggered="active" in hits, final=final
        )
        if settled < high:
            return self.scan(text, low, settled, known, state, final=final)
        spans += found
        spans += [s for s in numbers if s.start < high]
        return spans, high, after

    def _hits(self, k: int, data: bytes, base: int) -> Iterator[tuple[int, int]]:
        plain = data.isascii()
        bytes_seen, chars_seen = 0, base
        for match in self._triggers[k].finditer(data):
            start, end = match.span()
            if plain:
                yield start + base, end + base
                continue
            chars_seen += len(data[bytes_seen:start].decode())
            width = len(data[start:end].decode())
            yield chars_seen, chars_seen + width
            bytes_seen, chars_seen = end, chars_seen + width

    def _pieces(
        self, family: Family, hits: Iterator[tuple[int, int]], text: str, low: int, high: int
    ) -> list[Span]:
        spans: list[Span] = []
        done = 0
        for a, b in hits:
            if b <= done or a >= high:
                continue
            start = run_start(text, a, done)
            done = run_end(text, b)
            if done <= low:
                continue
            part = text[start:done]
            for rule in family.rules:
                if rule.spec.hints and not any(hint in part for hint in rule.spec.hints):
                    continue
                for s, e in _values(rule, part):
                    if low <= s + start < high:
                        accepted = rule.accepts(text, s + start, e + start)
                        if accepted:
                            spans.append(Span(*accepted, rule))
        return spans

    def _numbers(
        self, family: Family, hits: Iterator[tuple[int, int]], text: str, low: int, high: int
    ) -> list[Span]:
        spans: list[Span] = []
        for a, b in hits:
            if b <= low or a >= high:
                continue
            if not family.any_number.search(text, max(0, a - _NUMBER_BACK, low), b + family.reach):
                continue
            for rule in family.rules:
                for pattern in rule.bounded:
                    position = max(0, a - _NUMBER_BACK, low)
                    while match := pattern.search(text, position, b + family.reach):
                        s, e = match.span()
                        if s >= min(b, high):
                            break
                        position = s + 1
                        accepted = rule.accepts(text, s, e)
                        if accepted:
                            spans.append(Span(*accepted, rule))
        return spans

    def _modes(
        self, hits: dict[str, int], data: bytes, base: int, text: str, low: int, high: int, after: ScanState
    ) -> list[Span]:
        spans: list[Span] = []
        if self._password_rule is not None:
            spans += after.quoted.scan(text, low, high, self._password_rule)
        for k in hits.values():
            family = self._families[k]
            if family.finder == "assign":
                values: list[Span] = []
                for _, b in self._hits(k, data, base):
                    values += self._assigned(family, b, text, low, high, after.quoted, values)
                spans += values
        if self._key_rule is not None and (after.key.place or "private_key" in hits):
            spans += after.key.scan(text, low, high, self._key_rule, triggered="private_key" in hits)
        return spans

    def _assigned(
        self, family: Family, at: int, text: str, low: int, high: int, quoted: Quoted, earlier: list[Span]
    ) -> list[Span]:
        lead = _BEFORE_VALUE.match(text, at, high)
        start = lead.end() if lead else at
        if not low <= start < high or (earlier and start < earlier[-1].end):
            return []
        if family.name == "password" and start < quoted.covered:
            return []
        spans: list[Span] = []
        for rule in family.rules:
            match = rule.bounded[0].match(text, start, high)
            if match is None:
                continue
            accepted = rule.accepts(text, start, match.end())
            if accepted is None:
                continue
            opener = lead.group(1)[-1:] if lead else ""
            end = accepted[1]
            if rule is self._password_rule and opener in _CLOSERS:
                quoted.open(_CLOSERS[opener])
                spans.append(Span(start, end, rule))
                spans += quoted.scan(text, end, high, rule)
                continue
            end = self._value_end(text, start, end, high)
            spans.append(Span(start, end, rule))
        return spans

    @staticmethod
    def _value_end(text: str, start: int, end: int, high: int) -> int:
        """The value with what a comma or bracket seems to cut off, where the piece is certain to go on."""
        first = run_start(text, start, max(0, start - _FIRST_PIECE))
        if start - first >= _FIRST_PIECE:
            return end
        while more := _VALUE_GOES_ON.match(text, end, min(high, first + _FIRST_PIECE)):
            end = more.end()
        return end


def _values(rule: Rule, part: str) -> Iterator[tuple[int, int]]:
    for pattern in rule.patterns:
        group = 1 if pattern.groups else 0
        position = 0
        while match := pattern.search(part, position):
            start, end = match.span(group)
            if start >= 0:
                yield start, end
            position = max(end, match.span()[0] + 1)
