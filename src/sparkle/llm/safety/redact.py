"""Taking out what the policy wants redacted, without touching the caller's objects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sparkle.llm.verdict import Finding, Mode

PLACEHOLDER = "[REMOVED:{category}]"
"""What stands in the place of a redacted span."""

Keys = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Edit:
    """A finding to redact in the text at ``keys`` of the messages, e.g. ``(2, "content", 0, "text")``."""

    keys: Keys
    finding: Finding


def redact(text: str, findings: Iterable[Finding]) -> str:
    """``text`` with the spans of findings in mode ``redact`` replaced; overlapping spans become one."""
    spans = sorted(
        (f.start, f.end, f.category) for f in findings if f.mode is Mode.REDACT and f.end > f.start
    )
    if not spans:
        return text
    pieces: list[str] = []
    at = 0
    index = 0
    while index < len(spans):
        start, end, category = spans[index]
        index += 1
        while index < len(spans) and spans[index][0] < end:
            end = max(end, spans[index][1])
            index += 1
        pieces += [text[at:start], PLACEHOLDER.format(category=category)]
        at = end
    return "".join([*pieces, text[at:]])


def redact_messages(messages: Sequence[Mapping[str, Any]], edits: Iterable[Edit]) -> list[Mapping[str, Any]]:
    """A copy of the messages with the edits made; only the containers on the way to an edit are copied."""
    by_place: dict[Keys, list[Finding]] = defaultdict(list)
    for edit in edits:
        by_place[edit.keys].append(edit.finding)
    copy: list[Mapping[str, Any]] = list(messages)
    for keys, findings in by_place.items():
        _replace(cast("list[Any]", copy), keys, findings)
    return copy


def _replace(root: list[Any], keys: Keys, findings: list[Finding]) -> None:
    holder: Any = root
    for key in keys[:-1]:
        inner: Any = holder[key]
        # Copying again what an earlier edit copied costs little; sharing it with the caller would cost trust.
        holder[key] = dict(cast("Mapping[str, Any]", inner)) if isinstance(inner, Mapping) else list(inner)
        holder = holder[key]
    holder[keys[-1]] = redact(holder[keys[-1]], findings)
