"""The findings of one text, written down as they are settled."""

from __future__ import annotations

from sparkle.llm.output.held import Held
from sparkle.llm.output.spans import Span
from sparkle.llm.verdict import ALLOW, Finding, Mode, Verdict

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

    def take(self, spans: list[Span], held: Held, low: int, until: int, blocked_until: int = 0) -> None:
        """Write down the spans that begin before ``until``, and the blocking ones before ``blocked_until``.

        Spans are places in a buffer whose held part begins at ``low``.
        """
        for span in sorted(spans, key=lambda s: (s.start, s.end)):
            rule = span.rule
            if span.start >= (blocked_until if rule.mode is Mode.BLOCK and blocked_until else until):
                continue
            start = held.original(held.start(span.start - low))
            end = held.original(held.end(span.end - low) - 1) + 1
            place = self._last.get(rule.spec.id)
            if place is not None:
                last = self._findings[place]
                if span.continued or (rule.spec.family == "leak" and start <= last.end):
                    self._findings[place] = rule.finding(last.start, max(end, last.end), self._path)
                    continue
                if (start, end) == (last.start, last.end):
                    continue
            if len(self._findings) < MAX_FINDINGS:
                self._last[rule.spec.id] = len(self._findings)
                self._findings.append(rule.finding(start, end, self._path))
