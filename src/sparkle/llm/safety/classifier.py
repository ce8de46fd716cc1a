"""The place of a learned classifier in the chain: after the rules, on the same readings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from sparkle.llm.safety.fold import readable_table
from sparkle.llm.safety.layers import Readings

MODEL_DIRECT = "injection.model.direct"
MODEL_INDIRECT = "injection.model.indirect"

THRESHOLD = 0.5
"""A classifier maps its own operating point to this score."""


@dataclass(frozen=True, slots=True)
class ClassifierScore:
    """What a classifier says about one reading."""

    score: float
    """Probability of an attack in [0, 1], calibrated so that 0.5 is the operating point."""
    spans: tuple[tuple[int, int], ...] = field(default=())
    """Code points of the reading that speak for it; empty: all of it."""


class Classifier(Protocol):
    """A learned layer. Must be thread-safe and deterministic."""

    def score(self, text: str, *, indirect: bool) -> ClassifierScore | None:
        """Judge one reading: invisible characters gone, full-width forms plain, letter case kept, layers decoded.

        ``indirect``: the text is data (a tool's answer, a retrieved document). ``None``: no opinion.
        """
        ...


@dataclass(frozen=True, slots=True)
class ClassifierHit:
    """A reading that the classifier takes for an attack, in code points of the original."""

    rule: str
    start: int
    end: int
    score: float


def classify(classifier: Classifier, readings: Readings, *, indirect: bool) -> Iterator[ClassifierHit]:
    """The highest-scoring reading at or above :data:`THRESHOLD`, if any."""
    best: tuple[ClassifierScore, int] | None = None
    table = readable_table()
    for index, view in enumerate(readings.views):
        text = view.source if view.source.isascii() else view.source.translate(table)
        said = classifier.score(text, indirect=indirect)
        if said is not None and said.score >= THRESHOLD and (best is None or said.score > best[0].score):
            best = (said, index)
    if best is None:
        return
    said, index = best
    view = readings.views[index]
    for start, end in said.spans or ((0, len(view.source)),):
        begin, finish = view.original(start, end) or (start, end)
        yield ClassifierHit(MODEL_INDIRECT if indirect else MODEL_DIRECT, begin, finish, min(said.score, 1.0))
