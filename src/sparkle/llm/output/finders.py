"""How the rules of a family are looked for in one pass: in pieces, among numbers, behind an assignment."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from sparkle.llm.output.engine import Find
from sparkle.llm.output.modes import Quoted
from sparkle.llm.output.rules import Family, Rule
from sparkle.llm.output.screens import OVERLAP
from sparkle.llm.output.sieve import PATIENCE, Place
from sparkle.llm.output.spans import Span
from sparkle.llm.output.text import JOINED, run_start, segment_end, segment_start

_BEFORE_VALUE = re.compile(r"\s{0,3}([\"'“‘`*(\[【「《_]{0,3})")
_CLOSERS = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`", "「": "」", "【": "】", "《": "》"}
# What may follow a value in the same piece and still belong to it: a comma that no new key follows.
_VALUE_GOES_ON = re.compile(
    f"(?:[,;|{{}}\\[\\]](?=[{JOINED}])(?![A-Za-z_]+[\"']?[=:])(?![\"']))(?:[!#-&(-+\\-./0-:<-Z\\\\^-z~])+"
)
_FIRST_PIECE = 256
_TRIGGER_AND_LEAD = 256
"""More characters than the trigger of a value, what leads to it and its least length have."""
# No number goes on behind a digit, so one look turns down all places inside a chain of them.
_FIRST_SIGN = re.compile("(?<![0-9])[0-9(+A-Z]")
_BLANK = frozenset(" \n\t")


@dataclass(slots=True)
class Pass:
    """The part of a text that a pass is about, and what it finds. Values begin in ``text[low:high]``.

    ``data`` is ``text[base:]`` in UTF-8. ``judged`` takes the beginning of every value that was found; a finder stops
    once it has more of them than there is ``room`` for. Those turned down are no measure: whether they are looked at
    at all depends on how much of the text has come.
    """

    text: str
    low: int
    high: int
    base: int
    data: bytes
    room: float
    spans: list[Span] = field(default_factory=list[Span])
    judged: list[int] = field(default_factory=list[int])

    def each(self, find: Callable[[Family, Pass], None], families: Iterable[Family]) -> Pass:
        """What ``find`` finds for each of the families, each with all the room there is."""
        every = self.until(self.high)
        for family in families:
            one = self.until(self.high)
            find(family, one)
            every.spans += one.spans
            every.judged += one.judged
        return every

    def until(self, high: int) -> Pass:
        """A fresh pass over the same text up to ``high``."""
        return Pass(self.text, self.low, high, self.base, self.data, self.room)

    def before(self, high: int) -> list[Span]:
        """The findings that begin before ``high``."""
        return [span for span in self.spans if span.start < high]

    def matches(self, find: Find, back: int, group: int = 0) -> Iterator[tuple[int, int]]:
        """Where a screen (or its group) matches, in code points; searches overlap by ``back`` bytes."""
        data, base = self.data, self.base
        plain = len(data) == len(self.text) - base
        at, byte, place = 0, 0, base
        while (found := find(data, at)) is not None:
            start, end = found[group]
            if plain:
                yield start + base, end + base
            else:
                place += len(data[byte:start].decode())
                byte = start
                yield place, place + len(data[start:end].decode())
            at = max(start + 1, end - back)


def find_pieces(family: Family, work: Pass) -> None:
    """Values of a ``piece`` family: its rules run on each segment in which the screen matches.

    No value holds a soft end (rules are asked when they load), so one segment at a time is looked at, however long
    its run is.
    """
    if family.screen is None:
        return
    text, data, base, high = work.text, work.data, work.base, work.high
    plain = len(data) == len(text) - base
    at, byte, place, done, vain = 0, 0, base, 0, 0
    while len(work.judged) <= work.room and (found := family.screen(data, at)) is not None:
        if vain > PATIENCE and family.sieved:
            _find_sieved(family, work, done)
            return
        start, end = found[0]
        if plain:
            a, b = start + base, end + base
        else:
            place += len(data[byte:start].decode())
            byte, a = start, place
            b = place + len(data[start:end].decode())
        if a >= high:
            return
        if family.led:  # the words before a value lead to its segment, and may begin in another one
            at = max(start + 1, end)
            if b <= done:
                continue
            first = segment_start(text, a, done)
            done = segment_end(text, b)
        else:  # the first character may be the value's neighbour
            first = a + 1 if text[a] in _BLANK else segment_start(text, a + 1, done)
            done = segment_end(text, a + 1)
            at = max(start + 1, done - base if plain else byte + len(text[a:done].encode()))
        if done > work.low:
            vain += _judge_segment(family, work, first, text[first:done])


def _find_sieved(family: Family, work: Pass, low: int) -> None:
    """Values of a ``piece`` family that begin at ``low``, a segment's end, or behind it, by the sieves of its rules."""
    text, high = work.text, work.high
    if family.sieve is not None:
        done, screen = low, family.screen
        for match in family.sieve.finditer(text, max(low, work.low), high):
            start = match.start()
            if start >= done and screen is not None and len(work.judged) <= work.room:
                first, done = segment_start(text, start, done), segment_end(text, start)
                if screen(text[first:done].encode(), 0):
                    _judge_segment(family, work, first, text[first:done])
        return
    places = list(_sieved(family, text, max(low, work.low), high))
    if not all(rule.sieve and rule.sieve.exact for rule in family.rules):
        done = low
        for start in sorted({place.start for _, place in places}):
            if start >= done and len(work.judged) <= work.room:
                first, done = segment_start(text, start, done), segment_end(text, start)
                _judge_segment(family, work, first, text[first:done])
        return
    counted: set[int] = set()
    room: dict[int, float] = {}
    for rule, (start, end) in places:
        left = room.get(id(rule), work.room)
        accepted = rule.accepts(text, start, end) if left >= 0 else None
        if accepted:
            room[id(rule)] = left - 1
            if start not in counted:
                counted.add(start)
                work.judged += [start] * rule.spec.weight
            work.spans.append(Span(*accepted, rule))


def _sieved(family: Family, text: str, low: int, high: int) -> Iterator[tuple[Rule, Place]]:
    for rule in family.rules:
        for place in rule.sieve.places(text, low, high) if rule.sieve else ():
            yield rule, place


def _judge_segment(family: Family, work: Pass, first: int, segment: str) -> int:
    """Add the values in a segment that begins at ``first``; how many places were looked at in vain, at least one
    where there is no value.
    """
    part = segment.encode()
    plain = len(part) == len(segment)
    low, high, text = work.low, work.high, work.text
    known = family.which(part) if len(family.finders) > 1 else [0]
    if known is None:
        return 1
    vain = 0
    counted: set[int] = set()  # one value, however many rules look at it
    for index in sorted(known):
        rule, find, group = family.finders[index]
        at, left = 0, work.room
        while left >= 0 and (found := find(part, at)) is not None:
            start, end = found[group]
            # The last sign of a value may be the neighbour that the next one wants, as a sieve sees it, too.
            at = max(end - 1, found[0][0] + 1)
            if start < 0:
                continue
            if not plain:
                start, end = len(part[:start].decode()), len(part[:end].decode())
            start += first
            if low <= start < high:
                accepted = rule.accepts(text, start, end + first)
                if accepted:
                    left -= 1
                    if start not in counted:
                        counted.add(start)
                        work.judged += [start] * rule.spec.weight
                    work.spans.append(Span(*accepted, rule))
                else:
                    vain += 1
    return vain or not counted


def find_numbers(family: Family, work: Pass) -> None:
    """Values of a ``number`` family: every pattern at every place where one of them matches."""
    if family.screen is None:
        return
    text, high, union = work.text, work.high, family.any_number
    seen, vain = work.low, 0
    places: list[int] | None = None
    for a, b in work.matches(family.screen, OVERLAP):
        if a >= high or len(work.judged) > work.room:
            return
        if vain == PATIENCE and family.sieved:
            places = sorted({place.start for _, place in _sieved(family, text, seen, high)})
            if (
                not family.led
            ):  # words need not stand before a value, so the places are all there is to look at
                for start in places:
                    _judge_number(family, work, start, start + family.reach)
                return
        if places is not None and places[-1:] < [a]:
            return  # nothing that follows passes the sieve
        end, reach = min(b, high), b + family.reach
        at, before = max(a, seen), len(work.judged)
        if places is not None:
            for start in places[bisect_left(places, at) : bisect_left(places, end)]:
                _judge_number(family, work, start, reach)
        else:
            for sign in _FIRST_SIGN.finditer(text, at, end):  # one search would go on behind the end
                if union.match(text, sign.start(), reach):
                    _judge_number(family, work, sign.start(), reach)
        vain += len(work.judged) == before
        seen = max(seen, end)


def _judge_number(family: Family, work: Pass, start: int, reach: int) -> None:
    text, counted = work.text, False
    for rule in family.rules:
        for pattern in rule.bounded:
            exact = pattern.match(text, start, reach)
            if exact:
                accepted = rule.accepts(text, start, exact.end())
                if accepted:
                    if not counted:
                        work.judged += [start] * rule.spec.weight
                        counted = True
                    work.spans.append(Span(*accepted, rule))


def find_assigned(family: Family, work: Pass, quoted: Quoted, password: Rule | None) -> None:
    """Values behind a key word and a sign of assignment; ``quoted`` is entered where one begins with a quote."""
    if family.screen is None:
        return
    text, high, never = work.text, work.high, family.never
    mine: list[Span] = []
    vain = 0
    for start, at in work.matches(family.screen, 0, group=1):
        if at >= high or len(work.judged) > work.room:
            break
        if vain > PATIENCE and family.sieve is not None:
            for match in family.sieve.finditer(text, start, high + _TRIGGER_AND_LEAD):
                if match.end() >= high or len(work.judged) > work.room:
                    break
                if match.lastindex is None:
                    mine += _assigned(family, match.end(), work, quoted, mine, password)
            break
        found = (
            []
            if never and never.match(text, at, high)
            else _assigned(family, at, work, quoted, mine, password)
        )
        mine += found
        vain += not found
    work.spans += mine


def _assigned(
    family: Family, at: int, work: Pass, quoted: Quoted, earlier: list[Span], password: Rule | None
) -> list[Span]:
    text, high = work.text, work.high
    lead = _BEFORE_VALUE.match(text, at, high)
    start = lead.end() if lead else at
    if not work.low <= start < high or (earlier and start < earlier[-1].end):
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
        work.judged += [start] * rule.spec.weight
        opener = lead.group(1)[-1:] if lead else ""
        end = accepted[1]
        if rule is password and opener in _CLOSERS:
            quoted.open(_CLOSERS[opener])
            spans.append(Span(start, end, rule))
            spans += quoted.scan(text, end, high, rule)
            continue
        end = _value_end(text, start, end, high)
        spans.append(Span(start, end, rule))
    return spans


def _value_end(text: str, start: int, end: int, high: int) -> int:
    """The value with what a comma or bracket seems to cut off, where the piece is certain to go on."""
    first = run_start(text, start, max(0, start - _FIRST_PIECE))
    if start - first >= _FIRST_PIECE:
        return end
    while more := _VALUE_GOES_ON.match(text, end, min(high, first + _FIRST_PIECE)):
        end = more.end()
    return end
