"""The findings of one text, written down as they are settled."""

from __future__ import annotations

from operator import itemgetter

from sparkle.llm.output.held import Held
from sparkle.llm.output.rules import Rule
from sparkle.llm.output.spans import Span
from sparkle.llm.verdict import ALLOW, Finding, Mode, Verdict

_PLACE = itemgetter(0, 1)  # start and end
MAX_FINDINGS = 1000
"""Findings that are written down for one text; more are still enforced."""


class Notes:
    """Findings so far; one that goes on is extended, one that two patterns found is one."""

    __slots__ = ("_findings", "_last", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._findings: list[Finding] = []
        self._last: dict[str, int] = {}  # rule id to the index of its last finding

    @property
    def verdict(self) -> Verdict:
        """The judgement so far."""
        return Verdict.of(self._findings) if self._findings else ALLOW

    def add(self, rule: Rule, start: int, end: int) -> None:
        """Write down a finding by its place in the whole text, however many there are."""
        self._last[rule.spec.id] = len(self._findings)
        self._findings.append(rule.finding(start, end, self._path))

    def extend(self, rule: Rule, end: int) -> None:
        """Let the last finding of a rule go on up to ``end``."""
        place = self._last[rule.spec.id]
        self._findings[place] = rule.finding(self._findings[place].start, end, self._path)

    def take(self, spans: list[Span], held: Held, low: int, until: int, blocked_until: int = 0) -> None:
        """Write down the spans that begin before ``until``, and the blocking ones before ``blocked_until``.

        Spans are places in a buffer whose held part begins at ``low``.
        """
        shift = held.shift
        findings, lasts = self._findings, self._last
        for start, end, rule, continued in sorted(spans, key=_PLACE):
            if start >= (blocked_until if rule.mode is Mode.BLOCK and blocked_until else until):
                continue
            if shift is None:
                first = held.original(held.start(start - low))
                stop = held.original(held.end(end - low) - 1) + 1
            else:
                first, stop = start - low + shift, end - low + shift
            name = rule.spec.id
            place = lasts.get(name)
            if place is not None:
                last = findings[place]
                if continued or (first <= last.end and rule.spec.family == "leak"):
                    findings[place] = rule.finding(last.start, max(stop, last.end), self._path)
                    continue
                if first == last.start and stop == last.end:
                    continue
            if len(findings) < MAX_FINDINGS:
                lasts[name] = len(findings)
                findings.append(rule.finding(first, stop, self._path))
