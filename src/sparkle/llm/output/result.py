"""What the guard says about a whole text."""

from __future__ import annotations

from msgspec import Struct

from sparkle.llm.verdict import Verdict


class OutputResult(Struct, frozen=True):
    """The judgement of a whole text."""

    verdict: Verdict
    text: str
    """What may leave: redacted; when blocked, what stood before the first blocking span."""
