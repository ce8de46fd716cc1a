"""The place of a learned classifier in the chain: after the rules, on the same readings.

:class:`sparkle.llm.safety.classifier_learned.LearnedClassifier` is the one that Sparkle ships; any object that keeps
the protocol may stand in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from sparkle.llm.safety.layers import Readings
from sparkle.llm.safety.views import View

MODEL_DIRECT = "injection.model.direct"
MODEL_INDIRECT = "injection.model.indirect"

Preset = Literal["strict", "balanced", "permissive"]
"""How much evidence blocks: ``strict`` the least."""

MAX_READINGS = 8
"""Readings of one text that are scored; a text that hides deeper is found by the rules for layers."""


@dataclass(frozen=True, slots=True)
class ClassifierScore:
    """What a classifier says about one reading."""

    score: float
    """Likelihood of an attack in [0, 1], calibrated so that 0.5 is the operating point of the preset ``balanced``."""
    spans: tuple[tuple[int, int], ...] = field(default=())
    """Code points of the reading that speak most for it; empty: all of it."""
    provisional: bool = False
    """Whether a part that will have a say is still being loaded."""


class Classifier(Protocol):
    """A learned layer. Must be thread-safe, and deterministic once its parts are loaded."""

    def score(self, view: View, *, indirect: bool) -> ClassifierScore | None:
        """Judge one reading.

        Args:
            view: ``view.data`` is the folded text, ``view.source`` the text with letter case kept.
            indirect: the text is data (a tool's answer, a retrieved document). ``None``: no opinion.
        """
        ...

    def threshold(self, preset: Preset, *, indirect: bool) -> float:
        """The score at which the preset takes a text for an attack."""
        ...


@dataclass(frozen=True, slots=True)
class ClassifierHit:
    """A place in a reading that the classifier takes for an attack, in code points of the original."""

    rule: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the classifier says about all readings of a text."""

    likelihood: float
    """The highest score of a reading, in [0, 1]."""
    hits: tuple[ClassifierHit, ...]
    """Empty below the preset's threshold."""
    provisional: bool = False
    """Whether the same text may be judged otherwise soon, because a part is still being loaded."""


NO_OPINION = Opinion(0.0, ())


def classify(classifier: Classifier, readings: Readings, *, indirect: bool, preset: Preset) -> Opinion:
    """Score the readings of a text; the highest speaks for it.

    Where most of a reading was decoded or put together, only what came of it is scored: signs that no word stands in
    look like nothing that was ever harmless.
    """
    best: tuple[ClassifierScore, View] | None = None
    provisional = False
    views = readings.views
    if len(views) > 1:
        views = tuple(_meaningful(views))
    for view in views[:MAX_READINGS]:
        said = classifier.score(view, indirect=indirect)
        if said is None:
            continue
        provisional |= said.provisional
        if best is None or said.score > best[0].score:
            best = (said, view)
    if best is None:
        return NO_OPINION
    said, view = best
    likelihood = min(max(said.score, 0.0), 1.0)
    if likelihood < classifier.threshold(preset, indirect=indirect):
        return Opinion(likelihood, (), provisional)
    return Opinion(likelihood, tuple(_hits(said, view, likelihood, indirect)), provisional)


def _meaningful(views: tuple[View, ...]) -> Iterator[View]:
    """The readings without those that another one undoes, and without what merely respells such a code."""
    codes = {id(view.parent) for view in views if view.undoes_parent()}
    for view in views:
        parent = view.parent
        if parent is not None and id(parent) in codes and not view.undoes_parent() and view.respells_parent():
            codes.add(id(view))
        if id(view) not in codes:
            yield view


def _hits(said: ClassifierScore, view: View, score: float, indirect: bool) -> Iterator[ClassifierHit]:
    rule = MODEL_INDIRECT if indirect else MODEL_DIRECT
    whole = view.place(0, len(view.source))
    places = [view.place(start, end) for start, end in said.spans] or [whole]
    for start, end in sorted(set(places)):
        yield ClassifierHit(rule, start, end, score)
