"""What the guard says about a whole text."""

from __future__ import annotations

from dataclasses import dataclass

from sparkle.llm.verdict import Verdict


@dataclass(frozen=True, slots=True)
class OutputResult:
    """The judgement of a whole text."""

    verdict: Verdict
    text: str
    """What may leave: redacted; when blocked, what stood before the first blocking span."""
