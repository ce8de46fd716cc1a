"""What a check says: the types that every guard returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from msgspec import Struct


class Action(StrEnum):
    """What happens to the checked text."""

    ALLOW = "allow"
    REDACT = "redact"
    BLOCK = "block"


class Mode(StrEnum):
    """What the policy makes of a rule."""

    BLOCK = "block"
    REDACT = "redact"
    WATCH = "watch"
    OFF = "off"


class Severity(StrEnum):
    """How bad it is if the finding is right."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


Layer = Literal["input", "output"]


class Finding(Struct, frozen=True, gc=False):
    """One rule's hit. Never holds the text it was found in."""

    rule: str
    """Rule id, e.g. ``injection.override.en_ignore``."""
    category: str
    """Rule family, e.g. ``injection.override`` or ``pii.email``; policies may name it instead of the rule."""
    severity: Severity
    layer: Layer
    start: int
    """First code point of the span in the original text (0-based)."""
    end: int
    """One past the last code point of the span."""
    score: float
    """Confidence in [0, 1]."""
    mode: Mode
    """What the policy makes of this rule: ``block``, ``redact`` or ``watch``."""
    reason: str
    """A sentence a person understands, in English. Never quotes the text."""
    reason_zh: str
    """The same in Chinese."""
    path: str = ""
    """Where the text stood, e.g. ``messages[2].content[0].text``; empty for a bare text."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one layer on one text or conversation."""

    action: Action = Action.ALLOW
    score: float = 0.0
    """How likely this is an attack, in [0, 1]: the highest score among the enforced findings (watched ones do not
    count) and, on the input side, the classifier's likelihood, which is told for allowed texts too."""
    findings: tuple[Finding, ...] = field(default=())

    @staticmethod
    def of(findings: Iterable[Finding], likelihood: float = 0.0) -> Verdict:
        """Combine findings: ``block`` beats ``redact`` beats ``allow``; watched findings change nothing.

        ``likelihood`` is what the score is at least.
        """
        items = tuple(findings)
        if not items and likelihood == 0.0:
            return ALLOW
        action, score = Action.ALLOW, likelihood
        for f in items:
            if f.mode is Mode.BLOCK:
                action = Action.BLOCK
            elif f.mode is Mode.REDACT and action is Action.ALLOW:
                action = Action.REDACT
            if f.mode in (Mode.BLOCK, Mode.REDACT) and f.score > score:
                score = f.score
        return Verdict(action, score, items)


ALLOW = Verdict()
"""The verdict on a text in which nothing was found."""
