"""Two detectors on the same rows: whether their difference is more than chance."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkle.errors import DatasetError
from sparkle.evaluation.detector import Judged
from sparkle.evaluation.figures import MAIN_RATE, Scored
from sparkle.evaluation.intervals import allowed, exact_mcnemar, middle_95
from sparkle.evaluation.rows import Row, read_objects

THRESHOLD = 0.5
"""Where a file of scores says neither ``flagged`` nor ``action``, such a score counts as flagged."""

_MAX_DRAWS, _MIN_DRAWS = 1_000, 200
_WORK = 8_000_000
"""Rows looked at in all draws together: bounds the time to some seconds, however many rows there are."""


@dataclass(frozen=True, slots=True)
class Discordance:
    """Rows of one kind that exactly one of two detectors got right, each at its own setting."""

    rows: int
    only_first: int
    only_second: int
    p_value: float
    """Exact two-sided McNemar test of "they err alike"."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The first detector against the second, on the same rows."""

    first: str
    second: str
    attacks: Discordance
    harmless: Discordance
    difference: float | None
    """Recall of the first at :data:`~sparkle.evaluation.figures.MAIN_RATE` minus that of the second."""
    low: float | None
    high: float | None
    """95% interval of the difference from a paired bootstrap over the rows."""


def read_scores(path: str | Path, rows: Sequence[Row]) -> list[Scored]:
    """Another detector's scores of ``rows``, in their order.

    Args:
        path: ``{"score": number, "flagged": bool? or "action": str?, "ms": number?}`` a line, e.g. the output of
            ``sparkle guard scan`` or of ``sparkle evaluate --output``. A line with ``error`` counts as score 0.
        rows: what was scored.

    Raises:
        DatasetError: a line has no score, or there are more or fewer lines than rows.
        OSError: the file cannot be read.
    """
    said = [_score(fields, f"{path}:{number}") for number, fields in read_objects(path)]
    if len(said) != len(rows):
        raise DatasetError(
            f"{path}: has {len(said)} scores for {len(rows)} rows; give the same rows in order"
        )
    return [Scored(row, judged) for row, judged in zip(rows, said, strict=True)]


def _score(fields: dict[str, Any], where: str) -> Judged:
    if "error" in fields and "score" not in fields:
        return Judged(0.0, False)
    score = fields.get("score")
    if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
        raise DatasetError(f"{where}: there must be a finite number named score")
    flagged, action = fields.get("flagged"), fields.get("action")
    if flagged is not None and not isinstance(flagged, bool):
        raise DatasetError(f"{where}: flagged must be true or false")
    if flagged is None:
        flagged = action != "allow" if isinstance(action, str) else score >= THRESHOLD
    spent = fields.get("ms", 0.0)
    return Judged(float(score), flagged, (), float(spent) if isinstance(spent, int | float) else 0.0)


def compare(
    names: tuple[str, str], first: Sequence[Scored], second: Sequence[Scored], *, seed: int = 0
) -> Comparison:
    """Compare two detectors; ``first[i]`` and ``second[i]`` must be about the same row."""
    attacks = [i for i, entry in enumerate(first) if entry.row.attack]
    harmless = [i for i, entry in enumerate(first) if not entry.row.attack]
    caught = _discordance(attacks, lambda i: first[i].judged.flagged, lambda i: second[i].judged.flagged)
    passed = _discordance(
        harmless, lambda i: not first[i].judged.flagged, lambda i: not second[i].judged.flagged
    )
    if not attacks or not harmless:
        return Comparison(*names, caught, passed, None, None, None)
    ours, theirs = ([entry.judged.score for entry in scored] for scored in (first, second))

    def gap(drawn_attacks: Sequence[int], drawn_harmless: Sequence[int]) -> float:
        return _recall(ours, drawn_attacks, drawn_harmless) - _recall(theirs, drawn_attacks, drawn_harmless)

    rng = random.Random(seed)  # noqa: S311  resampling, not a secret
    count = max(_MIN_DRAWS, min(_MAX_DRAWS, _WORK // len(first)))
    draws = [
        gap(rng.choices(attacks, k=len(attacks)), rng.choices(harmless, k=len(harmless)))
        for _ in range(count)
    ]
    low, high = middle_95(draws)
    return Comparison(*names, caught, passed, gap(attacks, harmless), low, high)


def _discordance(
    rows: Sequence[int], first: Callable[[int], bool], second: Callable[[int], bool]
) -> Discordance:
    only_first = sum(first(i) and not second(i) for i in rows)
    only_second = sum(second(i) and not first(i) for i in rows)
    return Discordance(len(rows), only_first, only_second, exact_mcnemar(only_first, only_second))


def _recall(scores: Sequence[float], attacks: Sequence[int], harmless: Sequence[int]) -> float:
    falling = sorted((scores[i] for i in harmless), reverse=True)
    kept = allowed(len(falling), MAIN_RATE)
    threshold = falling[kept] if kept < len(falling) else -math.inf
    return sum(scores[i] > threshold for i in attacks) / len(attacks)
