"""Spans and what becomes of them: merging, and the text that leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sparkle.llm.output.rules import Rule
from sparkle.llm.verdict import Mode


class Span(NamedTuple):
    """A finding's place in the folded buffer."""

    start: int
    end: int
    rule: Rule
    continued: bool = False
    """True when it goes on with the span that ends where it starts: it adds no placeholder of its own."""


@dataclass(frozen=True, slots=True)
class Group:
    """Enforced spans that overlap."""

    start: int
    end: int
    placeholder: str
    """What stands for the group; empty when it continues the one before."""
    blocks: bool


def merge(spans: list[Span]) -> list[Group]:
    """Join overlapping enforced spans; the most severe rule names the group, then the leftmost.

    Spans that only touch stay apart, so that nothing that follows can change a group whose end is settled.
    """
    groups: list[Group] = []
    best: Span | None = None
    start = end = 0
    blocks = continued = False
    for span in sorted(
        (s for s in spans if s.rule.enforced), key=lambda s: (s.start, not s.continued, -s.end)
    ):
        if best is not None and span.start < end:
            end = max(end, span.end)
            if span.rule.rank > best.rule.rank:
                best = span
        else:
            if best is not None:
                groups.append(Group(start, end, "" if continued else best.rule.placeholder, blocks))
            best, start, end = span, span.start, span.end
            blocks, continued = False, span.continued
        blocks = blocks or span.rule.mode is Mode.BLOCK
    if best is not None:
        groups.append(Group(start, end, "" if continued else best.rule.placeholder, blocks))
    return groups
