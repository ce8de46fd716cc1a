"""From one text to the rules it meets, with spans in the text as it came."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sparkle.llm.safety.engine import Engine
from sparkle.llm.safety.layers import Layers, Readings
from sparkle.llm.safety.rules import CombinationSpec, RuleInfo
from sparkle.llm.safety.spares import Spares

CERTAIN = 4
"""Places where a rule met what nothing excuses; further ones need no excuse looked for."""

MAX_MATCHES = 64
"""Matches of one pattern in one reading that are looked at; more say nothing new."""

SIGNAL_WINDOW = 6_000
"""Signals count together only within this many code points, so that a long document does not add up by accident."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule met somewhere."""

    rule: str
    start: int
    end: int
    """Code points of the original text."""
    reading: str
    """How the text was read, e.g. ``text`` or ``url > base64``."""
    score: float


@dataclass(frozen=True, slots=True)
class SignalHit:
    """A signal met somewhere."""

    rule: str
    signal: str
    weight: float
    start: int
    end: int
    reading: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """Everything the rules say about one text."""

    readings: Readings
    hits: tuple[Hit, ...]
    signals: tuple[SignalHit, ...]


_NOTHING: tuple[()] = ()


class Judge:
    """Applies the engine's rules to all readings of a text. Immutable, thread-safe."""

    def __init__(self, engine: Engine, layers: Layers, off: Collection[str] = ()) -> None:
        self._engine = engine
        self._layers = layers
        self._off = frozenset(off)
        self._infos: Mapping[str, RuleInfo] = engine.book.infos
        self._spares = Spares(engine.book)
        self._combinations = tuple(c for c in engine.book.combinations if c.id not in self._off)

    def judge(self, text: str, *, indirect: bool) -> Judgement:
        """Judge ``text``; ``indirect`` adds the rules for instructions hidden in data, and spares nothing.

        Time is linear in ``len(text)``; memory is bounded by a multiple of it.
        """
        readings = self._layers.read(text)
        hits: list[Hit] = []
        signals: list[SignalHit] = []
        met: dict[str, list[tuple[int, int]]] = {}
        for view in readings.views:
            for probe, first, last in self._engine.candidates(view):
                target = probe.target
                if target.rule in self._off:
                    continue
                info = self._infos[target.rule]
                if (info.scope == "indirect" and not indirect) or (info.disguised and not view.disguised):
                    continue
                for begin, finish in probe.spans(view.data, MAX_MATCHES, first, last):
                    place = view.original(*view.characters(begin, finish))
                    if place is None:
                        continue  # nothing was hidden here: the plain reading has it, if it is anything
                    certain = len(met.get(target.rule, _NOTHING)) >= CERTAIN
                    if not (indirect or certain) and self._spares.covers(
                        target.rule, view.data, begin, finish
                    ):
                        continue
                    start, end = place
                    if target.signal:
                        signals.append(
                            SignalHit(target.rule, target.signal, target.weight, start, end, view.path())
                        )
                        continue
                    known = met.setdefault(target.rule, [])
                    if any(start < other[1] and other[0] < end for other in known):
                        continue  # the same words in another reading
                    known.append((start, end))
                    hits.append(Hit(target.rule, start, end, view.path(), info.score))
        if signals:
            hits.extend(hit for spec in self._combinations if (hit := _combine(spec, signals)) is not None)
        if not hits and not signals:
            return Judgement(readings, _NOTHING, _NOTHING)
        hits.sort(key=lambda hit: (hit.start, hit.end, hit.rule))
        return Judgement(readings, tuple(hits), tuple(signals))


def _combine(spec: CombinationSpec, signals: list[SignalHit]) -> Hit | None:
    """The window with the greatest sum of weights, each signal counted once, if it reaches the threshold."""
    events = sorted((hit for hit in signals if hit.rule == spec.id), key=lambda hit: hit.start)
    weights = {hit.signal: hit.weight for hit in events}
    if sum(weights.values()) < spec.threshold:
        return None
    present: dict[str, int] = {}
    total = 0.0
    left = 0
    best: tuple[float, int, int] | None = None
    for right, event in enumerate(events):
        if not present.get(event.signal):
            total += event.weight
        present[event.signal] = present.get(event.signal, 0) + 1
        while event.end - events[left].start > SIGNAL_WINDOW and left < right:
            gone = events[left]
            present[gone.signal] -= 1
            if not present[gone.signal]:
                total -= gone.weight
            left += 1
        if total >= spec.threshold - 1e-9 and (best is None or total > best[0] + 1e-9):
            best = (total, events[left].start, max(hit.end for hit in events[left : right + 1]))
    if best is None:
        return None
    return Hit(spec.id, best[1], best[2], "combination", spec.score)


__all__ = ["MAX_MATCHES", "SIGNAL_WINDOW", "Hit", "Judge", "Judgement", "SignalHit"]
