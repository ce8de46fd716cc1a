"""Trying every evasion on every seed, and counting what a detector still finds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from sparkle.errors import DatasetError, InvalidRequestError
from sparkle.evaluation.detector import Detector
from sparkle.evaluation.intervals import Interval, wilson
from sparkle.redteam.evasion import Evasion, Messages, said
from sparkle.redteam.seeds import Seed

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the seeds under one evasion."""

    evasion: Evasion
    attacks: int
    """Mutations of attacks that were found when written plainly."""
    found: int
    missed: tuple[str, ...]
    """Seeds whose mutation passed."""
    harmless: int
    """Mutations of harmless seeds that passed when written plainly."""
    flagged: tuple[str, ...]
    """Harmless seeds whose mutation was flagged."""

    @property
    def recall(self) -> Interval | None:
        """Share of the mutated attacks that are still found; ``None``: the evasion applies to no seed."""
        return wilson(self.found, self.attacks)

    @property
    def drop(self) -> float | None:
        """How much recall fell: the same seeds written plainly are all found."""
        return None if self.recall is None else 1 - self.recall.value

    @property
    def false_positives(self) -> Interval | None:
        """Share of the mutated harmless seeds that are flagged."""
        return wilson(len(self.flagged), self.harmless)


@dataclass(frozen=True, slots=True)
class Campaign:
    """All outcomes, and what the seeds were worth."""

    detector: str
    attacks: int
    plainly_found: tuple[str, ...]
    """Attacks found unmutated: only they are mutated."""
    plainly_missed: tuple[str, ...]
    harmless: int
    plainly_flagged: tuple[str, ...]
    """Harmless seeds flagged unmutated: they are left out."""
    outcomes: tuple[Outcome, ...]

    def worst(self, drop: float) -> tuple[Outcome, ...]:
        """The outcomes in which recall fell by more than ``drop``, the greatest first."""
        fell = [o for o in self.outcomes if o.drop is not None and o.drop > drop + 1e-9]
        return tuple(sorted(fell, key=lambda o: (-(o.drop or 0), o.evasion.name)))


def run_campaign(
    seeds: Sequence[Seed],
    evasions: Sequence[Evasion],
    detector: Detector,
    *,
    seed: int = 0,
    variants: int = 1,
    progress: Progress | None = None,
) -> Campaign:
    """Mutate every seed in every way and have each mutation judged.

    Args:
        seeds: attacks and harmless texts; judged plainly first.
        evasions: the ways.
        detector: who judges.
        seed: of all chance; the same seed gives the same mutations, whichever evasions are chosen.
        variants: mutations of each seed in each way; more than one only matters to evasions that use chance.
        progress: told (evasions done, all evasions).

    Raises:
        DatasetError: no attack is found when written plainly, so that nothing can be told.
    """
    plain = [_flagged(detector, said(one.role, one.text)) for one in seeds]
    attacks = [one for one, found in zip(seeds, plain, strict=True) if one.attack and found]
    harmless = [one for one, found in zip(seeds, plain, strict=True) if not one.attack and not found]
    if not attacks:
        raise DatasetError(
            "no attack among the seeds is found when written plainly: there is nothing to hide"
        )
    outcomes: list[Outcome] = []
    for number, evasion in enumerate(evasions, 1):
        outcomes.append(_try(evasion, attacks, harmless, detector, seed, variants))
        if progress is not None:
            progress(number, len(evasions))
    missed = [one.id for one, found in zip(seeds, plain, strict=True) if one.attack and not found]
    alarms = [one.id for one, found in zip(seeds, plain, strict=True) if not one.attack and found]
    return Campaign(
        detector.name,
        len(attacks) + len(missed),
        tuple(one.id for one in attacks),
        tuple(missed),
        len(harmless) + len(alarms),
        tuple(alarms),
        tuple(outcomes),
    )


def _try(
    evasion: Evasion,
    attacks: Sequence[Seed],
    harmless: Sequence[Seed],
    detector: Detector,
    seed: int,
    variants: int,
) -> Outcome:
    def judged(one: Seed) -> list[bool]:
        said: dict[str, bool] = {}
        for variant in range(variants):
            messages = evasion.mutate(one, chance(seed, evasion.name, one.id, variant))
            if messages is not None and (key := repr(messages)) not in said:
                said[key] = _flagged(detector, messages)
        return list(said.values())

    hits = [(one.id, judged(one)) for one in attacks]
    alarms = [(one.id, judged(one)) for one in harmless]
    return Outcome(
        evasion,
        sum(len(found) for _, found in hits),
        sum(sum(found) for _, found in hits),
        tuple(name for name, found in hits for one in found if not one),
        sum(len(found) for _, found in alarms),
        tuple(name for name, found in alarms for one in found if one),
    )


def chance(seed: int, *names: object) -> Random:
    """A source of chance that depends on nothing but its arguments."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return Random(int.from_bytes(digest[:8], "big"))  # noqa: S311  repeatable on purpose


def _flagged(detector: Detector, messages: Messages) -> bool:
    try:
        return detector.judge_messages(messages).flagged
    except InvalidRequestError:
        return True  # refused before any rule: it does not reach the model
