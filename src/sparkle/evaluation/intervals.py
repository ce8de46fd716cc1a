"""Intervals and quantiles: what a figure from so many rows can and cannot say. No dependencies, deterministic."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

_Z95 = 1.959963984540054
_DRAWS = 2_000
_TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Interval:
    """A share with its 95% interval, all in [0, 1]."""

    value: float
    low: float
    high: float


def wilson(hits: int, total: int) -> Interval | None:
    """The share ``hits / total`` with Wilson's 95% score interval; ``None`` for a total of 0.

    Raises:
        ValueError: ``hits`` is not within ``0..total``.
    """
    if not 0 <= hits <= total:
        raise ValueError("hits must lie between 0 and total")
    if total == 0:
        return None
    share = hits / total
    z2 = _Z95 * _Z95
    scale = 1 + z2 / total
    middle = (share + z2 / (2 * total)) / scale
    half = _Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total)) / scale
    return Interval(share, max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share)))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` of a sorted, non-empty sequence lies, interpolated between neighbours."""
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def middle_95(draws: Sequence[float]) -> tuple[float, float]:
    """The bounds between which the middle 95% of ``draws`` lie."""
    ordered = sorted(draws)
    return percentile(ordered, _TAIL), percentile(ordered, 1 - _TAIL)


def allowed(negatives: int, rate: float) -> int:
    """How many of ``negatives`` harmless texts may be flagged at a false-positive rate of at most ``rate``."""
    return math.floor(rate * negatives + 1e-9)


def recall_at(
    attacks: Sequence[float], harmless: Sequence[float], rate: float, seed: int = 0
) -> tuple[Interval, float] | None:
    """Recall where at most ``rate`` of the harmless texts are flagged, and the threshold: flagged is ``score > it``.

    A score that an attack shares with the harmless text at the threshold is no detection: ties count against the
    detector. The interval holds both the recall's uncertainty and the threshold's, by simulation: which harmless text
    becomes the threshold in a resample of them follows a beta distribution, the recall there another.

    Args:
        attacks: scores of the attacks, in any order.
        harmless: scores of the harmless texts, in any order.
        rate: false-positive rate in [0, 1].
        seed: of the simulation.

    Returns:
        ``None`` where there are no attacks or no harmless texts.
    """
    if not attacks or not harmless:
        return None
    falling = sorted(harmless, reverse=True)
    rising = sorted(attacks)
    count = len(harmless)
    kept = allowed(count, rate)

    def recall(rank: int) -> tuple[int, float]:
        threshold = falling[rank] if rank < count else -math.inf
        return _above(rising, threshold), threshold

    caught, threshold = recall(kept)
    value = caught / len(rising)
    rng = random.Random(seed)  # noqa: S311  a simulation, not a secret
    draws: list[float] = []
    for _ in range(_DRAWS):
        rank = int(rng.betavariate(kept + 1, count - kept) * count) if kept < count else count
        hits, _ = recall(min(rank, count))
        draws.append(rng.betavariate(hits + 0.5, len(rising) - hits + 0.5))
    low, high = middle_95(draws)
    return Interval(value, min(low, value), max(high, value)), threshold


def _above(rising: Sequence[float], threshold: float) -> int:
    return len(rising) - bisect_right(rising, threshold)


def auc(attacks: Sequence[float], harmless: Sequence[float]) -> float | None:
    """How often an attack scores above a harmless text, ties counting half; ``None`` without one of the kinds."""
    if not attacks or not harmless:
        return None
    marked = sorted([(score, 1) for score in attacks] + [(score, 0) for score in harmless])
    wins = 0.0
    below = at = 0
    while at < len(marked):
        end = at
        while end < len(marked) and marked[end][0] == marked[at][0]:
            end += 1
        ups = sum(kind for _, kind in marked[at:end])
        downs = end - at - ups
        wins += ups * (below + downs / 2)
        below += downs
        at = end
    return wins / (len(attacks) * len(harmless))


def exact_mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value that two detectors err alike, from the rows that only one of them got right."""
    total = only_first + only_second
    if total == 0:
        return 1.0
    few = min(only_first, only_second)
    tail = sum(math.exp(_log_choose(total, k) - total * math.log(2)) for k in range(few + 1))
    return min(1.0, 2 * tail)


def _log_choose(total: int, few: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(few + 1) - math.lgamma(total - few + 1)
