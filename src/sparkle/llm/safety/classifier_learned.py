"""The classifier that Sparkle ships: fast tier on every reading, deep tier where the fast one is unsure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import exp, log
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from sparkle.errors import ConfigurationError
from sparkle.llm.safety.classifier import ClassifierScore, Preset
from sparkle.llm.safety.classifier_deep import DeepTier, available
from sparkle.llm.safety.classifier_encoder import MissingExtraError
from sparkle.llm.safety.classifier_fast import FastModel, Window
from sparkle.llm.safety.classifier_features import says_enough, token_spans
from sparkle.llm.safety.classifier_file import ModelFileError, parse_model
from sparkle.llm.safety.classifier_segments import places, segments, size, touched
from sparkle.llm.safety.fold import readable_table
from sparkle.llm.safety.resources import read_data
from sparkle.llm.safety.views import View

MODEL_FOLDER = "model"
SCORES: Mapping[Preset, float] = {"strict": 0.25, "balanced": 0.5, "permissive": 0.75}
"""The score from which each preset blocks."""

MAX_SPANS = 3
_SPAN_TOKENS = 16
_UNDECIDED = 0.24
"""Highest score of a text that waits for the deep tier's word, below that of every preset."""
_EXPLAINED = SCORES["strict"]
"""Scores below it block under no preset, and need no explanation."""


class Thresholds(Struct, frozen=True, forbid_unknown_fields=True):
    """Logits from which each preset takes a text for an attack; ascending."""

    strict: float
    balanced: float
    permissive: float

    def __post_init__(self) -> None:
        if not self.strict < self.balanced < self.permissive:
            raise ValueError("thresholds must ascend from strict to permissive")

    def score(self, logit: float) -> float:
        """The score in (0, 1) of a logit: each preset's threshold has the preset's score, between them it is linear."""
        score = SCORES["strict"]
        if logit < self.balanced:
            share = (logit - self.balanced) / (self.strict - self.balanced)
        else:
            score = SCORES["permissive"]
            share = (logit - self.balanced) / (self.permissive - self.balanced)
        at = share * log(score / (1 - score))
        return 1 / (1 + exp(-max(min(at, 12.0), -12.0)))


class Stage(Struct, frozen=True, forbid_unknown_fields=True):
    """How logits become scores: with the fast tier alone, or with both."""

    direct: Thresholds
    indirect: Thresholds

    def score(self, logit: float, *, indirect: bool) -> float:
        """The score of a text of a user's, or of a document's."""
        return (self.indirect if indirect else self.direct).score(logit)


class Calibration(Struct, frozen=True, forbid_unknown_fields=True):
    """``data/model/calibration.json``, written by ``training.calibrate``."""

    fast: Stage
    both: Stage
    weight_fast: float
    weight_deep: float
    offset: float
    """The logit of both tiers is ``weight_fast * fast + weight_deep * deep + offset``."""
    ask_from: float
    """Fast logit from which the deep tier is asked."""
    ask_bytes: Annotated[int, Meta(ge=100, le=20_000)]
    """UTF-8 bytes of a text that it reads at most: the segments that the fast tier finds most suspicious."""


class LearnedClassifier:
    """Both tiers with their calibration. Thread-safe, deterministic for a given set of loaded tiers.

    Args:
        fast: the fast tier.
        calibration: thresholds and weights.
        deep: the deep tier, if it may be asked.
    """

    def __init__(self, fast: FastModel, calibration: Calibration, deep: DeepTier | None = None) -> None:
        self.fast = fast
        self.calibration = calibration
        self._deep = deep

    @property
    def has_deep(self) -> bool:
        """Whether there is a deep tier to ask."""
        return self._deep is not None

    def threshold(self, preset: Preset, *, indirect: bool) -> float:
        """The score at which the preset takes a text for an attack; the same for all kinds of text."""
        del indirect
        return SCORES[preset]

    def score(self, view: View, *, indirect: bool) -> ClassifierScore | None:
        """The likelihood that a reading is an attack; see :meth:`sparkle.llm.safety.classifier.Classifier.score`."""
        if not says_enough(view.data):
            return None
        windows = self.fast.windows(view.data)
        if not windows:
            return None
        data = self.calibration
        best = max(windows, key=lambda window: window.logit)
        said = None
        wanted = self._deep is not None and best.logit >= data.ask_from
        if self._deep is not None and wanted:
            said = self._ask(self._deep, view, windows)
        if said is None:
            score = data.fast.score(best.logit, indirect=indirect)
            if wanted and score < SCORES["permissive"]:
                # The deep tier will be asked in a moment and may well disagree; until then only what is plain blocks.
                score = min(score, _UNDECIDED)
            spans = self._spans(view, best) if score >= _EXPLAINED else ()
            return ClassifierScore(score, spans, provisional=wanted)
        deep, span = said
        logit = data.weight_fast * best.logit + data.weight_deep * deep + data.offset
        score = data.both.score(logit, indirect=indirect)
        return ClassifierScore(score, (span,) if score >= _EXPLAINED else ())

    def wants_deep(self, view: View) -> bool:
        """Whether the fast tier is unsure enough of a reading for the deep tier to be asked."""
        windows = self.fast.windows(view.data)
        return bool(windows) and max(window.logit for window in windows) >= self.calibration.ask_from

    def ask_deep(self, view: View) -> float | None:
        """The deep tier's logit, whatever the fast tier says; ``None`` without a deep tier or while it is loading."""
        if self._deep is None:
            return None
        said = self._ask(self._deep, view, self.fast.windows(view.data))
        return None if said is None else said[0]

    def _ask(self, deep: DeepTier, view: View, windows: list[Window]) -> tuple[float, tuple[int, int]] | None:
        """The deep tier's logit and the segment that speaks most for it; ``None`` while it is not ready."""
        cut = segments(view.source)
        if size(view.source) > self.calibration.ask_bytes:
            suspects = sorted(windows, key=lambda window: -window.logit)
            where = places(view, ((window.first, window.last) for window in suspects))
            cut = [cut[index] for index in touched(view.source, cut, where, self.calibration.ask_bytes)]
        table = readable_table()
        logits = deep.logits([view.source[start:end].translate(table) for start, end in cut])
        if logits is None:
            return None
        best = max(range(len(cut)), key=logits.__getitem__)
        return logits[best], cut[best]

    def _spans(self, view: View, window: Window) -> tuple[tuple[int, int], ...]:
        """The runs of tokens of a window that weigh most, in code points."""
        places = token_spans(view.data)[window.first : window.last]
        weights = self.fast.evidence(view.data, window)
        found: list[tuple[int, int]] = []
        for first, last in _heaviest(weights):
            found.append(view.characters(places[first][0], places[last - 1][1]))
        return tuple(sorted(found))


def _heaviest(weights: list[float]) -> list[tuple[int, int]]:
    """Up to :data:`MAX_SPANS` runs ``first:last`` with the greatest sums, none overlapping, none much
    below the first.
    """
    average = sum(weights) / len(weights)
    left = [weight - average for weight in weights]
    found: list[tuple[int, int]] = []
    greatest = 0.0
    for _ in range(MAX_SPANS):
        best, total, start, run = 0.0, 0.0, 0, (0, 0)
        for index, weight in enumerate(left):
            if total <= 0 or index - start >= _SPAN_TOKENS:
                total, start = 0.0, index
            total += weight
            if total > best:
                best, run = total, (start, index + 1)
        if best <= 0 or best < greatest / 2:
            break
        greatest = max(greatest, best)
        found.append(run)
        left[run[0] : run[1]] = [float("-inf")] * (run[1] - run[0])
    return found


@lru_cache(maxsize=1)
def fast_parts() -> tuple[FastModel, Calibration]:
    fast = FastModel(parse_model(read_data(f"{MODEL_FOLDER}/fast.bin"), "fast.bin"))
    try:
        calibration = msgspec.json.decode(read_data(f"{MODEL_FOLDER}/calibration.json"), type=Calibration)
    except msgspec.DecodeError as error:
        raise ModelFileError(f"calibration.json: {error}") from None
    return fast, calibration


@lru_cache(maxsize=4)
def _deep_tier(folder: Path | None) -> DeepTier:
    return DeepTier(parse_model(read_data(f"{MODEL_FOLDER}/deep.bin"), "deep.bin"), folder)


def shipped_classifier(
    deep: str = "auto", *, folder: Path | None = None, wait: bool = False
) -> LearnedClassifier:
    """The classifier with the weights of the package; files are read once a process.

    Args:
        deep: ``auto`` asks the deep tier if the extra is installed, ``on`` demands it, ``off`` never asks.
        folder: where the unpacked encoder is kept; ``None``: the user's cache folder.
        wait: load the deep tier now instead of when a text first needs it.

    Raises:
        ModelFileError: a file of the package is damaged.
        MissingExtraError: ``deep`` is ``on`` and the extra is not installed.
    """
    fast, calibration = fast_parts()
    if deep == "off" or (deep == "auto" and not available()):
        return LearnedClassifier(fast, calibration)
    if not available():
        raise MissingExtraError()
    tier = _deep_tier(folder)
    if wait:
        try:
            tier.load()
        except OSError as error:
            if deep == "on":
                raise ConfigurationError(f"cannot unpack the deep tier: {error.strerror}") from None
            return LearnedClassifier(fast, calibration)
    return LearnedClassifier(fast, calibration, tier)


__all__ = ["MODEL_FOLDER", "Calibration", "LearnedClassifier", "Stage", "Thresholds", "shipped_classifier"]
