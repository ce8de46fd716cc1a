"""From judged rows to figures: recall, false positives, recall at fixed rates, by group, latency, worst mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sparkle.evaluation.detector import Judged
from sparkle.evaluation.intervals import Interval, auc, percentile, recall_at, wilson
from sparkle.evaluation.rows import Row

RATES = (0.005, 0.01, 0.02, 0.05)
"""False-positive rates at which recall is told."""

MAIN_RATE = 0.01
"""The rate whose threshold is applied to every group."""

_LENGTHS = (300, 2_000, 8_000)
"""Upper bounds of the groups that latency is told by, in code points."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A row and what the detector said."""

    row: Row
    judged: Judged


@dataclass(frozen=True, slots=True)
class RecallAt:
    """Recall at a threshold that flags at most ``rate`` of the harmless rows."""

    rate: float
    recall: Interval
    threshold: float
    """Rows that score higher are flagged."""


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """The figures of some of the rows."""

    name: str
    attacks: int
    harmless: int
    recall: Interval | None
    """Attacks flagged at the detector's own setting; ``None``: no attacks here."""
    false_positives: Interval | None
    """Harmless rows flagged at the detector's own setting; ``None``: none here."""
    recall_at_main: Interval | None
    """Attacks above the threshold that flags :data:`MAIN_RATE` of *all* harmless rows."""
    flagged_at_main: Interval | None
    """Harmless rows above it."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of judging rows of up to ``chars`` code points (``None``: any longer ones)."""

    chars: int | None
    rows: int
    p50: float
    p95: float
    p99: float
    worst: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that is told about a detector on some rows."""

    detector: str
    total: GroupFigures
    precision: Interval | None
    """Attacks among the flagged rows. Depends on how many of each kind the files hold."""
    auc: float | None
    recall_at: tuple[RecallAt, ...]
    groups: tuple[GroupFigures, ...]
    scripts: tuple[GroupFigures, ...]
    latency: tuple[Latency, ...]
    misses: tuple[Scored, ...]
    """Attacks that passed, the lowest scores first."""
    false_alarms: tuple[Scored, ...]
    """Harmless rows that were flagged, the highest scores first."""


def figures(
    name: str,
    scored: Sequence[Scored],
    *,
    group_of: Callable[[Row], str],
    script_of: Callable[[str], str],
    worst: int = 10,
    seed: int = 0,
) -> Figures:
    """Compute all figures.

    Args:
        name: the detector's name.
        scored: the rows and what it said about each.
        group_of: which group of the table a row belongs to, e.g. its source.
        script_of: the writing of a text.
        worst: misses and false alarms to keep.
        seed: of the simulated intervals.
    """
    attacks = [s.judged.score for s in scored if s.row.attack]
    harmless = [s.judged.score for s in scored if not s.row.attack]
    at: list[RecallAt] = []
    for rate in RATES:
        found = recall_at(attacks, harmless, rate, seed)
        if found is not None:
            at.append(RecallAt(rate, *found))
    main = next((entry.threshold for entry in at if entry.rate == MAIN_RATE), None)
    flagged = [s for s in scored if s.judged.flagged]
    misses = sorted(
        (s for s in scored if s.row.attack and not s.judged.flagged),
        key=lambda s: (s.judged.score, s.row.file, s.row.line),
    )
    alarms = sorted(
        (s for s in flagged if not s.row.attack), key=lambda s: (-s.judged.score, s.row.file, s.row.line)
    )
    return Figures(
        name,
        _group("all", scored, main),
        wilson(sum(s.row.attack for s in flagged), len(flagged)),
        auc(attacks, harmless),
        tuple(at),
        tuple(_groups(scored, lambda s: group_of(s.row), main)),
        tuple(_groups(scored, lambda s: script_of(s.row.text), main)),
        tuple(_latency(scored)),
        tuple(misses[:worst]),
        tuple(alarms[:worst]),
    )


def _groups(
    scored: Iterable[Scored], key: Callable[[Scored], str], main: float | None
) -> Iterable[GroupFigures]:
    by_name: dict[str, list[Scored]] = {}
    for entry in scored:
        by_name.setdefault(key(entry), []).append(entry)
    return (_group(name, by_name[name], main) for name in sorted(by_name))


def _group(name: str, scored: Sequence[Scored], main: float | None) -> GroupFigures:
    attacks = [s.judged for s in scored if s.row.attack]
    harmless = [s.judged for s in scored if not s.row.attack]

    def above(kind: Sequence[Judged]) -> Interval | None:
        return None if main is None else wilson(sum(j.score > main for j in kind), len(kind))

    return GroupFigures(
        name,
        len(attacks),
        len(harmless),
        wilson(sum(j.flagged for j in attacks), len(attacks)),
        wilson(sum(j.flagged for j in harmless), len(harmless)),
        above(attacks),
        above(harmless),
    )


def _latency(scored: Sequence[Scored]) -> Iterable[Latency]:
    low = -1
    for bound in (*_LENGTHS, None):
        spent = sorted(
            s.judged.milliseconds
            for s in scored
            if len(s.row.text) > low and (bound is None or len(s.row.text) <= bound)
        )
        if spent and spent[-1] > 0:
            yield Latency(
                bound,
                len(spent),
                percentile(spent, 0.5),
                percentile(spent, 0.95),
                percentile(spent, 0.99),
                spent[-1],
            )
        low = bound if bound is not None else low
