"""Spans and what becomes of them: merging, and the text that leaves."""

from __future__ import annotations

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


class Group(NamedTuple):
    """What leaves no text: enforced spans that overlap, or one that continues an earlier one."""

    start: int
    end: int
    placeholder: str
    """What stands for the group; empty when it continues the one before."""
    blocks: bool


def merge(spans: list[Span]) -> list[Group]:
    """Join overlapping enforced spans; the most severe rule names the group, then the leftmost.

    Spans that only touch stay apart, so that nothing that follows can change a group whose end is settled. A span
    that continues is no part of a group (a stream may see it in other portions than a whole text); what begins inside
    it is covered by it and adds no placeholder.
    """
    enforced = sorted((s for s in spans if s.rule.enforced), key=lambda s: (s.start, not s.continued, -s.end))
    groups: list[Group] = []
    covered = -1
    members: list[Span] = []
    end = 0
    for span in enforced:
        if span.continued:
            continue
        if members and span.start >= end:
            groups.append(_group(members, end))
            members = []
        members.append(span)
        end = max(end, span.end) if len(members) > 1 else span.end
    if members:
        groups.append(_group(members, end))
    continued = [Group(s.start, s.end, "", blocks=False) for s in enforced if s.continued]
    if not continued:
        return groups
    joined: list[Group] = []
    for group in sorted([*groups, *continued], key=lambda g: (g.start, bool(g.placeholder))):
        if not group.placeholder:
            covered = max(covered, group.end)
            joined.append(group)
        else:
            joined.append(group._replace(placeholder="") if group.start < covered else group)
    return joined


def _group(members: list[Span], end: int) -> Group:
    if len(members) == 1:  # almost always
        rule = members[0].rule
        return Group(members[0].start, end, rule.placeholder, rule.mode is Mode.BLOCK)
    worst = max(members, key=lambda s: (s.rule.rank, -s.start))
    return Group(
        members[0].start, end, worst.rule.placeholder, any(s.rule.mode is Mode.BLOCK for s in members)
    )
